"""Trains the quality model on this machine, and scores all documents by it.

Suffix: D documents of a chunk.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from input_pipeline import chunks, durable, file_source, named_arrays
from input_pipeline.config import DataConfig
from input_pipeline.curation import quality_model
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.normalise import normalise
from input_pipeline.curation.quality_model import Model
from input_pipeline.documents import TRAIN, Unreadable
from input_pipeline.engine import Engine
from input_pipeline.selection import (
  ChunkTask,
  levels_of,
  sample_documents,
  text_batches,
)

Log = Callable[[str], None]
_BATCH = 1_000_000
_FIELD = 'data.curation.quality_model.trusted_files'
_READERS = {
  'txt': file_source.read_text,
  'jsonl': file_source.read_jsonl,
  'jsonl.gz': file_source.read_jsonl,
  'jsonl.zst': file_source.read_jsonl,
  'parquet': file_source.read_parquet,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ScoreTask:
  """A chunk, the file of the model, and where the levels go."""

  name: str
  chunk: ChunkTask
  model: epath.Path
  directory: epath.Path


def score(
  tasks: list[ChunkTask],
  config: DataConfig,
  directory: epath.Path,
  engine: Engine,
  log: Log,
) -> list[ChunkTask]:
  """The tasks with levels of quality."""
  path = directory / 'model.npz'
  if not path.exists():
    model = quality_model.train(_trusted(config), _raw(tasks, config))
    facts = dataclasses.asdict(model)
    weights_F = facts.pop('weights_F')
    durable.write(path, named_arrays.pack(facts, [weights_F]))
    log(
      f'Quality model: {model.trusted:,} trusted and {model.raw:,} raw'
      f' documents, of those held out {model.accuracy:.1%} are told apart'
    )
  scored = [
    _ScoreTask(name=task.name, chunk=task, model=path, directory=directory)
    for task in tasks
  ]
  for _ in engine.map(_score, scored):
    pass
  return [dataclasses.replace(task, quality=directory) for task in tasks]


def below_threshold(tasks: list[ChunkTask], config: DataConfig) -> np.ndarray:
  """Positions of the documents that are not among the best.

  The threshold comes from training; validation has the same one.
  """
  total_V2 = np.zeros((quality_model.LEVELS, 2), np.int64)
  for task in tasks:
    if task.split == TRAIN:
      bytes_D = chunks.load_table(task.directory, task.name)['bytes']
      total_V2 += quality_model.histogram(
        levels_of(task)[task.kept_D], bytes_D[task.kept_D]
      )
  least = quality_model.threshold(total_V2, config.curation.quality_model)
  return np.concatenate(
    [t.position_D[t.kept_D & (levels_of(t) < least)] for t in tasks]
  )


def _score(task: _ScoreTask) -> None:
  path = task.directory / f'{task.name}.npy'
  if path.exists():
    return
  model = _load(task.model)
  level_D = np.zeros(task.chunk.kept_D.size, np.uint16)
  for place_D, texts in text_batches(task.chunk, task.chunk.kept_D):
    score_D = quality_model.scores(Columns(texts), model)
    level_D[place_D] = quality_model.levels(score_D)
  durable.write(path, chunks.npy(level_D))


@functools.lru_cache(maxsize=1)
def _load(path: epath.Path) -> Model:
  facts, (weights_F,) = named_arrays.unpack(path.read_bytes())
  return Model(weights_F=weights_F, **facts)


def _trusted(config: DataConfig) -> Iterator[Columns]:
  """The trusted documents, a batch at a time."""
  patterns = config.curation.quality_model.trusted_files
  texts: list[str] = []
  size = 0
  for file in file_source.matching_files(patterns, _FIELD):
    suffix = file.path.name.partition('.')[2]
    if suffix not in _READERS:
      raise ValueError(
        f'{_FIELD}: the name of {file.path} does not end in one of'
        f' {", ".join(_READERS)}'
      )
    for document in _READERS[suffix](config, file):
      if isinstance(document, Unreadable):
        raise ValueError(f'{_FIELD}: {document.reason}')
      text, _, _ = normalise(document.text, repair_mojibake=False)
      texts.append(text)
      size += len(text)
      if size >= _BATCH:
        yield Columns(texts)
        texts, size = [], 0
  yield Columns(texts)


def _raw(tasks: list[ChunkTask], config: DataConfig) -> Iterator[Columns]:
  """Random documents of training, after the rules."""
  held = [task for task in tasks if task.split == TRAIN]
  number = config.curation.quality_model.raw_documents
  masks = sample_documents(held, number)
  for task, mask_D in zip(held, masks, strict=True):
    for _, texts in text_batches(task, mask_D):
      yield Columns(texts)
