"""What manifest.json says of a store, read and compared with itself."""

import dataclasses
import hashlib
import json
import re
import types
import typing
from typing import Any

from etils import epath

from input_pipeline.config import MAX_VOCAB_SIZE
from input_pipeline.documents import TRAIN, VALIDATION
from input_pipeline.errors import DataError
from input_pipeline.tokenizer import token_dtype

FORMAT_VERSION = 2
CHECKSUM = 'checksum'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardManifest:
  """One shard of a split; sizes in bytes, of the three files in turn.

  A store that was prepared before they were recorded lacks the last two sizes.
  """

  name: str
  rows: int
  bytes: int
  sha256: str
  pieces_sha256: str
  documents_sha256: str
  pieces_bytes: int | None = None
  documents_bytes: int | None = None


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
    """The text of manifest.json, with its checksum."""
    fields = dataclasses.asdict(self)
    fields |= {CHECKSUM: checksum(fields)}
    return (json.dumps(fields, indent=2) + '\n').encode()


def checksum(fields: dict[str, Any]) -> str:
  """Hex SHA-256 of what a manifest says."""
  text = json.dumps(fields, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(
  options: dict[str, Any],
  tokenizer_sha256: str,
  splits: dict[str, SplitManifest],
) -> str:
  """What tells the content of stores apart; hex."""
  return checksum(
    {
      'options': options,
      'tokenizer': tokenizer_sha256,
      'sources': {s: held.source_sha256 for s, held in splits.items()},
      'rows': {s: [x.sha256 for x in h.shards] for s, h in splits.items()},
    }
  )


def parse(data: bytes, path: epath.Path) -> Manifest:
  """Reads manifest.json and compares it with itself.

  Args:
    data: its content.
    path: of the file, for messages.

  Raises:
    ValueError: it is of another format.
    DataError: it is damaged.
  """
  try:
    fields = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise _damaged(path, f'it is not JSON ({error})') from None
  if not isinstance(fields, dict) or 'format_version' not in fields:
    raise _damaged(path, 'it has no format_version')
  if (version := fields['format_version']) != FORMAT_VERSION:
    raise ValueError(
      f'{path} is of format {version}, this program reads {FORMAT_VERSION};'
      ' remove its directory and prepare anew'
    )
  # A store that was prepared before it was recorded has no checksum.
  recorded = fields.pop(CHECKSUM, None)
  if recorded is not None and recorded != checksum(fields):
    raise _damaged(path, f'its {CHECKSUM} is another')
  try:
    manifest = _build(Manifest, fields, 'it')
    _check(manifest)
  except _WrongError as error:
    raise _damaged(path, str(error)) from None
  return manifest


class _WrongError(Exception):
  """What is wrong with a manifest, in words."""


def _damaged(path: epath.Path, what: str) -> DataError:
  return DataError(
    f'{path} is damaged: {what}; remove {path.parent} and prepare anew'
  )


def _build(kind: Any, value: Any, where: str) -> Any:
  """A value of JSON as the type that a field is declared with."""
  origin, parts = typing.get_origin(kind), typing.get_args(kind)
  if kind is Any:
    return value
  if origin is types.UnionType:
    return None if value is None else _build(parts[0], value, where)
  if kind is float and type(value) is int:
    return value
  if dataclasses.is_dataclass(kind):
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = {
      name
      for name, field in fields.items()
      if field.default is field.default_factory is dataclasses.MISSING
    }
    if not isinstance(value, dict) or not needed <= set(value) <= set(fields):
      raise _WrongError(f'{where} does not have the fields {sorted(needed)}')
    return typing.cast(type, kind)(
      **{n: _build(fields[n].type, v, f'{where}.{n}') for n, v in value.items()}
    )
  if origin is dict and isinstance(value, dict):
    return {n: _build(parts[1], v, f'{where}.{n}') for n, v in value.items()}
  if origin is tuple and isinstance(value, list):
    return tuple(_build(parts[0], v, where) for v in value)
  if origin is not None or type(value) is not kind:
    raise _WrongError(f'{where} is {value!r:.40}')
  return value


def _check(manifest: Manifest) -> None:
  """Raises _WrongError where the parts of a manifest contradict each other."""
  tokenizer = manifest.tokenizer
  ids = [
    tokenizer.pad_id, tokenizer.bos_id, tokenizer.continue_id, tokenizer.eos_id,
    *tokenizer.special_tokens.values(),
  ]  # fmt: skip
  if not all(0 <= i < tokenizer.vocab_size <= MAX_VOCAB_SIZE for i in ids):
    raise _WrongError(
      f'a vocabulary of {tokenizer.vocab_size} does not have the ids {ids}'
    )
  if manifest.sequence_length < 1 or not {TRAIN, VALIDATION} <= set(
    manifest.splits
  ):
    raise _WrongError(f'it lacks rows, {TRAIN} or {VALIDATION}')
  token = token_dtype(tokenizer.vocab_size).itemsize
  row = (manifest.sequence_length + 1) * token
  for split, held in manifest.splits.items():
    for shard in held.shards:
      if not re.fullmatch(r'[\w-]+', shard.name, re.ASCII):
        raise _WrongError(f'{shard.name!r} is no name of a shard')
      if shard.rows < 1 or shard.bytes != shard.rows * row:
        raise _WrongError(
          f'{shard.name} has {shard.bytes} bytes, which are not {shard.rows}'
          f' rows of {row}'
        )
    if held.rows < 1 or held.rows != sum(shard.rows for shard in held.shards):
      raise _WrongError(
        f'{split} has {held.rows} rows, and its shards'
        f' {[shard.rows for shard in held.shards]}'
      )
  if manifest.fingerprint != fingerprint(
    manifest.options, tokenizer.sha256, manifest.splits
  ):
    raise _WrongError('its fingerprint is not that of what it lists')
