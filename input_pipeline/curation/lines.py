"""Takes lines that stand in several documents out of all but one of them.

Suffix: D documents of a chunk.
"""

import dataclasses
import functools

import numpy as np
from etils import epath

from input_pipeline import chunks
from input_pipeline.curation import repeated_lines
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import CurationConfig
from input_pipeline.engine import Engine, Shuffle, partitions_for, results
from input_pipeline.selection import (
  POSITIONS_PER_CHUNK,
  ChunkTask,
  ranks,
  text_batches,
)

# Characters of a line on average, to estimate how many there are.
_LINE_CHARACTERS = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class _LinesTask:
  """A chunk, the lines to take out of it, and where the rest goes."""

  name: str
  chunk: ChunkTask
  lines_L: np.ndarray
  directory: epath.Path


def remove_repeated_lines(
  tasks: list[ChunkTask],
  config: CurationConfig,
  directory: epath.Path,
  engine: Engine,
) -> list[ChunkTask]:
  """Writes new chunks, in which a document without a line left is absent."""
  size = sum(
    int(chunks.load_table(t.directory, t.name)['bytes'].sum()) for t in tasks
  )
  shuffle = Shuffle(
    name='repeated lines',
    directory=directory / 'found',
    kind=repeated_lines.RECORD,
    emit=functools.partial(_records, config=config),
    reduce=repeated_lines.later_lines,
    partitions=partitions_for(
      size // _LINE_CHARACTERS * repeated_lines.RECORD.itemsize
    ),
  )
  engine.shuffle(shuffle, tasks)
  lines = np.sort(np.concatenate(list(results(shuffle))))
  chunk = lines['position'] // np.uint64(POSITIONS_PER_CHUNK)
  bounds = np.searchsorted(chunk, np.arange(len(tasks) + 1))
  edits = [
    _LinesTask(
      name=task.name,
      chunk=task,
      lines_L=lines[bounds[task.number] : bounds[task.number + 1]],
      directory=directory / 'text',
    )
    for task in tasks
  ]
  for _ in engine.map(_edit, edits):
    pass
  return [_edited(edit) for edit in edits]


def _records(task: ChunkTask, config: CurationConfig) -> np.ndarray:
  sources = chunks.load_index(task.directory, task.name).sources
  rank_D, position_D = ranks(task), task.position_D
  found = [np.empty(0, repeated_lines.RECORD)]
  for min_words, members in _by_words(sources, config).items():
    chosen_D = np.zeros(task.kept_D.size, bool)
    chosen_D[members] = task.kept_D[members]
    for place_D, texts in text_batches(task, chosen_D):
      found.append(
        repeated_lines.line_records(
          Columns(texts), rank_D[place_D], position_D[place_D], min_words
        )
      )
  return np.concatenate(found)


def _by_words(
  sources: list[str], config: CurationConfig
) -> dict[int, list[int]]:
  """Fewest words of a line -> numbers of the documents with that setting."""
  found: dict[int, list[int]] = {}
  for number, source in enumerate(sources):
    profile = config.profile_of(source)
    if profile is not None and profile.repeated_lines is not None:
      found.setdefault(profile.repeated_lines, []).append(number)
  return found


def _edit(task: _LinesTask) -> None:
  if chunks.is_written(task.directory, task.name):
    return
  documents = chunks.documents(task.chunk.directory, task.name)
  number = task.lines_L['position'] % np.uint64(POSITIONS_PER_CHUNK)
  for n in np.unique(number).astype(int).tolist():
    absent = task.lines_L['line'][number == n].tolist()
    text = repeated_lines.without_lines(documents[n].text, absent)
    documents[n] = dataclasses.replace(documents[n], text=text)
  table_D = chunks.load_table(task.chunk.directory, task.name)
  chunks.write(
    task.directory, task.name, documents, priority_D=table_D['priority']
  )


def _edited(task: _LinesTask) -> ChunkTask:
  """The new chunk; a document that has no text left is gone."""
  kept_D = task.chunk.kept_D.copy()
  number = task.lines_L['position'] % np.uint64(POSITIONS_PER_CHUNK)
  touched = np.unique(number).astype(int).tolist()
  mask_D = np.zeros(kept_D.size, bool)
  mask_D[touched] = True
  texts = chunks.texts(task.directory, task.name, mask_D)
  for n, text in zip(touched, texts, strict=True):
    kept_D[n] &= bool(text.strip())
  return dataclasses.replace(
    task.chunk, directory=task.directory, kept_D=kept_D
  )
