"""Documents out of TFDS, text files, JSONL and Parquet, local or remote."""

import dataclasses
import glob
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from etils import epath

from input_pipeline import durable
from input_pipeline.config import DataConfig

TRAIN, VALIDATION = 'train', 'validation'


@dataclasses.dataclass(frozen=True)
class Document:
  """A text, and where it comes from.

  Attributes:
    id: stable and, within a source, unique: what decides about validation.
    text: valid Unicode, without lone surrogates.
    source: what kind of text it is, for statistics.
  """

  id: str
  text: str
  source: str


@dataclasses.dataclass(frozen=True)
class Unreadable:
  """Stands for a document that cannot be read.

  Attributes:
    reason: names the file and the line, and says what is wrong.
  """

  reason: str


Documents = Iterator[Document | Unreadable]


def documents(
  config: DataConfig,
) -> Iterator[tuple[str, Document | Unreadable]]:
  """Yields ('train' or 'validation', document) for all of a source.

  Raises:
    ValueError: when no file matches, or the text field does not exist.
  """
  read = SOURCES[config.source]
  if config.holds_out_by_hash:
    for document in read(config, TRAIN):
      yield _split_of(document, config.validation_fraction), document
  else:
    for split in (VALIDATION, TRAIN):
      for document in read(config, split):
        yield split, document


def _split_of(document: Document | Unreadable, fraction: float) -> str:
  if isinstance(document, Unreadable):
    return TRAIN
  return VALIDATION if is_held_out(document.id, fraction) else TRAIN


def is_held_out(identifier: str, fraction: float) -> bool:
  """Whether the document of this id belongs to validation.

  It depends on the id alone, so it stays when other documents come and go.
  """
  digest = hashlib.blake2b(identifier.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'big') < fraction * 2**64


def matching_files(globs: tuple[str, ...], field: str) -> list[epath.Path]:
  """Files that match the globs, each once, sorted.

  Raises:
    ValueError: when a glob matches nothing; names `field`.
  """
  found: dict[str, epath.Path] = {}
  for pattern in globs:
    matches = [path for path in _glob(pattern) if not path.is_dir()]
    if not matches:
      raise ValueError(
        f'{field}: nothing matches {pattern!r}; a relative glob starts at the'
        ' directory that the program was started in'
      )
    found.update({str(path): path for path in matches})
  return [found[name] for name in sorted(found)]


def _glob(pattern: str) -> list[epath.Path]:
  if durable.is_local(epath.Path(pattern)):
    return [epath.Path(p) for p in glob.glob(pattern, recursive=True)]
  if '**' in pattern:
    raise ValueError(
      f'{pattern!r}: ** works on local files only; name the levels (*/*)'
    )
  # An object store lists from a directory without wildcards.
  parts = pattern.split('/')
  wild = [bool(re.search(r'[*?\[]', part)) for part in parts]
  depth = wild.index(True) if any(wild) else len(parts) - 1
  root = epath.Path('/'.join(parts[:depth]))
  return list(root.glob('/'.join(parts[depth:])))


def _files(config: DataConfig, split: str) -> list[epath.Path]:
  if split == VALIDATION:
    return matching_files(config.validation_files, 'data.validation_files')
  return matching_files(config.files, 'data.files')


def _read_text(config: DataConfig, split: str) -> Documents:
  """One document a file."""
  for path in _files(config, split):
    try:
      text = path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
      yield Unreadable(f'{path}: {_not_utf8(error)}')
    else:
      yield Document(str(path), text, 'text')


def _read_jsonl(config: DataConfig, split: str) -> Documents:
  """One document a line; blank lines do not count as documents."""
  for path in _files(config, split):
    number = 0
    try:
      with path.open('rb') as raw:
        for number, line in enumerate(_decompress(raw, path.suffix), 1):
          if line.strip():
            yield _parse_line(line, f'{path}:{number}', config.text_field)
    except (EOFError, OSError, zlib.error, _zstd_error()) as error:
      raise ValueError(
        f'{path} cannot be read after line {number}: {error}; is it complete?'
      ) from error


def _decompress(raw: BinaryIO, suffix: str) -> Iterator[bytes]:
  if suffix == '.gz':
    return iter(gzip.GzipFile(fileobj=raw))
  return _zstd_lines(raw) if suffix == '.zst' else iter(raw)


