"""Runs the stages of `prepare`: functions of tasks, and shuffles of records.

A stage is a function of one task that writes its result to files, last of all
the one that says it is complete; run again, it finds that and returns. A
shuffle brings together records of one key that tasks emit: fixed-size numbers
such as hashes, never text. Any engine that runs these two makes the same files.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from etils import epath

from input_pipeline import chunks, durable, workers

Task = TypeVar('Task', bound=workers.Named)
Result = TypeVar('Result')

# Records of a partition are sorted in memory, by each worker.
PARTITION_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shuffle:
  """What is brought together, and what is made of it.

  Attributes:
    name: of the shuffle.
    directory: where the result of each partition goes.
    kind: of the records; the first field is 'key', a uniformly distributed
      uint64.
    emit: the records of a task.
    reduce: gets all records of some keys, sorted by all their fields that are
      plain numbers, in the order of these fields, and returns an array.
    partitions: in how many parts the keys are cut.
  """

  name: str
  directory: epath.Path
  kind: np.dtype
  emit: Callable[[Any], np.ndarray]
  reduce: Callable[[np.ndarray], np.ndarray]
  partitions: int

  def result(self, partition: int) -> epath.Path:
    """The file of a partition's result."""
    name = f'{partition:05d}-of-{self.partitions:05d}.npy'
    return self.directory / name

  def missing(self) -> list[int]:
    """Partitions without a result."""
    numbers = range(self.partitions)
    return [n for n in numbers if not self.result(n).exists()]


class Engine(Protocol):
  """Runs stages somewhere."""

  def map(
    self, function: Callable[[Task], Result], tasks: Sequence[Task]
  ) -> Iterator[Result]:
    """Yields function(task) for every task, in any order."""

  def shuffle(self, shuffle: Shuffle, tasks: Sequence[Any]) -> None:
    """Leaves the result of every partition in its file."""


def results(shuffle: Shuffle) -> Iterator[np.ndarray]:
  """What the partitions of a finished shuffle were reduced to."""
  for partition in range(shuffle.partitions):
    with shuffle.result(partition).open('rb') as file:
      yield np.load(file)


def partitions_for(record_bytes: int) -> int:
  """Partitions for about so many bytes of records."""
  return max(1, -(-record_bytes // PARTITION_BYTES))


def cut(records_N: np.ndarray, partitions: int) -> list[np.ndarray]:
  """Records by partition, which follows from the upper half of the key."""
  upper_N = records_N['key'] >> np.uint64(32)
  partition_N = upper_N * np.uint64(partitions) >> np.uint64(32)
  order = np.argsort(partition_N, kind='stable')
  ends = np.searchsorted(partition_N[order], np.arange(1, partitions))
  return np.split(records_N[order], ends)


def reduce_partition(
  shuffle: Shuffle, partition: int, pieces: Iterable[np.ndarray]
) -> None:
  """Sorts the records of a partition and writes what they are reduced to."""
  records_N = np.concatenate([np.empty(0, shuffle.kind), *pieces])
  kind = shuffle.kind
  assert kind.names is not None
  numbers = [name for name in kind.names if kind[name].shape == ()]
  order = np.lexsort([records_N[name] for name in reversed(numbers)])
  reduced = shuffle.reduce(records_N[order])
  durable.write(shuffle.result(partition), chunks.npy(reduced))


@dataclasses.dataclass(frozen=True)
class LocalEngine:
  """Runs stages in processes of this machine, with files between them.

  Attributes:
    processes: how many at a time.
  """

  processes: int

  def map(
    self, function: Callable[[Task], Result], tasks: Sequence[Task]
  ) -> Iterator[Result]:
    """Yields function(task) for every task, in the order of completion."""
    return workers.run(function, tasks, workers=self.processes)

  def shuffle(self, shuffle: Shuffle, tasks: Sequence[Any]) -> None:
    """Leaves the result of every partition in its file."""
    missing = shuffle.missing()
    if missing:
      for _ in self.map(functools.partial(_spill, shuffle), tasks):
        pass
    spills = tuple(task.name for task in tasks)
    reductions = [
      _ReduceTask(f'{shuffle.name} {n}', shuffle, n, spills) for n in missing
    ]
    for _ in self.map(_reduce, reductions):
      pass
    if _spill_directory(shuffle).exists():
      _spill_directory(shuffle).rmtree()


@dataclasses.dataclass(frozen=True)
class _ReduceTask:
  name: str
  shuffle: Shuffle
  partition: int
  spills: tuple[str, ...]


def _spill_directory(shuffle: Shuffle) -> epath.Path:
  return shuffle.directory / 'spill'


def _spill(shuffle: Shuffle, task: Any) -> None:
  """Writes the records of a task by partition, after a table of their ends."""
  path = _spill_directory(shuffle) / f'{task.name}-{shuffle.partitions}'
  if path.exists():
    return
  records = shuffle.emit(task)
  assert records.dtype == shuffle.kind, records.dtype
  parts = cut(records, shuffle.partitions)
  ends = np.cumsum([len(part) for part in parts]).astype('<u8')
  file = chunks.npy(ends) + chunks.npy(np.concatenate(parts))
  durable.write(path, file)


def _reduce(task: _ReduceTask) -> None:
  directory = _spill_directory(task.shuffle)
  pieces = (
    _piece(directory / f'{name}-{task.shuffle.partitions}', task.partition)
    for name in task.spills
  )
  reduce_partition(task.shuffle, task.partition, pieces)


def _piece(path: epath.Path, partition: int) -> np.ndarray:
  """The records of one partition, without reading the others."""
  with path.open('rb') as file:
    ends = np.load(file)
    version = np.lib.format.read_magic(file)
    assert version == (1, 0), version
    _, _, kind = np.lib.format.read_array_header_1_0(file)
    start = int(ends[partition - 1]) if partition else 0
    count = int(ends[partition]) - start
    file.seek(file.tell() + start * kind.itemsize)
    return np.frombuffer(file.read(count * kind.itemsize), kind)
