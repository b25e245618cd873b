"""Rows of the store as batches, through tf.data.

The range of steps is the dataset, and a step becomes its rows by a pure
function. So a run resumes by starting the range elsewhere: nothing of the
pipeline is saved, and nothing is skipped.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from input_pipeline.augmentation.augment import Augment
from input_pipeline.left_out import Window, batch_number
from input_pipeline.memory import keep_freed_memory
from input_pipeline.store import Rows
from input_pipeline.stream import Stream
from input_pipeline.tensorflow_setup import tensorflow


def train_batches(
  stream: Stream,
  *,
  start_step: int,
  end_step: int,
  row_start: int,
  row_stop: int,
  prefetch: int,
  augment: Augment | None = None,
  left_out: Sequence[Window] = (),
) -> Iterator[Any]:
  """Yields this host's rows of the batches of steps [start_step, end_step).

  Args:
    stream: of the training rows.
    start_step: first step.
    end_step: one past the last step.
    row_start: first row of the global batch that this host reads.
    row_stop: one past the last.
    prefetch: batches that are read ahead.
    augment: what changes the rows; None: they stay as they are.
    left_out: batches that no step reads; later ones take their places.

  Yields:
    uint16 or uint32 [row_stop - row_start, R]; with `augment` what it returns,
    a dict of arrays.
  """

  def read(step: int) -> Any:
    number = batch_number(step, left_out)
    places = stream.places_of_step(number, row_start, row_stop)
    rows_NR = stream.read(places)
    if augment is None:
      return rows_NR
    return augment(
      rows_NR,
      step=step,
      place_N=np.arange(row_start, row_stop),
      sources=stream.sources(places) if augment.needs_sources else (),
    )

  keep_freed_memory()
  count = row_stop - row_start
  specs: Any = ((count, stream.row_length), stream.dtype)
  if augment is not None:
    specs = {
      name: ((count, stream.row_length - 1), dtype)
      for name, dtype in augment.dtypes(stream.dtype).items()
    }
  return _batches(
    read, specs, start=start_step, stop=end_step, prefetch=prefetch
  )


def validation_batches(
  rows: Rows,
  *,
  batch_size: int,
  row_start: int,
  row_stop: int,
  pad_id: int,
  prefetch: int,
) -> Iterator[np.ndarray]:
  """Yields this host's rows of all rows, once and in order.

  The last batch is filled up with rows of `pad_id`, which weigh nothing, so
  every host sees the same number of batches of the same shape.

  Yields:
    uint16 or uint32 [row_stop - row_start, R].
  """

  def read(step: int) -> np.ndarray:
    first = step * batch_size
    batch_NR = np.full(
      (row_stop - row_start, rows.row_length), pad_id, rows.dtype
    )
    indices_N = np.arange(
      min(first + row_start, len(rows)), min(first + row_stop, len(rows))
    )
    if indices_N.size:
      batch_NR[: indices_N.size] = rows.read(indices_N)
    return batch_NR

  return _batches(
    read,
    ((row_stop - row_start, rows.row_length), rows.dtype),
    start=0,
    stop=-(-len(rows) // batch_size),
    prefetch=prefetch,
  )


def _batches(
  read: Callable[[int], Any],
  specs: Any,
  *,
  start: int,
  stop: int,
  prefetch: int,
) -> Iterator[Any]:
  """Yields what `read` makes of each step.

  Args:
    read: returns an array, or a dict of arrays.
    specs: shape and dtype of the array, or a dict of them.
    start: first step.
    stop: one past the last.
    prefetch: batches that are read ahead.
  """
  tf = tensorflow()
  named = specs if isinstance(specs, dict) else {'rows': specs}
  failures: list[Exception] = []

  def read_all(step: np.ndarray) -> list[np.ndarray]:
    try:
      batch = read(int(step))
    except Exception as error:
      failures.append(error)
      raise
    return [batch[name] for name in named] if named is specs else [batch]

  def batch_of_step(step):
    arrays = tf.numpy_function(
      read_all,
      [step],
      [tf.as_dtype(dtype) for _, dtype in named.values()],
      stateful=False,
    )
    batch = {
      name: tf.ensure_shape(array, shape)
      for array, (name, (shape, _)) in zip(arrays, named.items(), strict=True)
    }
    return batch if named is specs else batch['rows']

  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = False
  # One thread computes and one prefetches: both mostly copy memory.
  options.threading.private_threadpool_size = 2
  options.threading.max_intra_op_parallelism = 1
  dataset = tf.data.Dataset.range(start, stop)
  dataset = dataset.map(batch_of_step, num_parallel_calls=1, deterministic=True)
  dataset = dataset.prefetch(prefetch).with_options(options)
  return _with_cause(dataset.as_numpy_iterator(), failures)


def _with_cause(
  batches: Iterator[Any], failures: list[Exception]
) -> Iterator[Any]:
  """The batches; TensorFlow's word for a failure of ours becomes ours again."""
  try:
    yield from batches
  except Exception as error:
    if failures:
      raise failures[0] from error
    raise
