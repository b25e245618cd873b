"""From prepared data to global batches: where training meets the pipeline."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax

from train.config import TrainConfig
from train.distributed import check_same, first_process_does
from train.evaluate import Split
from train.exits import DATA_ERROR, exit_status
from train.laws.advice import Repetition
from train.rows import Batch
from train.setup import Setup

if TYPE_CHECKING:
  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.config import TrainingData
  from input_pipeline.left_out import Window
  from input_pipeline.store import Store
  from input_pipeline.stores import Stores
  from input_pipeline.stream import Stream


def prepared_stores(data: 'TrainingData') -> 'Stores':
  """Opens the datasets, and prepares those first that are missing."""
  from input_pipeline.stores import open_stores, prepare_stores

  def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

  first_process_does(lambda: prepare_stores(data, log=log), 'prepare the data')
  try:
    stores = open_stores(data)
  except ValueError as error:
    if jax.process_index() == 0 or exit_status(error) == DATA_ERROR:
      raise
    raise ValueError(
      f'Process {jax.process_index()} does not see the dataset of process 0: '
      f'data.directory must be a folder that all hosts share. {error}'
    ) from error
  check_same({'the fingerprint of the dataset': stores.fingerprint})
  return stores


def train_batches(
  setup: Setup,
  augmentation: 'AugmentationConfig',
  store: 'Store',
  stream: 'Stream',
  start_step: int,
  left_out: Sequence['Window'] = (),
) -> Iterator[Batch]:
  """Global batches of the training rows, from a step to the last one.

  Args:
    setup: the run.
    augmentation: how the rows change.
    store: any of the run; its tokenizer matters.
    stream: of the rows.
    start_step: first step.
    left_out: batches that no step reads.
  """
  from input_pipeline import global_array

  config, sharding = setup.config, setup.batch_sharding
  rows = global_array.process_rows(sharding, config.batch_size)
  for batch in host_batches(
    config, augmentation, store, stream, start_step, rows, left_out
  ):
    yield jax.tree.map(
      lambda array: global_array.to_global_array(
        array, sharding, config.batch_size
      ),
      batch,
    )


def host_batches(
  config: TrainConfig,
  augmentation: 'AugmentationConfig',
  store: 'Store',
  stream: 'Stream',
  start_step: int,
  rows: tuple[int, int],
  left_out: Sequence['Window'] = (),
) -> Iterator[Any]:
  """Some rows of each batch, in the memory of the host.

  Args:
    config: the run.
    augmentation, store, stream, start_step, left_out: as in `train_batches`.
    rows: of the batch, the first and one past the last.
  """
  from input_pipeline import pipeline
  from input_pipeline.augmentation.augment import make_augment

  return pipeline.train_batches(
    stream,
    start_step=start_step,
    end_step=config.steps,
    row_start=rows[0],
    row_stop=rows[1],
    prefetch=config.prefetch,
    augment=make_augment(
      augmentation, store, seed=config.seed, steps=config.steps
    ),
    left_out=left_out,
  )


def validation_splits(setup: Setup, stores: 'Stores') -> list[Split]:
  """The whole validation split of each dataset."""
  return [
    Split(
      name=name,
      batches=_validation_batches(setup, store),
      text_bytes=store.manifest.splits['validation'].text_bytes,
    )
    for name, store in zip(stores.names, stores.stores, strict=True)
  ]


def epochs_by_name(stream: 'Stream') -> Callable[[int], dict[str, float]]:
  """What a step's record says of how often the data was read before.

  Returns:
    A function of the step: 'epoch', of all rows together, and 'epoch/NAME' of
    each dataset of a mixture.
  """

  def epochs(step: int) -> dict[str, float]:
    rows_P, read_P = stream.num_rows, stream.epochs(step)
    found = {'epoch': float(rows_P @ read_P / rows_P.sum())}
    for name, read in zip(stream.names, read_P.tolist(), strict=True):
      if name:
        found[f'epoch/{name}'] = read
    return found

  return epochs


def repetition(stream: 'Stream', steps: int) -> tuple[Repetition, ...]:
  """How often a run reads each dataset."""
  tokens_P = stream.num_rows * (stream.row_length - 1)
  return tuple(
    Repetition(name=name, unique=unique, epochs=epochs)
    for name, unique, epochs in zip(
      stream.names,
      tokens_P.tolist(),
      stream.epochs(steps).tolist(),
      strict=True,
    )
  )


def repeats(stream: 'Stream', steps: int) -> list[str]:
  """Says which datasets a run reads more often than is known to be of use."""
  warnings = [part.warning(steps) for part in repetition(stream, steps)]
  return [warning for warning in warnings if warning]


def prepared_repetition(
  data: 'TrainingData', *, seed: int, batch_size: int, repack: bool, steps: int
) -> tuple[Repetition, ...]:
  """How often a run would read each dataset; empty where one is not prepared.

  Args:
    data: the datasets.
    seed: of the run.
    batch_size: rows of the global batch.
    repack: documents are packed into rows anew in each epoch.
    steps: of the run.
  """
  stores = open_prepared(data)
  if stores is None:
    return ()
  stream = stores.stream(seed=seed, batch_size=batch_size, repack=repack)
  return repetition(stream, steps)


def open_prepared(data: 'TrainingData') -> 'Stores | None':
  """Opens datasets of this machine; None where one is not prepared."""
  from input_pipeline.manifest import store_directories
  from input_pipeline.store import MANIFEST
  from input_pipeline.stores import open_stores

  found = store_directories(
    [part.data for part in data.parts], data.tokenizer_shares
  )
  # What asks for them does not wait for a network.
  if not all(
    '://' not in str(directory) and (directory / MANIFEST).exists()
    for directory in found
  ):
    return None
  return open_stores(data)


def _validation_batches(setup: Setup, store: 'Store') -> Iterator[jax.Array]:
  from input_pipeline import global_array, pipeline

  batch_size = setup.config.evaluation_batch_size
  sharding = setup.evaluation_sharding
  row_start, row_stop = global_array.process_rows(sharding, batch_size)
  for rows_BR in pipeline.validation_batches(
    store.rows('validation'),
    batch_size=batch_size,
    row_start=row_start,
    row_stop=row_stop,
    pad_id=store.manifest.tokenizer.pad_id,
    prefetch=setup.config.prefetch,
  ):
    yield global_array.to_global_array(rows_BR, sharding, batch_size)
