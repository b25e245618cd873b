"""The prepared store: rows of tokens on disk, and where each came from.

A directory holds manifest.json (written last: without it nothing is complete),
tokenizer.json, and for every shard of a split
  <shard>.rows             rows x R little-endian uint16 or uint32, no header
  <shard>.pieces.npy       uint32 [pieces, 4]: row in the shard, document in
                           the shard, token offset, places (see packing.py)
  <shard>.documents.jsonl  one line a document: id, source, bytes, tokens
"""

import concurrent.futures
import dataclasses
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator

import numpy as np
from etils import epath

from input_pipeline import durable, packing, store_manifest, workers
from input_pipeline.errors import DataError
from input_pipeline.store_manifest import Manifest, ShardManifest
from input_pipeline.tokenizer import token_dtype

MANIFEST = 'manifest.json'
TOKENIZER = 'tokenizer.json'
_REMOTE_READS = 32
_BLOCK_BYTES = 1 << 20


def copy_name(copy: int) -> str:
  """Name of the rows of the n-th copy of training, encoded with dropout."""
  return f'train-copy-{copy}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
  """Part of a document in a row.

  Attributes:
    document: its id.
    source: its source.
    column: place of the piece's mark in the row.
    length: places, the mark and a final eos included.
    offset: tokens of the document before the piece.
  """

  document: str
  source: str
  column: int
  length: int
  offset: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """The ids and the sources of the documents of a shard."""

  ids: list[str]
  sources: list[str]

  def describe(self, pieces_P4: np.ndarray) -> list[Piece]:
    """Names the pieces of one row."""
    found, column = [], 0
    for _, document, offset, length in pieces_P4.tolist():
      found.append(
        Piece(
          document=self.ids[document],
          source=self.sources[document],
          column=column,
          length=length,
          offset=offset,
        )
      )
      column += length
    return found


