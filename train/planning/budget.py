"""What a whole run takes: tokens, hours, money and the loss to expect."""

import dataclasses

from train.config import TrainConfig

# Loss in nats a token of N parameters trained on D tokens, each new:
# E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, approach 3), with the
# constants that Besiroglu et al. 2024 (arXiv 2404.10102) fitted anew to their
# data. N counts embeddings too. It is the loss on MassiveText with its
# tokenizer: of use to compare sizes and budgets, not with your data. Its models
# had 44 million to 16 billion parameters; below that, or below a billion
# tokens, it says nothing, and beyond it is an extrapolation.
_E, _A, _ALPHA, _B, _BETA = 1.8172, 482.01, 0.3478, 2085.43, 0.3658
LOSS_LAW = (
  'Hoffmann et al. 2022, constants of Besiroglu et al. 2024 (arXiv 2404.10102)'
)
_FITTED = (44e6, 16e9)
_LEAST_TOKENS = 1e9


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
      a model or a run as small as this.
    extrapolated: the model is larger than those that the law was fitted to.
    loss_law: where that comes from.
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
  loss_law: str = LOSS_LAW


def expected_loss(parameters: float, tokens: float) -> float | None:
  """Loss in nats a token after training on as many new tokens.

  None where the law was not made for it.
  """
  if parameters < _FITTED[0] or tokens < _LEAST_TOKENS:
    return None
  return _E + _A / parameters**_ALPHA + _B / tokens**_BETA


def budget(
  config: TrainConfig,
  *,
  parameters: int,
  step_seconds: float,
  chips: int,
  price: float | None,
) -> Budget:
  """The run of a config at so many seconds a step."""
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
    loss=expected_loss(parameters, tokens),
    extrapolated=parameters > _FITTED[1],
  )
