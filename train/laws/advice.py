"""What the published laws say of a run, beside what its configuration has."""

import dataclasses
from collections.abc import Sequence

from model.flops import training_flops_per_token
from train.config import TrainConfig
from train.laws import hyperparameters
from train.laws.hyperparameters import Setting, Suggestion
from train.laws.loss import (
  DEFAULT,
  GOOD_EPOCHS,
  LOSS_LAWS,
  MOST_EPOCHS,
  LossLaw,
  effective_tokens,
  loss,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repetition:
  """How often a run reads a dataset.

  Attributes:
    name: of the dataset; '' where there is only one.
    unique: tokens that it holds.
    epochs: how often it is read until the last step.
  """

  name: str
  unique: float
  epochs: float

  def warning(self, steps: int) -> str | None:
    """What is wrong with reading it so often; None: nothing.

    Args:
      steps: of the run.
    """
    if self.epochs <= GOOD_EPOCHS:
      return None
    worth = effective_tokens(self.epochs, 1) / self.epochs
    return (
      f'{f"Dataset {self.name}" if self.name else "The data"} will be read '
      f'{self.epochs:.1f} times by step {steps}. Up to {GOOD_EPOCHS} times are '
      'about as good as new text; '
      + (
        f'at {self.epochs:.1f}, tokens teach {worth:.0%} of what new ones do'
        if self.epochs <= MOST_EPOCHS
        else f'past {MOST_EPOCHS} no law tells the loss, which may rise'
      )
      + ' (Muennighoff et al. 2023, arXiv 2305.16264): take more text'
      f'{", a lower weight" if self.name else ""} or fewer steps.'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
  """The loss that a law leads to expect.

  Attributes:
    law: its name.
    loss: in nats a token; None: the law says nothing of such a run.
    extrapolated: in what the run exceeds those that the law was fitted to; or,
      without a loss, why there is none.
  """

  law: str
  loss: float | None
  extrapolated: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
  """All that the laws say of a run.

  Attributes:
    run: as the laws see it.
    suggestions: of hyper-parameters; empty where no law is of its optimizer.
    losses: by each law, that of the budget first.
    data: how often each dataset is read; empty where it is not known.
    warnings: what should be looked at.
  """

  run: Setting
  suggestions: tuple[Suggestion, ...]
  losses: tuple[Expected, ...]
  data: tuple[Repetition, ...]
  warnings: tuple[str, ...]


def setting(config: TrainConfig, parameters: int) -> Setting:
  """A run as the laws see it.

  Args:
    config: the run.
    parameters: of the model, all of them.
  """
  model = config.model
  table = model.vocab_size * model.embed_dim
  held = table if model.tie_embeddings else 2 * table
  if model.positions == 'learned':
    held += model.max_length * model.embed_dim
  tokens = config.steps * config.batch_size * config.sequence_length
  # The head multiplies each token with the table.
  flops = training_flops_per_token(model) - 6.0 * table
  return Setting(
    parameters=parameters - held,
    with_head=parameters - held + table,
    tokens=tokens,
    flops=flops * tokens,
    batch_tokens=config.batch_size * config.sequence_length,
    learning_rate=config.optimizer.learning_rate,
    weight_decay=config.optimizer.weight_decay,
  )


def unique_tokens(data: Sequence[Repetition], tokens: float) -> float | None:
  """Different tokens among those that a run reads; None: not known.

  Args:
    data: how often each dataset is read.
    tokens: of the run.
  """
  if not data:
    return None
  read = sum(part.unique * part.epochs for part in data)
  seen = sum(part.unique * min(part.epochs, 1.0) for part in data)
  return tokens * seen / read


def expected_loss(
  law: LossLaw, parameters: float, tokens: float, unique: float | None = None
) -> Expected:
  """What a law says of a run, as far as it may be asked.

  Args:
    law: one of LOSS_LAWS.
    parameters: of the model, all of them.
    tokens: trained on.
    unique: of them; None: all.
  """
  size = {'parameters': parameters, 'tokens': tokens}
  outside = law.fitted.outside(**size, flops=6 * parameters * tokens)
  value = None
  if unique is not None and tokens > MOST_EPOCHS * unique:
    outside = (f'read {tokens / unique:.1f} times, asked up to {MOST_EPOCHS}',)
  # Small models do not follow a law of large ones.
  elif not law.fitted.below(**size):
    value = loss(law, parameters, tokens, unique)
  return Expected(law=law.name, loss=value, extrapolated=outside)


def advise(
  config: TrainConfig, *, parameters: int, data: Sequence[Repetition] = ()
) -> Advice:
  """Asks every law.

  Args:
    config: the run.
    parameters: of its model, all of them.
    data: how often each dataset is read; empty: not known.
  """
  run = setting(config, parameters)
  # The time scale of weight decay divides by the learning rate.
  asked = run.learning_rate > 0 and (
    config.optimizer.name in hyperparameters.OPTIMIZERS
  )
  suggestions = hyperparameters.suggestions(run) if asked else []
  unique = unique_tokens(data, run.tokens)
  laws = sorted(LOSS_LAWS.values(), key=lambda law: law.name != DEFAULT)
  return Advice(
    run=run,
    suggestions=tuple(suggestions),
    losses=tuple(
      expected_loss(law, parameters, run.tokens, unique) for law in laws
    ),
    data=tuple(data),
    warnings=tuple(
      text for part in data if (text := part.warning(config.steps))
    ),
  )