def _zstd_lines(raw: BinaryIO) -> Iterator[bytes]:
  """Lines of all frames; the library's reader misses a cut-off frame."""
  import zstandard

  decompressor = zstandard.ZstdDecompressor()
  frame, tail = None, b''
  while data := raw.read(1 << 16):
    while data:
      frame = frame or decompressor.decompressobj()
      *lines, tail = (tail + frame.decompress(data)).split(b'\n')
      yield from lines
      data = frame.unused_data
      if frame.eof:
        frame = None
  if frame is not None:
    raise EOFError('the last frame is cut off')
  if tail:
    yield tail


def _zstd_error() -> type[Exception]:
  import zstandard

  return zstandard.ZstdError


def _parse_line(
  line: bytes, where: str, text_field: str
) -> Document | Unreadable:
  try:
    record = json.loads(line.decode('utf-8-sig'))
  except UnicodeDecodeError as error:
    return Unreadable(f'{where}: {_not_utf8(error)}')
  except json.JSONDecodeError as error:
    return Unreadable(f'{where}: not JSON: {error}')
  except RecursionError:
    return Unreadable(f'{where}: JSON nested too deeply')
  if not isinstance(record, dict):
    return Unreadable(f'{where}: a JSON object is needed, not {record!r:.40}')
  if text_field not in record:
    return Unreadable(
      f'{where}: no field {text_field!r}; it has {_names(record)}'
      ' (data.text_field chooses)'
    )
  return _checked(record[text_field], where, 'jsonl', text_field)


def _read_parquet(config: DataConfig, split: str) -> Documents:
  """One document a row."""
  import pyarrow
  from pyarrow import parquet

  field = config.text_field
  for path in _files(config, split):
    with path.open('rb') as raw:
      try:
        table = parquet.ParquetFile(raw)
      except pyarrow.ArrowInvalid as error:
        raise ValueError(f'{path} is no Parquet file: {error}') from error
      if field not in table.schema_arrow.names:
        raise ValueError(
          f'{path}: no column {field!r}; it has'
          f' {_names(table.schema_arrow.names)} (data.text_field chooses)'
        )
      kind = table.schema_arrow.field(field).type
      is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(
        kind
      )
      row = 0
      for batch in table.iter_batches(batch_size=1_000, columns=[field]):
        column = batch.column(0)
        if is_text:  # as bytes, for nobody has checked that it is UTF-8
          column = column.cast(pyarrow.large_binary())
        for value in column:
          row += 1
          where = f'{path}:{row}'
          yield _checked(value.as_py(), where, 'parquet', field)


def _read_tfds(config: DataConfig, split: str) -> Documents:
  """One document an example; see tfds_source.py."""
  from input_pipeline import tfds_source

  name = config.split
  if split == VALIDATION:
    assert config.validation_split
    name = config.validation_split
  for identifier, source, text in tfds_source.examples(config, name):
    where = f'{config.name} {identifier}'
    document = _checked(text, where, source, config.text_field)
    if isinstance(document, Document):
      document = dataclasses.replace(document, id=identifier)
    yield document


def _checked(
  value: object, where: str, source: str, field: str
) -> Document | Unreadable:
  """The document at `where`, which is its id, if its text is text."""
  if isinstance(value, bytes):
    try:
      return Document(where, value.decode(), source)
    except UnicodeDecodeError as error:
      return Unreadable(f'{where}: {_not_utf8(error)}')
  if not isinstance(value, str):
    kind = type(value).__name__
    return Unreadable(f'{where}: field {field!r} holds no text, but {kind}')
  try:
    value.encode()
  except UnicodeEncodeError as error:
    return Unreadable(f'{where}: a lone surrogate at character {error.start}')
  return Document(where, value, source)


def _not_utf8(error: UnicodeDecodeError) -> str:
  byte = error.object[error.start]
  line = error.object[: error.start].count(b'\n') + 1
  return f'byte 0x{byte:02x} in line {line} is not UTF-8'


def _names(names: object) -> str:
  return ', '.join(sorted(names)) or 'none'  # type: ignore[call-overload]


SOURCES: dict[str, Callable[[DataConfig, str], Documents]] = {
  'tfds': _read_tfds,
  'text': _read_text,
  'jsonl': _read_jsonl,
  'parquet': _read_parquet,
}
