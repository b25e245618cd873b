"""Rows of the store as batches, through tf.data.

The range of steps is the dataset, and a step becomes its rows by a pure
function. So a run resumes by starting the range elsewhere: nothing of the
pipeline is saved, and nothing is skipped.
"""

from collections.abc import Callable, Iterator

import numpy as np

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
) -> Iterator[np.ndarray]:
  """Yields this host's rows of the batches of steps [start_step, end_step).

  Args:
    stream: of the training rows.
    start_step: first step.
    end_step: one past the last step.
    row_start: first row of the global batch that this host reads.
    row_stop: one past the last.
    prefetch: batches that are read ahead.

  Yields:
    uint16 or uint32 [row_stop - row_start, R].
  """

  def read(step: int) -> np.ndarray:
    return stream.read(stream.places_of_step(step, row_start, row_stop))

  return _batches(
    read,
    start=start_step,
    stop=end_step,
    shape=(row_stop - row_start, stream.row_length),
    dtype=stream.dtype,
    prefetch=prefetch,
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
    start=0,
    stop=-(-len(rows) // batch_size),
    shape=(row_stop - row_start, rows.row_length),
    dtype=rows.dtype,
    prefetch=prefetch,
  )


def _batches(
  read: Callable[[int], np.ndarray],
  *,
  start: int,
  stop: int,
  shape: tuple[int, int],
  dtype: np.dtype,
  prefetch: int,
) -> Iterator[np.ndarray]:
  tf = tensorflow()

  def rows_of_step(step):
    batch = tf.numpy_function(
      lambda s: read(int(s)), [step], tf.as_dtype(dtype), stateful=False
    )
    return tf.ensure_shape(batch, shape)

  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = False
  # One thread computes and one prefetches: both mostly copy memory.
  options.threading.private_threadpool_size = 2
  options.threading.max_intra_op_parallelism = 1
  dataset = tf.data.Dataset.range(start, stop)
  dataset = dataset.map(rows_of_step, num_parallel_calls=1, deterministic=True)
  dataset = dataset.prefetch(prefetch).with_options(options)
  return dataset.as_numpy_iterator()
