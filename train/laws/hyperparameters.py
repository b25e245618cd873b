"""Published laws of learning rate, batch size and weight decay.

They are of AdamW and the standard parametrization. To add a law, write its
formula and add a line to LAWS, with its source and what it was fitted to.
"""

import dataclasses
import math
from collections.abc import Callable

from train.laws.ranges import Fitted

LEARNING_RATE = 'optimizer.learning_rate'
BATCH_SIZE = 'batch_size'
WEIGHT_DECAY = 'optimizer.weight_decay'
# Muon's updates are scaled to the size of AdamW's (train/optimizer.py), so that
# it takes the learning rate of AdamW (Liu et al. 2025, arXiv 2502.16982).
OPTIMIZERS = ('adamw', 'muon')

# Power Lines counts batches in sequences of this many tokens.
_SEQUENCE = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """A run as the laws see it.

  Attributes:
    parameters: without those of embedding and head.
    with_head: with those of the head, tied or not.
    tokens: trained on.
    flops: of the whole training, without those of the head.
    batch_tokens: of a step.
    learning_rate: its peak.
    weight_decay: decoupled, multiplied by the learning rate.
  """

  parameters: float
  with_head: float
  tokens: float
  flops: float
  batch_tokens: float
  learning_rate: float
  weight_decay: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper:
  """Where laws come from.

  Attributes:
    name: what people call them.
    source: where the constants stand.
    counts: which parameters are theirs: an attribute of Setting.
    fitted: to which runs.
  """

  name: str
  source: str
  counts: str
  fitted: Fitted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
  """What to set, from the size of a run.

  Attributes:
    paper: where it comes from.
    field: LEARNING_RATE, BATCH_SIZE (in tokens) or WEIGHT_DECAY.
    text: the formula, for people: N parameters, D tokens, C FLOPs, B tokens of
      a step.
    formula: of a setting.
  """

  paper: Paper
  field: str
  text: str
  formula: Callable[[Setting], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suggestion:
  """What a law says of a run.

  Attributes:
    field: of the configuration; batch_size is in tokens here.
    value: to set it to.
    law: its name.
    source: where the constants stand.
    outside: in what the run lies outside of what the law was fitted to, a
      phrase each; empty: nothing is extrapolated.
  """

  field: str
  value: float
  law: str
  source: str
  outside: tuple[str, ...]


def _power_lines_decay(run: Setting) -> float:
  """Weight decay with the best time scale of AdamW's moving average.

  B / (learning rate decay D) = 1.084 (D / N)^-0.527, with the run's own batch B
  and learning rate.
  """
  scale = 1.084 * (run.tokens / run.with_head) ** -0.527
  return run.batch_tokens / (run.learning_rate * run.tokens * scale)


_STEP_LAW = Paper(
  name='Step Law',
  source='Li et al. 2025, arXiv 2503.04715',
  counts='parameters',
  # The runs of its public table. With fewer tokens than parameters it is up to
  # 2.9 times too low.
  fitted=Fitted(
    parameters=(119e6, 1.07e9), tokens=(4e9, 100e9), ratio=(1, math.inf)
  ),
)
_DEEPSEEK = Paper(
  name='DeepSeek LLM',
  source='Bi et al. 2024, arXiv 2401.02954, equation 1',
  counts='parameters',
  fitted=Fitted(flops=(1e17, 2e19)),
)
# At 20 tokens a parameter; taken to hold within a factor of two of that.
_PORIAN = Paper(
  name='Porian et al. 2024',
  source='arXiv 2406.19146, as OLMo-core has it',
  counts='with_head',
  fitted=Fitted(parameters=(5e6, 901e6), ratio=(10, 40)),
)
_POWER_LINES = Paper(
  name='Power Lines',
  source='Bergsma et al. 2025, arXiv 2505.13738, figure 1',
  counts='with_head',
  fitted=Fitted(parameters=(111e6, 3.3e9)),
)

# The first of a field is the one that is advised.
LAWS = (
  Law(
    paper=_STEP_LAW, field=LEARNING_RATE, text='1.79 N^-0.713 D^0.307',
    formula=lambda r: 1.79 * r.parameters**-0.713 * r.tokens**0.307,
  ),
  Law(
    paper=_DEEPSEEK, field=LEARNING_RATE, text='0.3118 C^-0.125',
    formula=lambda r: 0.3118 * r.flops**-0.125,
  ),
  Law(
    paper=_PORIAN, field=LEARNING_RATE, text='0.0047 (N / 108e6)^(-1/3)',
    formula=lambda r: 0.0047 * (r.with_head / 108e6) ** (-1 / 3),
  ),
  Law(
    paper=_STEP_LAW, field=BATCH_SIZE, text='0.58 D^0.571 tokens',
    formula=lambda r: 0.58 * r.tokens**0.571,
  ),
  Law(
    paper=_POWER_LINES, field=BATCH_SIZE,
    text='0.0306 D^0.383 sequences of 2,048 tokens',
    formula=lambda r: _SEQUENCE * 0.0306 * r.tokens**0.383,
  ),
  Law(
    paper=_DEEPSEEK, field=BATCH_SIZE, text='0.292 C^0.3271 tokens',
    formula=lambda r: 0.2920 * r.flops**0.3271,
  ),
  Law(
    paper=_PORIAN, field=BATCH_SIZE,
    text='160 (N / 108e6)^(2/3) sequences of 2,048 tokens',
    formula=lambda r: _SEQUENCE * 160 * (r.with_head / 108e6) ** (2 / 3),
  ),
  Law(
    paper=_POWER_LINES, field=WEIGHT_DECAY,
    text='B / (learning rate D 1.084 (D / N)^-0.527)',
    formula=_power_lines_decay,
  ),
)  # fmt: skip


def suggestions(run: Setting) -> list[Suggestion]:
  """What every law says of a run, the advised one of a field first."""
  return [suggest(law, run) for law in LAWS]


def suggest(law: Law, run: Setting) -> Suggestion:
  """What one law says of a run."""
  paper = law.paper
  return Suggestion(
    field=law.field,
    value=law.formula(run),
    law=paper.name,
    source=paper.source,
    outside=paper.fitted.outside(
      parameters=getattr(run, paper.counts), tokens=run.tokens, flops=run.flops
    ),
  )


def advised(field: str, run: Setting) -> Suggestion:
  """What the first law of a field says of a run."""
  law = next(law for law in LAWS if law.field == field)
  return suggest(law, run)


def critical_batch(tokens: float) -> float:
  """Tokens of a step above which more devices hardly save time.

  0.0471 D^0.462 sequences (Power Lines, figure 1): there a run needs twice the
  tokens for the loss of one with small batches, and half of its steps.

  Args:
    tokens: that small batches would need.
  """
  return _SEQUENCE * 0.0471 * tokens**0.462


# By which paper's law a value is carried over. Of the laws of the learning rate
# it is the one that was fitted at one ratio of tokens to parameters, and to
# models as small as five million. It agrees with small runs: from
# configs/tiny.py to 0.3 million parameters with 20 tokens each it gives 0.008,
# and Step Law 0.069; of 0.004, 0.01 and 0.025 the second was best.
_CARRIED_BY = {
  LEARNING_RATE: _PORIAN,
  BATCH_SIZE: _STEP_LAW,
  WEIGHT_DECAY: _POWER_LINES,
}


def carrying_law(field: str) -> Law:
  """The law by which a value is carried over from one run to another."""
  paper = _CARRIED_BY[field]
  return next(w for w in LAWS if (w.field, w.paper) == (field, paper))


def change(field: str, held: Setting, to: Setting) -> float:
  """What a value is multiplied with from one run to another.

  What a law is wrong about at one size it is likely to be wrong about at the
  next: only its ratio between the two is used.
  """
  law = carrying_law(field)
  return law.formula(to) / law.formula(held)


def carried_over(held: Setting, to: Setting, *, holds: bool = False) -> Setting:
  """Takes what is set for one run to another, by how much the laws change.

  Args:
    held: a run whose values are good.
    to: another; its batch, learning rate and decay are not looked at.
    holds: whether the learning rate holds at any size, as a parametrization
      sees to (docs/transfer.md); it then goes with the root of the batch, as
      Adam's does (Malladi et al. 2022, arXiv 2205.10287).

  Returns:
    The other, with values.
  """
  batch = change(BATCH_SIZE, held, to)
  rate = batch**0.5 if holds else change(LEARNING_RATE, held, to)
  to = dataclasses.replace(
    to,
    batch_tokens=held.batch_tokens * batch,
    learning_rate=held.learning_rate * rate,
  )
  decay = held.weight_decay * change(WEIGHT_DECAY, held, to)
  return dataclasses.replace(to, weight_decay=decay)
