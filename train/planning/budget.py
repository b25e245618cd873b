"""What a whole run takes: tokens, hours, money and the loss to expect."""

import dataclasses

from train.config import TrainConfig
from train.laws.advice import Advice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """A run at a planned speed.

  Attributes:
    steps: updates.
    tokens: positions that the model is fed, padding included.
    tokens_per_parameter: tokens / parameters.
    hours: of training, without evaluation, checkpoints and restarts.
    chip_hours: hours times chips.
    price: of a chip for an hour; None: the config names none.
    cost: in the currency of the price.
    loss: expected at the end, in nats a token; None: the law says nothing of
      a model or a run as small as this, or of one that reads its data so often.
    extrapolated: the run is larger than those that the law was fitted to.
    loss_law: its name.
  """

  steps: int
  tokens: int
  tokens_per_parameter: float
  hours: float
  chip_hours: float
  price: float | None
  cost: float | None
  loss: float | None
  extrapolated: bool
  loss_law: str


def budget(
  config: TrainConfig,
  *,
  parameters: int,
  step_seconds: float,
  chips: int,
  price: float | None,
  advice: Advice,
) -> Budget:
  """The run of a config at so many seconds a step.

  Args:
    config: the run.
    parameters: of its model.
    step_seconds: as planned.
    chips: that it takes.
    price: of one for an hour; None: not known.
    advice: what the laws say of the run.
  """
  expected = advice.losses[0]
  tokens = config.steps * config.batch_size * config.sequence_length
  hours = config.steps * step_seconds / 3600
  return Budget(
    steps=config.steps,
    tokens=tokens,
    tokens_per_parameter=tokens / parameters,
    hours=hours,
    chip_hours=hours * chips,
    price=price,
    cost=None if price is None else price * hours * chips,
    loss=expected.loss,
    extrapolated=expected.loss is not None and bool(expected.extrapolated),
    loss_law=expected.law,
  )
