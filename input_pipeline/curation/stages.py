"""The table of the stages of curation, in the order in which they run.

The order is that of the papers. Text is normalised before anything counts its
characters. The rules of Gopher judge a document as it was written, before C4
and RefinedWeb take lines out of it, as in RefinedWeb (section 3.2,
document-wise before line-wise) and FineWeb (Gopher, then C4); FineWeb's own
rules judge what is left. Privacy comes last, so that no rule counts the marks
that it writes.
"""

from input_pipeline.curation import (
  c4,
  code_quality,
  fineweb,
  gopher,
  language,
  normalise,
  privacy,
  refinedweb,
)
from input_pipeline.curation.stage import Stage

STAGES = {
  stage.name: stage
  for stage in (
    Stage(name='normalise', rules=normalise.RULES, apply=normalise.apply),
    Stage(name='language', rules=language.RULES, apply=language.apply),
    Stage(
      name='gopher_quality',
      rules=gopher.QUALITY_RULES,
      apply=gopher.apply_quality,
    ),
    Stage(
      name='gopher_repetition',
      rules=gopher.REPETITION_RULES,
      apply=gopher.apply_repetition,
    ),
    Stage(name='c4', rules=c4.RULES, apply=c4.apply),
    Stage(name='refinedweb', rules=refinedweb.RULES, apply=refinedweb.apply),
    Stage(name='fineweb', rules=fineweb.RULES, apply=fineweb.apply),
    Stage(
      name='code_quality', rules=code_quality.RULES, apply=code_quality.apply
    ),
    Stage(name='privacy', rules=privacy.RULES, apply=privacy.apply),
  )
}
