"""All strings in files of evaluations: text, JSONL or Parquet."""

import json
from collections.abc import Iterator
from typing import Any

from input_pipeline.file_source import File, matching_files, numbered_lines

_JSONL = ('.jsonl', '.jsonl.gz', '.jsonl.zst')


def strings(pattern: str, field: str) -> Iterator[str]:
  """Yields each text file, and each string of every record of other files.

  Names of fields do not count; what lists and objects hold does.

  Args:
    pattern: a glob.
    field: of the config, for errors.

  Raises:
    ValueError: nothing matches, or a file is not what its name says.
  """
  for file in matching_files((pattern,), field):
    name = file.path.name
    if name.endswith('.txt'):
      yield _text(file)
    elif name.endswith(_JSONL):
      for number, line in numbered_lines(file):
        yield from _strings_in(_parsed(line, f'{file.path}:{number}'))
    elif name.endswith('.parquet'):
      yield from _parquet_strings(file)
    else:
      raise ValueError(
        f'{field}: {file.path} ends neither in .txt nor in'
        f' {", ".join(_JSONL)} or .parquet'
      )


def _text(file: File) -> str:
  try:
    return file.path.read_bytes().decode('utf-8-sig')
  except (UnicodeDecodeError, OSError) as error:
    raise ValueError(f'{file.path} cannot be read: {error}') from error


def _parsed(line: bytes, where: str) -> Any:
  try:
    return json.loads(line.decode('utf-8-sig'))
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where}: not JSON: {error}') from error


def _parquet_strings(file: File) -> Iterator[str]:
  import pyarrow
  from pyarrow import parquet

  try:
    with file.path.open('rb') as raw:
      for batch in parquet.ParquetFile(raw).iter_batches(batch_size=1_000):
        for record in batch.to_pylist():
          yield from _strings_in(record)
  except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
    raise ValueError(f'{file.path} cannot be read: {error}') from error


def _strings_in(value: Any) -> Iterator[str]:
  """All strings of a value, in order."""
  waiting = [value]
  while waiting:
    value = waiting.pop()
    if isinstance(value, str):
      yield value
    elif isinstance(value, dict):
      waiting.extend(reversed(value.values()))
    elif isinstance(value, (list, tuple)):
      waiting.extend(reversed(value))
