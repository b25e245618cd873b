"""Leaves out and changes documents, and counts what it does."""

import dataclasses
from collections.abc import Callable

from etils import epath

from input_pipeline.config import DataConfig
from input_pipeline.engine import Engine
from input_pipeline.read import Read
from input_pipeline.selection import (
  POSITIONS_PER_CHUNK,
  ChunkTask,
  chunk_tasks,
  find_equal,
  without,
)

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curated:
  """The documents to train on.

  Attributes:
    tasks: chunks and masks of the documents that stay.
    dropped: documents left out by split and reason.
    source_sha256: by split, of all ids and texts that were read.
  """

  tasks: list[ChunkTask]
  dropped: dict[str, dict[str, int]]
  source_sha256: dict[str, str]

  def tasks_of(self, split: str) -> list[ChunkTask]:
    """Those of a split."""
    return [task for task in self.tasks if task.split == split]


def curate(
  config: DataConfig, found: Read, work: epath.Path, engine: Engine, log: Log
) -> Curated:
  """Runs all stages of curation."""
  tasks = chunk_tasks(found.chunks)
  equal = find_equal(tasks, work / 'equal', engine)
  tasks = without(tasks, equal[:, 0])
  dropped = {split: dict(n) for split, n in found.dropped.items()}
  for split in dropped:
    dropped[split]['duplicate'] = 0
  for chunk in (equal[:, 0] // POSITIONS_PER_CHUNK).tolist():
    dropped[tasks[int(chunk)].split]['duplicate'] += 1
  return Curated(
    tasks=tasks, dropped=dropped, source_sha256=found.source_sha256
  )
