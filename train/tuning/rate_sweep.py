"""Learning rates side by side, on whatever rows there are.

Suffixes: K runs, B batch, R tokens of a row.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from train.config import TrainConfig, train_config
from train.data import host_batches, open_prepared, validation_splits
from train.rows import Marks
from train.scalars import scalars_of
from train.setup import Setup, data_marks, make_setup
from train.step import LossSums
from train.tuning import synthetic
from train.tuning.population import Population
from train.tuning.trial_config import with_values

if TYPE_CHECKING:
  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.config import TrainingData

# Batches of the validation split that a sweep looks at, at most.
_VALIDATION = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """What runs are trained and judged on.

  Attributes:
    name: what it is, for people.
    marks: ids of the special tokens.
    training: batches of a run, from its first step on.
    validation: rows [B, R] that it is judged on.
  """

  name: str
  marks: Marks
  training: Callable[[Setup], Iterator[Any]]
  validation: Callable[[Setup], Iterable[Any]]


def rows_of(
  config: TrainConfig,
  data: 'TrainingData',
  augmentation: 'AugmentationConfig',
) -> Rows:
  """The prepared data of a run; a made-up language where there is none.

  Raises:
    ValueError: the model has no row for some of the data's tokens.
  """
  stores = open_prepared(data)
  if stores is None:
    return made_up_rows(config)

  def training(setup: Setup) -> Iterator[Any]:
    run = setup.config
    stream = stores.stream(
      seed=run.seed, batch_size=run.batch_size, repack=augmentation.repack
    )
    every = (0, run.batch_size)
    return host_batches(run, augmentation, stores.first, stream, 0, every)

  return Rows(
    name='the prepared data',
    marks=data_marks(config.model, stores.first.manifest),
    training=training,
    validation=lambda setup: validation_splits(setup, stores)[0].batches,
  )


def made_up_rows(config: TrainConfig) -> Rows:
  """Rows of a made-up language for a run."""

  def rows(count: int, seed: int) -> np.ndarray:
    rows_NR = synthetic.rows(
      vocabulary=config.model.vocab_size,
      count=count * config.batch_size,
      length=config.sequence_length + 1,
      seed=seed,
    )
    return rows_NR.reshape(count, config.batch_size, -1)

  return Rows(
    name='a made-up language, for the data is not prepared',
    marks=synthetic.MARKS,
    training=lambda setup: iter(rows(setup.config.steps, config.seed)),
    # No run has this seed.
    validation=lambda setup: rows(_VALIDATION, 1 << 32),
  )


def losses(
  config: dict[str, Any], rates: Sequence[float], rows: Rows
) -> list[float]:
  """Validation loss after the last step with each learning rate.

  All are steps of one compiled program.

  Args:
    config: a run's configuration, as nested dicts.
    rates: peaks of the learning rate.
    rows: what to train on.

  Returns:
    Nats a token; not a number, or infinite, where a run diverged.
  """
  runs = [
    train_config(with_values(config, [('optimizer.learning_rate', rate)]))
    for rate in rates
  ]
  devices = jax.local_devices()
  devices = devices if len(rates) % len(devices) == 0 else devices[:1]
  setup = make_setup(runs[0], devices[:1])
  population = Population(
    setup.recipe,
    rows.marks,
    scalars_of(setup.config),
    size=len(rates),
    devices=devices,
  )
  for slot, run in enumerate(runs):
    population.fill(slot, scalars_of(run))

  def shared(batch: Any) -> Any:
    return jax.tree.map(
      lambda x: np.broadcast_to(x, (len(rates), *np.shape(x))), batch
    )

  validation = list(itertools.islice(rows.validation(setup), _VALIDATION))
  batches = rows.training(setup)
  first = next(batches)
  population.compile(shared(first), validation[0])
  for batch in itertools.chain([first], batches):
    population.step(shared(batch))
  total = LossSums(*(jnp.zeros(len(rates)),) * 3)
  for rows_BR in validation:
    total = jax.tree.map(jnp.add, total, population.evaluate(rows_BR))
  return np.asarray(total.cross_entropy / total.tokens).tolist()
