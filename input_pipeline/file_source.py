"""Documents out of text files, JSONL and Parquet, local or remote."""

import dataclasses
import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from etils import epath

from input_pipeline import durable
from input_pipeline.config import DataConfig
from input_pipeline.documents import (
  VALIDATION,
  Document,
  Documents,
  Unreadable,
)
from input_pipeline.errors import DataError


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


def files_of(config: DataConfig, split: str) -> list[File]:
  """The files that `data.files` or `data.validation_files` name."""
  if split == VALIDATION:
    return matching_files(config.validation_files, 'data.validation_files')
  return matching_files(config.files, 'data.files')


def read_text(config: DataConfig, file: File) -> Documents:
  """One document a file."""
  try:
    text = file.path.read_bytes().decode('utf-8-sig')
  except UnicodeDecodeError as error:
    yield Unreadable(f'{file.path}: {_not_utf8(error)}')
  except OSError as error:
    raise DataError(f'{file.path} cannot be read: {error}') from error
  else:
    yield Document(file.name, text, _folder(file))


def read_jsonl(config: DataConfig, file: File) -> Documents:
  """One document a line; blank lines do not count as documents."""
  for number, line in numbered_lines(file):
    where = f'{file.path}:{number}'
    record = _parse_line(line, where)
    if isinstance(record, Unreadable):
      yield record
    else:
      identifier = f'{file.name}:{number}'
      yield document(config, record, identifier, _folder(file), where)


def numbered_lines(file: File) -> Iterator[tuple[int, bytes]]:
  """Lines that are not blank, of a file that may be compressed, from 1 on.

  Raises:
    DataError: when the file breaks off, or is empty: what was cut at its
      beginning looks so.
  """
  path, number = file.path, 0
  try:
    if not path.stat().length:
      raise EOFError('it has no bytes')
    with path.open('rb') as raw:
      for number, line in enumerate(_decompress(raw, path.suffix), 1):
        if line.strip():
          yield number, line
  except (EOFError, OSError, zlib.error, _zstd_error()) as error:
    raise DataError(
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


def _parse_line(line: bytes, where: str) -> dict[str, Any] | Unreadable:
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
  return record


def read_parquet(config: DataConfig, file: File) -> Documents:
  """One document a row."""
  import pyarrow

  row = 0
  try:
    with file.path.open('rb') as raw:
      for row, record in enumerate(_parquet_records(raw, file, config), 1):
        yield document(
          config,
          record,
          f'{file.name}:{row}',
          _folder(file),
          f'{file.path}:{row}',
        )
  except (pyarrow.ArrowException, OSError) as error:
    raise DataError(
      f'{file.path} cannot be read after row {row}: {error}; is it complete?'
    ) from error


def _parquet_records(
  raw: BinaryIO, file: File, config: DataConfig
) -> Iterator[dict[str, Any]]:
  import pyarrow
  from pyarrow import parquet

  # Pages have checksums if the writer was asked for them.
  table = parquet.ParquetFile(raw, page_checksum_verification=True)
  schema = table.schema_arrow
  fields = {
    'text_field': config.text_field,
    'source_field': config.source_field,
    'licence_field': config.licence_field,
  }
  for option, name in fields.items():
    if name and name not in schema.names:
      raise ValueError(
        f'{file.path}: no column {name!r}; it has {_names(schema.names)}'
        f' (data.{option} chooses)'
      )
  columns = sorted({name for name in fields.values() if name})
  for batch in table.iter_batches(batch_size=1_000, columns=columns):
    values = {}
    for name in columns:
      column = batch.column(name)
      kind = schema.field(name).type
      # As bytes, for nobody has checked that it is UTF-8.
      if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        column = column.cast(pyarrow.large_binary())
      values[name] = column
    for row in range(batch.num_rows):
      yield {name: values[name][row].as_py() for name in columns}


def document(
  config: DataConfig,
  record: dict[str, Any],
  identifier: str,
  source: str,
  where: str,
) -> Document | Unreadable:
  """The document that a record holds.

  Args:
    config: names the fields.
    record: by field; texts may be bytes.
    identifier: of the document.
    source: of the document, unless data.source_field names a field.
    where: what an error calls the place of the record.
  """
  values = {'source': source, 'licence': ''}
  fields = {
    'text': config.text_field,
    'source': config.source_field,
    'licence': config.licence_field,
  }
  for part, name in fields.items():
    if not name:
      continue
    if name not in record:
      return Unreadable(
        f'{where}: no field {name!r}; it has {_names(record)}'
        f' (data.{part}_field chooses)'
      )
    value = record[name]
    if value is None and part == 'licence':
      continue
    try:
      value = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
      return Unreadable(f'{where}: {_not_utf8(error)}')
    if not isinstance(value, str):
      kind = type(value).__name__
      return Unreadable(f'{where}: field {name!r} holds no text, but {kind}')
    try:
      value.encode()
    except UnicodeEncodeError as error:
      return Unreadable(f'{where}: a lone surrogate at character {error.start}')
    values[part] = value
  return Document(identifier, **values)


def _folder(file: File) -> str:
  """The first folder of its name, or the name itself."""
  return file.name.partition('/')[0]


def _not_utf8(error: UnicodeDecodeError) -> str:
  byte = error.object[error.start]
  line = error.object[: error.start].count(b'\n') + 1
  return f'byte 0x{byte:02x} in line {line} is not UTF-8'


def _names(names: Iterable[str]) -> str:
  return ', '.join(sorted(names)) or 'none'
