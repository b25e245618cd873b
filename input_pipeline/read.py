"""First stage of `prepare`: the sources become chunks."""

import collections
import dataclasses
import hashlib
import json
from typing import Any

from etils import epath

from input_pipeline import chunks, durable, sources
from input_pipeline.chunks import SPLITS, Chunks
from input_pipeline.config import DataConfig
from input_pipeline.documents import Document, Unreadable
from input_pipeline.engine import Engine
from input_pipeline.errors import DataError
from input_pipeline.progress import Progress

_FINISHED = 'finished.json'
# Unreadable documents that a message names.
_NAMED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
  """What was read.

  Attributes:
    chunks: of all documents.
    dropped: documents left out by split and reason.
    source_sha256: by split, of all ids and texts.
    sources: names of the sources of all documents, sorted.
  """

  chunks: Chunks
  dropped: dict[str, dict[str, int]]
  source_sha256: dict[str, str]
  sources: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadTask:
  """One part of the sources.

  Attributes:
    name: of the task; the chunks' names begin with split and name.
    config: says how to read.
    part: what to read.
    directory: where the chunks go.
    chunk_bytes: of text, from which on a chunk is full.
  """

  name: str
  config: DataConfig
  part: sources.Part
  directory: epath.Path
  chunk_bytes: int


def read(
  config: DataConfig, directory: epath.Path, engine: Engine, progress: Progress
) -> Read:
  """Reads all documents of the sources into chunks.

  Raises:
    DataError: for an unreadable document if data.on_bad_document is 'error',
      for more than data.max_bad_fraction of them, and for a broken file in any
      case.
  """
  finished = directory / _FINISHED
  if not finished.exists():
    tasks = [
      ReadTask(
        name=f'{n:05d}',
        config=config,
        part=part,
        directory=directory,
        chunk_bytes=chunks.CHUNK_BYTES,
      )
      for n, part in enumerate(sources.parts(config))
    ]
    for done in engine.map(read_part, tasks):
      progress.add(*done)
    progress.finish()
    _check_bad(config, tasks)
    durable.write(finished, json.dumps(_summary(tasks)).encode())
  summary = json.loads(finished.read_text())
  return Read(
    chunks=Chunks(directory=directory, names=summary.pop('names')), **summary
  )


def read_part(task: ReadTask) -> tuple[int, int]:
  """Writes the chunks of a part, and last what they are.

  Returns:
    Documents and bytes; zeros if it was finished before.
  """
  finished = task.directory / f'part-{task.name}.json'
  if finished.exists():
    return 0, 0
  writers = {split: _Writer(task, split) for split in SPLITS}
  for split, document in sources.read_part(task.config, task.part):
    writer = writers[split]
    if isinstance(document, Unreadable):
      if task.config.on_bad_document == 'error':
        raise DataError(
          f"{document.reason}; data.on_bad_document='skip' leaves such"
          ' documents out and counts them'
        )
      writer.dropped['unreadable'] += 1
      if len(writer.unreadable) < _NAMED:
        writer.unreadable.append(document.reason)
    elif not document.text or document.text.isspace():
      writer.dropped['empty'] += 1
    else:
      writer.add(document)
  facts = {split: writer.finish() for split, writer in writers.items()}
  durable.write(finished, json.dumps(facts).encode())
  totals = writers.values()
  return sum(w.documents for w in totals), sum(w.bytes for w in totals)


class _Writer:
  """Collects the documents of a part and a split, and writes full chunks."""

  def __init__(self, task: ReadTask, split: str) -> None:
    self._directory = task.directory
    self._chunk_bytes = task.chunk_bytes
    self._prefix = f'{split}-{task.name}'
    self._waiting: list[Document] = []
    self._waiting_bytes = 0
    self._names: list[str] = []
    self._hash = hashlib.sha256()
    self._sources: set[str] = set()
    self.dropped = collections.Counter({'unreadable': 0, 'empty': 0})
    self.documents = self.bytes = 0
    self.unreadable: list[str] = []

  def add(self, document: Document) -> None:
    text = document.text.encode()
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    self._hash.update(f'{json.dumps(document.id)} {digest}\n'.encode())
    self._sources.add(document.source)
    self._waiting.append(document)
    self._waiting_bytes += len(text)
    self.documents += 1
    self.bytes += len(text)
    if self._waiting_bytes >= self._chunk_bytes:
      self._flush()

  def _flush(self) -> None:
    name = f'{self._prefix}-{len(self._names):05d}'
    chunks.write(self._directory, name, self._waiting)
    self._names.append(name)
    self._waiting, self._waiting_bytes = [], 0

  def finish(self) -> dict[str, Any]:
    if self._waiting:
      self._flush()
    return {
      'names': self._names,
      'dropped': dict(self.dropped),
      'sha256': self._hash.hexdigest(),
      'sources': sorted(self._sources),
      'documents': self.documents,
      'unreadable': self.unreadable,
    }


def _check_bad(config: DataConfig, tasks: list[ReadTask]) -> None:
  """Raises DataError where more was left out than may be."""
  facts = [held for part in _parts(tasks) for held in part.values()]
  bad = sum(held['dropped']['unreadable'] for held in facts)
  total = sum(
    held['documents'] + sum(held['dropped'].values()) for held in facts
  )
  if bad > config.max_bad_fraction * total:
    reasons = [reason for held in facts for reason in held['unreadable']]
    raise DataError(
      f'{bad:,} of {total:,} documents cannot be read, more than'
      f' data.max_bad_fraction={config.max_bad_fraction}: '
      + '; '.join(reasons[:_NAMED])
      + ('; ...' if bad > _NAMED else '')
    )


def _parts(tasks: list[ReadTask]) -> list[dict[str, Any]]:
  return [
    json.loads((task.directory / f'part-{task.name}.json').read_text())
    for task in tasks
  ]


def _summary(tasks: list[ReadTask]) -> dict[str, Any]:
  parts = _parts(tasks)
  dropped: dict[str, collections.Counter] = {}
  for split in SPLITS:
    dropped[split] = collections.Counter({'unreadable': 0, 'empty': 0})
    for part in parts:
      dropped[split].update(part[split]['dropped'])
  return {
    'names': {s: [n for p in parts for n in p[s]['names']] for s in SPLITS},
    'dropped': {s: dict(dropped[s]) for s in SPLITS},
    'source_sha256': {
      s: hashlib.sha256(
        ''.join(p[s]['sha256'] for p in parts).encode()
      ).hexdigest()
      for s in SPLITS
    },
    'sources': sorted(
      {source for p in parts for s in SPLITS for source in p[s]['sources']}
    ),
  }
