"""Documents on disk between the stages of `prepare`.

A chunk is <name>.text, the texts one after the other; <name>.json, their ids,
sources and licences; and <name>.npy, a table of numbers. The chunks follow from
the sources alone, so what is made of them does not depend on how many processes
work on them. Suffix: D documents.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from input_pipeline import durable
from input_pipeline.documents import TRAIN, VALIDATION, Document

SPLITS = (TRAIN, VALIDATION)
# Bounds the memory of a worker; a longer document is a chunk by itself.
CHUNK_BYTES = 8 << 20

# Numbers of a document: UTF-8 bytes, a hash of the text in two halves, and the
# place of its source in data.curation.source_priority.
TABLE = np.dtype(
  [
    ('bytes', '<u8'),
    ('high', '<u8'),
    ('low', '<u8'),
    ('priority', '<u2'),
  ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunks:
  """A set of chunks.

  Attributes:
    directory: where they lie.
    names: of the chunks of each split, in order.
  """

  directory: epath.Path
  names: dict[str, list[str]]

  def all_names(self) -> list[str]:
    """Validation first: its texts win over the same ones in training."""
    return [*self.names[VALIDATION], *self.names[TRAIN]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
  """The documents of a chunk, without their texts."""

  ids: list[str]
  sources: list[str]
  licences: list[str]
  table_D: np.ndarray


def write(
  directory: epath.Path,
  name: str,
  documents: Sequence[Document],
  *,
  priority_D: np.ndarray | int = 0,
) -> None:
  """Writes a chunk; its .json comes last and makes it complete."""
  texts = [document.text.encode() for document in documents]
  table_D = np.zeros(len(texts), TABLE)
  table_D['bytes'] = [len(text) for text in texts]
  digests = b''.join(hashlib.blake2b(t, digest_size=16).digest() for t in texts)
  table_D['high'], table_D['low'] = (
    np.frombuffer(digests, '>u8').reshape(-1, 2).T
  )
  table_D['priority'] = priority_D
  durable.write(directory / f'{name}.text', b''.join(texts))
  durable.write(directory / f'{name}.npy', npy(table_D))
  columns = {
    'ids': [document.id for document in documents],
    'sources': [document.source for document in documents],
    'licences': [document.licence for document in documents],
  }
  durable.write(directory / f'{name}.json', json.dumps(columns).encode())


def is_written(directory: epath.Path, name: str) -> bool:
  """Whether a chunk is complete."""
  return (directory / f'{name}.json').exists()


def load_table(directory: epath.Path, name: str) -> np.ndarray:
  """The numbers of the documents of a chunk, TABLE [D]."""
  return np.load(io.BytesIO((directory / f'{name}.npy').read_bytes()))


def load_index(directory: epath.Path, name: str) -> Index:
  """What a chunk holds beside the texts."""
  columns = json.loads((directory / f'{name}.json').read_text())
  return Index(**columns, table_D=load_table(directory, name))


def texts(
  directory: epath.Path, name: str, kept_D: np.ndarray | None = None
) -> Iterator[str]:
  """Yields the chosen texts of a chunk, or all; `kept_D` is a mask."""
  data = (directory / f'{name}.text').read_bytes()
  bytes_D = load_table(directory, name)['bytes'].astype(np.int64)
  stop_D = np.cumsum(bytes_D)
  if kept_D is None:
    kept_D = np.ones(stop_D.size, bool)
  assert kept_D.size == stop_D.size, (directory, name)
  for i in np.flatnonzero(kept_D):
    yield data[stop_D[i] - bytes_D[i] : stop_D[i]].decode()


def documents(
  directory: epath.Path, name: str, kept_D: np.ndarray | None = None
) -> list[Document]:
  """The chosen documents of a chunk, or all."""
  index = load_index(directory, name)
  if kept_D is None:
    kept_D = np.ones(len(index.ids), bool)
  chosen = np.flatnonzero(kept_D).tolist()
  return [
    Document(index.ids[i], text, index.sources[i], index.licences[i])
    for i, text in zip(chosen, texts(directory, name, kept_D), strict=True)
  ]


def npy(array: np.ndarray) -> bytes:
  """An array as the bytes of a .npy file."""
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()
