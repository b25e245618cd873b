"""Speed of the training input, beside plain tf.data in the same run.

python benchmarks/input_pipeline.py [--rounds=5] [--batches=400]

Rows of random tokens in one temporary file; tokens are counted a second of
CPU, all threads together, so a busy machine disturbs little. The peer is
`shuffle().repeat().batch()` over the same rows, which starts at a later step
by skipping: it is timed at a far smaller one. The third side mixes three such
datasets. They take turns, and the median round of each is printed.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from etils import epath

from benchmarks.machine import describe_machine
from input_pipeline.pipeline import train_batches
from input_pipeline.store import Rows
from input_pipeline.store_manifest import ShardManifest
from input_pipeline.stream import Stream
from input_pipeline.tensorflow_setup import tensorflow
from input_pipeline.weights import parse_schedule

BATCH_SIZE, ROW_LENGTH, NUM_ROWS = 64, 2_049, 16_384
LATE_STEP, PEER_LATE_STEP = 5_000_000, 5_000
PEER_BUFFER = 4_096
WEIGHTS = {'web': '0.7', 'code': '0.2', 'books': '0.1'}

Batches = Callable[[int, int], Iterator[np.ndarray]]


def main() -> None:
  """Prints throughput and time to the first batch."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--batches', type=int, default=400)
  arguments = parser.parse_args()
  print(describe_machine())
  tensorflow()
  print(
    f'{NUM_ROWS:,} rows of {ROW_LENGTH:,} uint16, batches of {BATCH_SIZE};'
    f' median of {arguments.rounds} rounds'
  )
  with tempfile.TemporaryDirectory() as directory:
    sides = _sides(epath.Path(directory))
    speed: dict[str, list[float]] = {name: [] for name in sides}
    first: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
      for name, (batches, late) in sides.items():
        speed[name].append(_tokens_a_second(batches, arguments.batches))
        first[name].append(_seconds_to_first(batches, late))
  for name, (_, late) in sides.items():
    print(
      f'  {name:24}'
      f' {statistics.median(speed[name]) / 1e6:8.1f} M tokens a CPU-second,'
      f' first batch of step {late:,} in'
      f' {statistics.median(first[name]):.3f} s'
    )


def _sides(directory: epath.Path) -> dict[str, tuple[Batches, int]]:
  """What is timed, and the step that it starts at late."""
  tokens = np.random.default_rng(0).integers(
    0, 1 << 15, (NUM_ROWS, ROW_LENGTH), dtype=np.uint16
  )
  tokens.tofile(directory / 'train.rows')
  shard = ShardManifest(
    name='train',
    rows=NUM_ROWS,
    bytes=tokens.nbytes,
    sha256='',
    pieces_sha256='',
    documents_sha256='',
  )
  rows = Rows(
    directory=directory,
    shards=(shard,),
    row_length=ROW_LENGTH,
    vocab_size=1 << 15,
  )

  def one(start: int, stop: int) -> Iterator[np.ndarray]:
    return _ours(Stream([rows], seed=0, batch_size=BATCH_SIZE), start, stop)

  def mixed(start: int, stop: int) -> Iterator[np.ndarray]:
    stream = Stream(
      [rows] * len(WEIGHTS),
      seed=0,
      batch_size=BATCH_SIZE,
      names=tuple(WEIGHTS),
      schedules=[parse_schedule((w,), name) for name, w in WEIGHTS.items()],
    )
    return _ours(stream, start, stop)

  return {
    'this pipeline': (one, LATE_STEP),
    'mixture of three': (mixed, LATE_STEP),
    'shuffle, repeat, batch': (_peer(directory), PEER_LATE_STEP),
  }


def _ours(stream: Stream, start: int, stop: int) -> Iterator[np.ndarray]:
  return train_batches(
    stream,
    start_step=start,
    end_step=stop,
    row_start=0,
    row_stop=BATCH_SIZE,
    prefetch=2,
  )


def _peer(directory: epath.Path) -> Batches:
  tf = tensorflow()

  def peer(start: int, stop: int) -> Iterator[np.ndarray]:
    dataset = tf.data.FixedLengthRecordDataset(
      str(directory / 'train.rows'), 2 * ROW_LENGTH
    )
    dataset = dataset.map(lambda row: tf.io.decode_raw(row, tf.uint16))
    dataset = dataset.shuffle(PEER_BUFFER, seed=0).repeat()
    dataset = dataset.batch(BATCH_SIZE, drop_remainder=True)
    dataset = dataset.skip(start).take(stop - start).prefetch(2)
    return dataset.as_numpy_iterator()

  return peer


def _tokens_a_second(batches: Batches, count: int) -> float:
  """Once it runs: a buffer is full, the file is in memory."""
  iterator = batches(0, count + 1)
  next(iterator)
  start = time.process_time()
  read = sum(batch.size for batch in iterator)
  return read / (time.process_time() - start)


def _seconds_to_first(batches: Batches, step: int) -> float:
  start = time.perf_counter()
  next(batches(step, step + 10))
  return time.perf_counter() - start


if __name__ == '__main__':
  main()