class Rows:
  """Rows of a split, read by index; made by `Store.rows`.

  What cannot be right raises a DataError: a file that is shorter than it was
  when the store was opened, a token beyond the vocabulary.

  Attributes:
    row_length: R, tokens of a row.
    dtype: of the tokens.
  """

  def __init__(
    self,
    *,
    directory: epath.Path,
    shards: tuple[ShardManifest, ...],
    row_length: int,
    vocab_size: int,
  ) -> None:
    self.row_length = row_length
    self.dtype = token_dtype(vocab_size)
    self._vocab_size = vocab_size
    self._directory = directory
    self._shards = shards
    self._ends = np.cumsum([shard.rows for shard in shards])
    self._maps: dict[int, np.ndarray] = {}
    self._tables: dict[int, np.ndarray] = {}
    self._origins: dict[int, Origin] = {}
    # A remote row is one small request, so many of them are on their way.
    self._readers = concurrent.futures.ThreadPoolExecutor(_REMOTE_READS)

  def __len__(self) -> int:
    return int(self._ends[-1])

  @property
  def epoch_rows(self) -> tuple[int, ...]:
    """Rows of each epoch, in a cycle: all epochs are of the same length."""
    return (len(self),)

  def read(
    self, indices_N: np.ndarray, epoch_N: np.ndarray | None = None
  ) -> np.ndarray:
    """Rows of these indices, uint16 or uint32 [N, R], in their order.

    They are the same in every epoch; those of repack.py are not.
    """
    del epoch_N
    if len(self._shards) == 1:
      return self._read_shard(0, indices_N)
    rows_NR = np.empty((len(indices_N), self.row_length), self.dtype)
    shard_N, local_N = self._locate(indices_N)
    for shard in np.unique(shard_N):
      chosen = np.flatnonzero(shard_N == shard)
      rows_NR[chosen] = self._read_shard(int(shard), local_N[chosen])
    return rows_NR

  def pieces(
    self, indices_N: np.ndarray, epoch_N: np.ndarray | None = None
  ) -> list[list[Piece]]:
    """Which documents stand in these rows, in the order of their places."""
    del epoch_N
    shard_N, local_N = self._locate(indices_N)
    return [
      self._pieces_of_row(int(shard), int(row))
      for shard, row in zip(shard_N, local_N, strict=True)
    ]

  @property
  def shard_starts(self) -> np.ndarray:
    """Index of the first row of each shard."""
    return self._ends - [shard.rows for shard in self._shards]

  def table(self, shard: int) -> np.ndarray:
    """What stands where in a shard: int64 [P, 4], columns of packing.py."""
    if shard not in self._tables:
      data = self._read_whole(
        shard, 'pieces.npy', self._shards[shard].pieces_sha256
      )
      try:
        table_P4 = np.load(io.BytesIO(data), allow_pickle=False)
      except (ValueError, EOFError) as error:
        path = self._path(shard, 'pieces.npy')
        raise DataError(f'{path} is no table of pieces: {error}') from error
      self._tables[shard] = table_P4.astype(np.int64)
    return self._tables[shard]

  def origin(self, shard: int) -> Origin:
    """Which documents a shard holds."""
    if shard not in self._origins:
      data = self._read_whole(
        shard, 'documents.jsonl', self._shards[shard].documents_sha256
      )
      documents = [json.loads(line) for line in data.splitlines()]
      self._origins[shard] = Origin(
        ids=[document['id'] for document in documents],
        # Sources are few: each name is kept once.
        sources=[sys.intern(document['source']) for document in documents],
      )
    return self._origins[shard]

  def _locate(self, indices_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.any((indices_N < 0) | (indices_N >= len(self))):
      raise IndexError(f'rows {indices_N} of a split of {len(self)} rows')
    shard_N = np.searchsorted(self._ends, indices_N, side='right')
    return shard_N, indices_N - self.shard_starts[shard_N]

  def _path(self, shard: int, ending: str) -> epath.Path:
    return self._directory / f'{self._shards[shard].name}.{ending}'

  def _read_whole(self, shard: int, ending: str, sha256: str) -> bytes:
    """A file that was prepared as it is, to the last bit."""
    path = self._path(shard, ending)
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != sha256:
      raise _differs(path)
    return data

  def _read_shard(self, shard: int, local_N: np.ndarray) -> np.ndarray:
    rows_NR = self._read_rows(shard, local_N)
    if rows_NR.size and (found := int(rows_NR.max())) >= self._vocab_size:
      raise DataError(
        f'{self._path(shard, "rows")} holds token {found}, and the vocabulary'
        f' ends at {self._vocab_size - 1}: it is damaged; remove'
        f' {self._directory} and prepare anew'
      )
    return rows_NR

  def _read_rows(self, shard: int, local_N: np.ndarray) -> np.ndarray:
    path = self._path(shard, 'rows')
    if durable.is_local(path):
      if shard not in self._maps:
        # It may have been cut since the store was opened.
        _check_size(path, self._shards[shard].bytes)
        self._maps[shard] = np.memmap(path, self.dtype, 'r').reshape(
          -1, self.row_length
        )
      return np.asarray(self._maps[shard][local_N])
    size = self.row_length * self.dtype.itemsize

    def read(row: int) -> bytes:
      with path.open('rb') as file:
        file.seek(row * size)
        return file.read(size)

    data = b''.join(self._readers.map(read, local_N.tolist()))
    if len(data) != len(local_N) * size:
      _check_size(path, self._shards[shard].bytes)
      raise DataError(f'{path} gave {len(data)} bytes of {len(local_N)} rows')
    return np.frombuffer(data, self.dtype).reshape(-1, self.row_length)

  def _pieces_of_row(self, shard: int, row: int) -> list[Piece]:
    pieces_P4 = self.table(shard)
    first, last = np.searchsorted(pieces_P4[:, packing.ROW], [row, row + 1])
    return self.origin(shard).describe(pieces_P4[first:last])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
  """A complete store; made by `open_store`."""

  directory: epath.Path
  manifest: Manifest

  def rows(self, split: str) -> Rows:
    """Rows of 'train', 'validation' or a copy of training."""
    return Rows(
      directory=self.directory,
      shards=self.manifest.splits[split].shards,
      row_length=self.manifest.sequence_length + 1,
      vocab_size=self.manifest.tokenizer.vocab_size,
    )

  def training_copies(self) -> list[Rows]:
    """The rows of training, and of its copies encoded with dropout."""
    names = ['train']
    while (name := copy_name(len(names))) in self.manifest.splits:
      names.append(name)
    return [self.rows(name) for name in names]

  def verify(self) -> int:
    """Reads every file and compares its hash with the manifest.

    Returns:
      Bytes read.

    Raises:
      DataError: names the first file that differs.
    """
    files = {TOKENIZER: self.manifest.tokenizer.sha256}
    for shard in self._shards():
      files[f'{shard.name}.rows'] = shard.sha256
      files[f'{shard.name}.pieces.npy'] = shard.pieces_sha256
      files[f'{shard.name}.documents.jsonl'] = shard.documents_sha256

    def check(name: str) -> int:
      path, found, size = self.directory / name, hashlib.sha256(), 0
      for block in _blocks(path):
        found.update(block)
        size += len(block)
      if found.hexdigest() != files[name]:
        raise _differs(path)
      return size

    with concurrent.futures.ThreadPoolExecutor(workers.cores()) as pool:
      return sum(pool.map(check, files))

  def check_sizes(self) -> None:
    """Compares the sizes of all files with the manifest.

    Raises:
      DataError: a file is missing, has another size, or lies elsewhere.
    """
    sizes: dict[str, int | None] = {}
    for shard in self._shards():
      sizes[f'{shard.name}.rows'] = shard.bytes
      sizes[f'{shard.name}.pieces.npy'] = shard.pieces_bytes
      sizes[f'{shard.name}.documents.jsonl'] = shard.documents_bytes

    def check(name: str) -> None:
      _check_size(self.directory / name, sizes[name])

    # In a bucket each is a request.
    with concurrent.futures.ThreadPoolExecutor(_REMOTE_READS) as pool:
      list(pool.map(check, sizes))

  def _shards(self) -> Iterator[ShardManifest]:
    for split in self.manifest.splits.values():
      yield from split.shards


def open_store(directory: epath.PathLike) -> Store:
  """Opens a prepared store and checks that its files are all there.

  Raises:
    ValueError: the store is incomplete, or of another format.
    DataError: the manifest or the tokenizer is damaged, or a file is missing
      or has another size than the manifest says.
  """
  directory = epath.Path(directory)
  path = directory / MANIFEST
  if not path.exists():
    raise ValueError(
      f'{directory} is no complete store, as {MANIFEST} is missing; prepare it'
      ' (the prepare command) or correct data.directory'
    )
  store = Store(
    directory=directory, manifest=store_manifest.parse(_read(path), path)
  )
  tokenizer = _read(directory / TOKENIZER)
  if hashlib.sha256(tokenizer).hexdigest() != store.manifest.tokenizer.sha256:
    raise _differs(directory / TOKENIZER)
  store.check_sizes()
  return store


def _blocks(path: epath.Path) -> Iterator[bytes]:
  _check_place(path)
  try:
    with path.open('rb') as file:
      while block := file.read(_BLOCK_BYTES):
        yield block
  except OSError as error:
    raise DataError(f'{path} cannot be read: {error}') from error


def _read(path: epath.Path) -> bytes:
  return b''.join(_blocks(path))


def _differs(path: epath.Path) -> DataError:
  return DataError(
    f'{path} is not what was prepared: its sha256 differs from the'
    f' manifest; remove {path.parent} and prepare anew'
  )


def _check_size(path: epath.Path, expected: int | None) -> None:
  _check_place(path)
  found = path.stat().length if path.exists() else None
  if found is None or expected not in (None, found):
    raise DataError(
      f'{path} has {found} bytes, the manifest says {expected}; remove'
      f' {path.parent} and prepare anew'
    )


def _check_place(path: epath.Path) -> None:
  """Refuses a file that is a link to somewhere else."""
  if durable.is_local(path) and (
    os.path.dirname(os.path.realpath(path)) != os.path.realpath(path.parent)
  ):
    raise DataError(
      f'{path} is a link to {os.path.realpath(path)}: files of a store lie in'
      ' its directory; put the file there, or link the whole directory'
    )
