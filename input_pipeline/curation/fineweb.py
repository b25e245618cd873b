"""The rules of FineWeb (Penedo et al. 2024, arXiv 2406.17557, section 3.6).

Legend of array names: L lines that are not blank, D documents.
"""

from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import FineWeb
from input_pipeline.curation.gopher import duplicate_lines
from input_pipeline.curation.rules import first_rule, fraction, member
from input_pipeline.curation.stage import Outcome

RULES = (
  'few_punctuated_lines', 'short_lines', 'duplicate_line_characters',
  'many_lines_per_word',
)  # fmt: skip
_END = '.?!…\'"”’»。？！।؟'


def apply(columns: Columns, options: FineWeb) -> Outcome:
  """Leaves out lists and other texts that are made of short lines.

  A line is measured without the space around it; blank lines count only as
  line ends.
  """
  lines = columns.content_L
  doc_L = columns.doc_L[lines]
  start_L = columns.start_W[columns.first_word_L[lines]]
  stop_L = columns.stop_W[columns.first_word_L[lines + 1] - 1]
  ends_L = member(columns.points_C[stop_L - 1], _END)
  short_L = stop_L - start_L <= options.short_line_length
  lines_D = columns.sum_D(doc_L)
  _, duplicate_D = duplicate_lines(columns)
  line_ends_D = columns.num_lines_D - 1
  broken = (
    fraction(columns.sum_D(doc_L[ends_L]), lines_D)
    < options.min_punctuated_lines,
    fraction(columns.sum_D(doc_L[short_L]), lines_D) > options.max_short_lines,
    duplicate_D > options.max_duplicate_line_characters,
    fraction(line_ends_D, columns.num_words_D) > options.max_lines_per_word,
  )
  return Outcome(rule_D=first_rule(columns.num_documents, broken))
