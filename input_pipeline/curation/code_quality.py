"""Rules for source files: Chen et al. 2021 (Codex, arXiv 2107.03374, section
3.1) and Li et al. 2023 (StarCoder, arXiv 2305.06161).

Legend of array names: L lines, D documents.
"""

import numpy as np

from input_pipeline.curation import characters
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import CodeQuality
from input_pipeline.curation.rules import first_rule, fraction
from input_pipeline.curation.stage import Outcome

RULES = ('long_lines', 'longest_line', 'few_alphanumeric')


def apply(columns: Columns, options: CodeQuality) -> Outcome:
  """Leaves out files that look generated, or like data."""
  length_L = columns.stop_L - columns.start_L
  longest_D = np.zeros(columns.num_documents, np.int64)
  np.maximum.at(longest_D, columns.doc_L, length_L)
  # What follows the last line end is a line only if there is something.
  last_D = np.cumsum(columns.num_lines_D) - 1
  lines_D = columns.num_lines_D - (length_L[last_D] == 0)
  mean_D = fraction(columns.sum_D(columns.doc_L, length_L), lines_D)
  alphanumeric_D = columns.count_class_D(characters.ALNUM)
  broken = (
    mean_D > options.max_mean_line_length,
    longest_D > options.max_line_length,
    fraction(alphanumeric_D, columns.length_D) < options.min_alphanumeric,
  )
  return Outcome(rule_D=first_rule(columns.num_documents, broken))
