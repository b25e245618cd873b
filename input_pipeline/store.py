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
import sys
from typing import Any

import numpy as np
from etils import epath

from input_pipeline import durable, packing
from input_pipeline.tokenizer import token_dtype

FORMAT_VERSION = 2
MANIFEST = 'manifest.json'
TOKENIZER = 'tokenizer.json'
_REMOTE_READS = 32


def copy_name(copy: int) -> str:
  """Name of the rows of the n-th copy of training, encoded with dropout."""
  return f'train-copy-{copy}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardManifest:
  """One shard of a split; sizes in bytes, of the three files in turn."""

  name: str
  rows: int
  bytes: int
  sha256: str
  pieces_sha256: str
  documents_sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceManifest:
  """What a source has in a split: kept documents, UTF-8 bytes and tokens."""

  documents: int
  text_bytes: int
  tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitManifest:
  """What a split holds.

  Attributes:
    documents: kept documents.
    text_bytes: their UTF-8 bytes.
    tokens: their tokens, special tokens not counted.
    rows: rows of sequence_length + 1 tokens.
    padding_tokens: places of the rows that hold nothing.
    target_tokens: tokens that the model is asked to predict: every token of
      the documents, and the end of each.
    dropped: documents left out, by reason: 'unreadable', 'empty', 'duplicate'
      (the text stood before, or stands in validation), and the other rules of
      curation, those on single documents as '<stage>/<rule>'.
    unigram_entropy: of the predicted tokens, in nats; the loss of a model that
      knows the frequencies only.
    source_sha256: of the ids and texts read.
    sources: what each source has in it.
    shards: in the order of their rows.
  """

  documents: int
  text_bytes: int
  tokens: int
  rows: int
  padding_tokens: int
  target_tokens: int
  dropped: dict[str, int]
  unigram_entropy: float
  source_sha256: str
  sources: dict[str, SourceManifest]
  shards: tuple[ShardManifest, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerManifest:
  """The tokenizer of the store, whose tokenizer.json lies beside.

  `special_tokens` are those beside the four that structure a row; a store that
  was prepared before they could be reserved has none.
  """

  kind: str
  encoder: str
  vocab_size: int
  sha256: str
  pad_id: int
  bos_id: int
  continue_id: int
  eos_id: int
  special_tokens: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
  """What a store holds and where it comes from.

  Attributes:
    format_version: of the store's files.
    fingerprint: hex; equal where options, sources, tokenizer and rows are.
    sequence_length: R - 1.
    options: the options that change the bytes.
    tokenizer: of the store.
    splits: 'train' and 'validation'.
    versions: of python, numpy, tiktoken and tokenizers that prepared it.
    licence: of the text, where the source states one.
  """

  format_version: int
  fingerprint: str
  sequence_length: int
  options: dict[str, Any]
  tokenizer: TokenizerManifest
  splits: dict[str, SplitManifest]
  versions: dict[str, str]
  licence: str | None

  def to_json(self) -> bytes:
    """The text of manifest.json."""
    return (json.dumps(dataclasses.asdict(self), indent=2) + '\n').encode()


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
    dtype: np.dtype,
  ) -> None:
    self.row_length = row_length
    self.dtype = dtype
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
      data = self._path(shard, 'pieces.npy').read_bytes()
      self._tables[shard] = np.load(io.BytesIO(data)).astype(np.int64)
    return self._tables[shard]

  def origin(self, shard: int) -> Origin:
    """Which documents a shard holds."""
    if shard not in self._origins:
      lines = self._path(shard, 'documents.jsonl').read_text().splitlines()
      documents = [json.loads(line) for line in lines]
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

  def _read_shard(self, shard: int, local_N: np.ndarray) -> np.ndarray:
    path = self._path(shard, 'rows')
    if durable.is_local(path):
      if shard not in self._maps:
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
      dtype=token_dtype(self.manifest.tokenizer.vocab_size),
    )

  def training_copies(self) -> list[Rows]:
    """The rows of training, and of its copies encoded with dropout."""
    names = ['train']
    while (name := copy_name(len(names))) in self.manifest.splits:
      names.append(name)
    return [self.rows(name) for name in names]

  def verify(self) -> None:
    """Reads every file and compares its hash with the manifest.

    Raises:
      ValueError: names the first file that differs.
    """
    expected = {TOKENIZER: self.manifest.tokenizer.sha256}
    for split in self.manifest.splits.values():
      for shard in split.shards:
        expected[f'{shard.name}.rows'] = shard.sha256
        expected[f'{shard.name}.pieces.npy'] = shard.pieces_sha256
        expected[f'{shard.name}.documents.jsonl'] = shard.documents_sha256
    for name, sha256 in expected.items():
      path = self.directory / name
      if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ValueError(
          f'{path} is not what was prepared: its sha256 differs from the'
          f' manifest; remove {self.directory} and prepare anew'
        )


def open_store(directory: epath.PathLike) -> Store:
  """Opens a prepared store and checks that its files are all there.

  Raises:
    ValueError: when the store is incomplete, of another format, or a file has
      another size than the manifest says.
  """
  directory = epath.Path(directory)
  path = directory / MANIFEST
  if not path.exists():
    raise ValueError(
      f'{directory} is no complete store, as {MANIFEST} is missing; prepare it'
      ' (the prepare command) or correct data.directory'
    )
  manifest = _manifest(json.loads(path.read_text()), path)
  store = Store(directory=directory, manifest=manifest)
  for split in manifest.splits.values():
    for shard in split.shards:
      _check_size(directory / f'{shard.name}.rows', shard.bytes)
  return store


def _manifest(fields: dict[str, Any], path: epath.Path) -> Manifest:
  if (version := fields['format_version']) != FORMAT_VERSION:
    raise ValueError(
      f'{path} is of format {version}, this program reads {FORMAT_VERSION};'
      ' remove its directory and prepare anew'
    )
  fields['tokenizer'] = TokenizerManifest(**fields['tokenizer'])
  for split in fields['splits'].values():
    split['sources'] = {
      name: SourceManifest(**held) for name, held in split['sources'].items()
    }
    split['shards'] = tuple(ShardManifest(**s) for s in split['shards'])
  fields['splits'] = {
    name: SplitManifest(**split) for name, split in fields['splits'].items()
  }
  return Manifest(**fields)


def _check_size(path: epath.Path, expected: int) -> None:
  found = path.stat().length if path.exists() else None
  if found != expected:
    raise ValueError(
      f'{path} has {found} bytes, the manifest says {expected}; remove'
      f' {path.parent} and prepare anew'
    )
