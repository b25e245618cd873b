"""Documents out of TFDS, text files, JSONL and Parquet, local or remote."""

import dataclasses
import glob
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

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


@dataclasses.dataclass(frozen=True)
class File:
  """A file of documents.

  Attributes:
    name: its path below the last directory of its glob without wildcards, that
      directory's own name included: it survives a move of the whole tree.
    path: where it lies.
  """

  name: str
  path: epath.Path


def matching_files(globs: tuple[str, ...], field: str) -> list[File]:
  """Files that match the globs, each once, sorted by name.

  Raises:
    ValueError: when a glob matches nothing, or two files have one name; names
      `field`, which holds the globs.
  """
  found: dict[str, epath.Path] = {}
  for pattern in globs:
    matches = [path for path in _glob(pattern) if not path.is_dir()]
    if not matches:
      raise ValueError(
        f'{field}: nothing matches {pattern!r}; a relative glob starts at the'
        ' directory that the program was started in'
      )
    # 'a/b/*.txt' names its files 'b/...', 'a/b/c.txt' is 'b/c.txt'.
    above = os.path.dirname(_root(pattern))
    for path in matches:
      name = str(path)[len(above) :].lstrip('/')
      if found.setdefault(name, path) != path:
        raise ValueError(
          f'{field}: {found[name]} and {path} would both be known as {name!r};'
          ' write one glob that starts above both'
        )
  return [File(name, found[name]) for name in sorted(found)]


def _root(pattern: str) -> str:
  """The directory that holds all matches, as far as it has no wildcards."""
  wildcard = re.search(r'[*?\[]', pattern)
  return os.path.dirname(pattern[: wildcard.start()] if wildcard else pattern)


def _glob(pattern: str) -> list[epath.Path]:
  if durable.is_local(epath.Path(pattern)):
    return [epath.Path(p) for p in glob.glob(pattern, recursive=True)]
  if '**' in pattern:
    raise ValueError(
      f'{pattern!r}: ** works on local files only; name the levels (*/*)'
    )
  root = _root(pattern)
  return list(epath.Path(root).glob(pattern[len(root) :].lstrip('/')))


def _files(config: DataConfig, split: str) -> list[File]:
  if split == VALIDATION:
    return matching_files(config.validation_files, 'data.validation_files')
  return matching_files(config.files, 'data.files')


def _read_text(config: DataConfig, split: str) -> Documents:
  """One document a file."""
  for file in _files(config, split):
    try:
      text = file.path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
      yield Unreadable(f'{file.path}: {_not_utf8(error)}')
    else:
      yield Document(file.name, text, 'text')


def _read_jsonl(config: DataConfig, split: str) -> Documents:
  """One document a line; blank lines do not count as documents."""
  for file in _files(config, split):
    path, number = file.path, 0
    try:
      with path.open('rb') as raw:
        for number, line in enumerate(_decompress(raw, path.suffix), 1):
          if line.strip():
            identifier, where = f'{file.name}:{number}', f'{path}:{number}'
            yield _parse_line(line, identifier, where, config.text_field)
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
  line: bytes, identifier: str, where: str, text_field: str
) -> Document | Unreadable:
  try:
    record = json.loads(line.decode('utf-8-sig'))
  except UnicodeDecodeError as error:
    return Unreadable(f'{where}: {_not_utf8(error)}')
  except ValueError as error:
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
  return _checked(
    Document(identifier, record[text_field], 'jsonl'), where, text_field
  )


def _read_parquet(config: DataConfig, split: str) -> Documents:
  """One document a row."""
  for file in _files(config, split):
    with file.path.open('rb') as raw:
      values = _parquet_values(raw, str(file.path), config.text_field)
      for row, value in enumerate(values, 1):
        document = Document(f'{file.name}:{row}', value, 'parquet')
        yield _checked(document, f'{file.path}:{row}', config.text_field)


def _parquet_values(raw: BinaryIO, path: str, field: str) -> Iterator[Any]:
  import pyarrow
  from pyarrow import parquet

  try:
    table = parquet.ParquetFile(raw)
  except pyarrow.ArrowInvalid as error:
    raise ValueError(f'{path} is no Parquet file: {error}') from error
  schema = table.schema_arrow
  if field not in schema.names:
    raise ValueError(
      f'{path}: no column {field!r}; it has {_names(schema.names)}'
      ' (data.text_field chooses)'
    )
  kind = schema.field(field).type
  is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
  for batch in table.iter_batches(batch_size=1_000, columns=[field]):
    column = batch.column(0)
    if is_text:  # as bytes, for nobody has checked that it is UTF-8
      column = column.cast(pyarrow.large_binary())
    for value in column:
      yield value.as_py()


def _read_tfds(config: DataConfig, split: str) -> Documents:
  """One document an example; see tfds_source.py."""
  from input_pipeline import tfds_source

  name = config.split
  if split == VALIDATION:
    assert config.validation_split
    name = config.validation_split
  for identifier, source, text in tfds_source.examples(config, name):
    document = Document(identifier, text, source)
    where = f'{config.name} {identifier}'
    yield _checked(document, where, config.text_field)


def _checked(
  document: Document, where: str, field: str
) -> Document | Unreadable:
  """The document, decoded, if its text is a text."""
  text: Any = document.text
  if isinstance(text, bytes):
    try:
      return dataclasses.replace(document, text=text.decode())
    except UnicodeDecodeError as error:
      return Unreadable(f'{where}: {_not_utf8(error)}')
  if not isinstance(text, str):
    kind = type(text).__name__
    return Unreadable(f'{where}: field {field!r} holds no text, but {kind}')
  try:
    text.encode()
  except UnicodeEncodeError as error:
    return Unreadable(f'{where}: a lone surrogate at character {error.start}')
  return document


def _not_utf8(error: UnicodeDecodeError) -> str:
  byte = error.object[error.start]
  line = error.object[: error.start].count(b'\n') + 1
  return f'byte 0x{byte:02x} in line {line} is not UTF-8'


def _names(names: Iterable[str]) -> str:
  return ', '.join(sorted(names)) or 'none'


SOURCES: dict[str, Callable[[DataConfig, str], Documents]] = {
  'tfds': _read_tfds,
  'text': _read_text,
  'jsonl': _read_jsonl,
  'parquet': _read_parquet,
}
