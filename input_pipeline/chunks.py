"""First stage of `prepare`: documents as chunks of text files, deduplicated.

A chunk is <name>.text, the texts one after the other, and <name>.json, which
says for each its id, source, bytes and hash. The size of chunks is fixed, so
that the result does not depend on how many processes work on them.
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from input_pipeline import durable
from input_pipeline.config import DataConfig
from input_pipeline.progress import Progress
from input_pipeline.sources import TRAIN, VALIDATION, Unreadable, documents

SPLITS = (TRAIN, VALIDATION)
# Bounds the memory of a worker; a longer document is a chunk by itself.
CHUNK_BYTES = 8 << 20
_FINISHED = 'finished.json'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunks:
  """What was read.

  Attributes:
    directory: of the chunks.
    counts: number of chunks by split.
    dropped: documents left out by split and reason.
    source_sha256: by split, of all ids and texts.
  """

  directory: epath.Path
  counts: dict[str, int]
  dropped: dict[str, dict[str, int]]
  source_sha256: dict[str, str]

  def names(self, split: str) -> list[str]:
    """Chunks of a split, in order."""
    return [chunk_name(split, n) for n in range(self.counts[split])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
  """The documents of a chunk: ids, sources, UTF-8 bytes, hashes [D, 2]."""

  ids: list[str]
  sources: list[str]
  bytes_D: np.ndarray
  hashes_D2: np.ndarray


def chunk_name(split: str, number: int) -> str:
  """Name of a chunk."""
  return f'{split}-{number:06d}'


def read(
  config: DataConfig, directory: epath.Path, log: Callable[[str], None]
) -> Chunks:
  """Reads all documents of the source into chunks.

  A start after a finished read reads nothing again; one after an unfinished
  read begins anew, as its order is that of the source.

  Raises:
    ValueError: for an unreadable document if data.on_bad_document is 'error'.
  """
  finished = directory / _FINISHED
  if not finished.exists():
    writers = {split: _Writer(directory, split) for split in SPLITS}
    progress = Progress('Read', log)
    for split, document in documents(config):
      writer = writers[split]
      if isinstance(document, Unreadable):
        if config.on_bad_document == 'error':
          raise ValueError(
            f"{document.reason}; data.on_bad_document='skip' leaves such"
            ' documents out and counts them'
          )
        writer.dropped['unreadable'] += 1
      elif not document.text or document.text.isspace():
        writer.dropped['empty'] += 1
      else:
        text = document.text.encode()
        writer.add(document.id, document.source, text)
        progress.add(1, len(text))
    for writer in writers.values():
      writer.flush()
    progress.finish()
    summary = {
      'counts': {s: w.number for s, w in writers.items()},
      'dropped': {s: dict(w.dropped) for s, w in writers.items()},
      'source_sha256': {s: w.hash.hexdigest() for s, w in writers.items()},
    }
    durable.write(finished, json.dumps(summary).encode())
  return Chunks(directory=directory, **json.loads(finished.read_text()))


class _Writer:
  """Collects the documents of a split and writes full chunks."""

  def __init__(self, directory: epath.Path, split: str) -> None:
    self._directory = directory
    self._split = split
    self._start()
    self.number = 0
    self.dropped = collections.Counter({'unreadable': 0, 'empty': 0})
    self.hash = hashlib.sha256()

  def _start(self) -> None:
    self._texts: list[bytes] = []
    self._entries: list[tuple[str, str, int, str]] = []
    self._bytes = 0

  def add(self, identifier: str, source: str, text: bytes) -> None:
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    self.hash.update(f'{json.dumps(identifier)} {digest}\n'.encode())
    self._texts.append(text)
    self._entries.append((identifier, source, len(text), digest))
    self._bytes += len(text)
    if self._bytes >= CHUNK_BYTES:
      self.flush()

  def flush(self) -> None:
    if self._entries:
      name = chunk_name(self._split, self.number)
      durable.write(self._directory / f'{name}.text', b''.join(self._texts))
      entries = json.dumps(list(zip(*self._entries, strict=True))).encode()
      durable.write(self._directory / f'{name}.json', entries)
      self.number += 1
      self._start()


def load_index(directory: epath.Path, name: str) -> Index:
  """Reads what a chunk holds."""
  columns = json.loads((directory / f'{name}.json').read_text())
  ids, sources, sizes, digests = columns
  hashes = np.frombuffer(bytes.fromhex(''.join(digests)), '>u8').reshape(-1, 2)
  return Index(
    ids=ids,
    sources=sources,
    bytes_D=np.array(sizes, np.int64),
    hashes_D2=hashes.astype(np.uint64),
  )


def texts(
  directory: epath.Path, name: str, kept_D: np.ndarray
) -> Iterator[str]:
  """Yields the chosen texts of a chunk; `kept_D` is a mask."""
  data = (directory / f'{name}.text').read_bytes()
  ends = np.cumsum(load_index(directory, name).bytes_D).tolist()
  for start, stop, kept in zip([0, *ends[:-1]], ends, kept_D, strict=True):
    if kept:
      yield data[start:stop].decode()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
  """Which documents stay, and which of them train the tokenizer.

  Attributes:
    kept: split -> mask of each chunk, bool [D].
    duplicates: split -> documents left out.
    sample: masks of the training chunks.
  """

  kept: dict[str, list[np.ndarray]]
  duplicates: dict[str, int]
  sample: list[np.ndarray]


def select(chunks: Chunks, sample_bytes: int) -> Selection:
  """Drops texts that stood before, and draws the tokenizer's sample.

  Validation comes first, so a text that stands in both splits leaves training.
  The sample takes kept training documents in the order of their hashes until
  `sample_bytes` are reached.
  """
  indices = {
    split: [load_index(chunks.directory, n) for n in chunks.names(split)]
    for split in SPLITS
  }
  order = [i for split in (VALIDATION, TRAIN) for i in indices[split]]
  empty_02 = np.empty((0, 2), np.uint64)
  hashes_D2 = np.concatenate([empty_02, *(i.hashes_D2 for i in order)])
  kept_D = _first_of_each(hashes_D2)

  bytes_D = np.concatenate([np.empty(0, np.int64), *(i.bytes_D for i in order)])
  held_out = sum(i.bytes_D.size for i in indices[VALIDATION])
  sample_D = np.zeros_like(kept_D)
  training = held_out + np.flatnonzero(kept_D[held_out:])
  training = training[np.argsort(hashes_D2[training, 0], kind='stable')]
  before = np.cumsum(bytes_D[training]) - bytes_D[training]
  sample_D[training[before < sample_bytes]] = True

  ends = np.cumsum([index.bytes_D.size for index in order])[:-1]
  kept = np.split(kept_D, ends) if order else []
  sample = np.split(sample_D, ends) if order else []
  first = chunks.counts[VALIDATION]
  by_split = {VALIDATION: kept[:first], TRAIN: kept[first:]}
  return Selection(
    kept=by_split,
    duplicates={s: sum(int((~m).sum()) for m in by_split[s]) for s in SPLITS},
    sample=sample[first:],
  )


def _first_of_each(hashes_D2: np.ndarray) -> np.ndarray:
  """Mask of the first occurrence of every hash; the sort is stable."""
  order = np.lexsort((hashes_D2[:, 1], hashes_D2[:, 0]))
  sorted_D2 = hashes_D2[order]
  new = np.ones(len(order), bool)
  new[1:] = np.any(sorted_D2[1:] != sorted_D2[:-1], axis=1)
  kept_D = np.zeros(len(order), bool)
  kept_D[order[new]] = True
  return kept_D
