"""Which of the documents stay, where that depends on the others.

Suffix: D documents of a chunk, N documents of all.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from etils import epath

from input_pipeline import chunks
from input_pipeline.chunks import Chunks
from input_pipeline.documents import TRAIN, VALIDATION
from input_pipeline.engine import (
  Engine,
  Shuffle,
  partitions_for,
  results,
)

# A document is known by the number of its chunk, validation first, times this,
# and its number in the chunk.
POSITIONS_PER_CHUNK = 1 << 32
# Characters of text that are looked at together.
_BATCH = 1_000_000

EXACT = np.dtype(
  [('key', '<u8'), ('low', '<u8'), ('rank', '<u8'), ('position', '<u8')]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkTask:
  """A chunk, and which of its documents are still there.

  Attributes:
    name: of the chunk.
    number: of the chunk among all.
    directory: where it lies.
    split: that it belongs to.
    kept_D: mask.
    quality: directory of the levels of quality; None: all are alike.
  """

  name: str
  number: int
  directory: epath.Path
  split: str
  kept_D: np.ndarray
  quality: epath.Path | None = None

  @property
  def position_D(self) -> np.ndarray:
    """What the documents are known by, uint64."""
    first = self.number * POSITIONS_PER_CHUNK
    return np.uint64(first) + np.arange(self.kept_D.size, dtype=np.uint64)


def chunk_tasks(source: Chunks) -> list[ChunkTask]:
  """Every chunk, with all of its documents."""
  tasks: list[ChunkTask] = []
  for split in (VALIDATION, TRAIN):
    for name in source.names[split]:
      size = chunks.load_table(source.directory, name).size
      tasks.append(
        ChunkTask(
          name=name,
          number=len(tasks),
          directory=source.directory,
          split=split,
          kept_D=np.ones(size, bool),
        )
      )
  return tasks


def ranks(task: ChunkTask) -> np.ndarray:
  """Of two equal documents the one of smaller rank stays, uint64 [D].

  Validation wins over training, then the priority of the source decides, then
  quality. Of equal ranks the first position wins.
  """
  table_D = chunks.load_table(task.directory, task.name)
  rank_D = np.full(table_D.size, task.split == TRAIN, np.uint64)
  rank_D = rank_D << np.uint64(16) | table_D['priority'].astype(np.uint64)
  worse_D = np.uint64(0xFFFF) - levels_of(task).astype(np.uint64)
  return rank_D << np.uint64(16) | worse_D


def levels_of(task: ChunkTask) -> np.ndarray:
  """Levels of quality, the greater the better, uint16 [D]."""
  if task.quality is None:
    return np.zeros(task.kept_D.size, np.uint16)
  with (task.quality / f'{task.name}.npy').open('rb') as file:
    return np.load(file)


def exact_records(task: ChunkTask) -> np.ndarray:
  """A record of EXACT for every document that is there."""
  table_D = chunks.load_table(task.directory, task.name)
  records_D = np.empty(table_D.size, EXACT)
  records_D['key'], records_D['low'] = table_D['high'], table_D['low']
  records_D['rank'], records_D['position'] = ranks(task), task.position_D
  return records_D[task.kept_D]


def later_equals(records_N: np.ndarray) -> np.ndarray:
  """(position, position of the one that stays) of all but the best of equals.

  Args:
    records_N: EXACT, sorted by all fields.
  """
  same_N = np.zeros(records_N.size, bool)
  same_N[1:] = (records_N['key'][1:] == records_N['key'][:-1]) & (
    records_N['low'][1:] == records_N['low'][:-1]
  )
  first_N = np.maximum.accumulate(np.where(same_N, 0, np.arange(same_N.size)))
  position_N = records_N['position']
  return np.stack([position_N[same_N], position_N[first_N[same_N]]], axis=1)


def find_equal(
  tasks: list[ChunkTask], directory: epath.Path, engine: Engine
) -> np.ndarray:
  """Documents whose text another one has: uint64 [M, 2], as `later_equals`."""
  documents = sum(task.kept_D.size for task in tasks)
  shuffle = Shuffle(
    name='equal texts',
    directory=directory,
    kind=EXACT,
    emit=exact_records,
    reduce=later_equals,
    partitions=partitions_for(documents * EXACT.itemsize),
  )
  engine.shuffle(shuffle, tasks)
  return np.concatenate(list(results(shuffle)))


def without(tasks: list[ChunkTask], positions: np.ndarray) -> list[ChunkTask]:
  """The tasks without the documents at some positions."""
  chunk, place = np.divmod(np.sort(positions), np.uint64(POSITIONS_PER_CHUNK))
  bounds = np.searchsorted(chunk, np.arange(len(tasks) + 1))
  changed = []
  for task in tasks:
    kept_D = task.kept_D.copy()
    first, last = bounds[task.number], bounds[task.number + 1]
    kept_D[place[first:last].astype(np.int64)] = False
    changed.append(dataclasses.replace(task, kept_D=kept_D))
  return changed


def text_batches(
  task: ChunkTask, chosen_D: np.ndarray
) -> Iterator[tuple[np.ndarray, list[str]]]:
  """Yields numbers of chosen documents and their texts, about 1 MB a time."""
  places = np.flatnonzero(chosen_D)
  texts: list[str] = []
  start = size = 0
  for text in chunks.texts(task.directory, task.name, chosen_D):
    texts.append(text)
    size += len(text)
    if size >= _BATCH:
      yield places[start : start + len(texts)], texts
      start += len(texts)
      texts, size = [], 0
  if texts:
    yield places[start:], texts


def sample(tasks: list[ChunkTask], size: int) -> list[np.ndarray]:
  """Kept documents of about `size` bytes together, as masks of the tasks.

  Taken in the order of the hashes of the texts, so that it is a random sample
  that depends on nothing else.
  """
  tables = [chunks.load_table(task.directory, task.name) for task in tasks]
  weight_N = np.concatenate([table['bytes'] for table in tables])
  return _sample(tasks, weight_N, size)


def sample_documents(tasks: list[ChunkTask], number: int) -> list[np.ndarray]:
  """So many kept documents, or all, chosen as by `sample`."""
  weight_N = np.ones(sum(task.kept_D.size for task in tasks), np.uint64)
  return _sample(tasks, weight_N, number)


def _sample(
  tasks: list[ChunkTask], weight_N: np.ndarray, size: int
) -> list[np.ndarray]:
  tables = [chunks.load_table(task.directory, task.name) for task in tasks]
  kept_N = np.concatenate([task.kept_D for task in tasks])
  hash_N = np.concatenate([table['high'] for table in tables])
  chosen = np.flatnonzero(kept_N)
  chosen = chosen[np.argsort(hash_N[chosen], kind='stable')]
  before = np.cumsum(weight_N[chosen]) - weight_N[chosen]
  sample_N = np.zeros(kept_N.size, bool)
  sample_N[chosen[before < size]] = True
  return np.split(sample_N, np.cumsum([t.kept_D.size for t in tasks])[:-1])
