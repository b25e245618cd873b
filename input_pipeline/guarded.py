"""Errors of libraries that read what somebody else wrote, as errors of data."""

import contextlib
from collections.abc import Iterator

from input_pipeline.errors import DataError


@contextlib.contextmanager
def damage_of(what: str) -> Iterator[None]:
  """Whatever goes wrong in the block is damage to what it reads.

  Libraries in Rust panic: a BaseException that is none of Python's own, and has
  no public name.

  Args:
    what: is read, and what it should be: 'PATH is no tokenizer.json'.

  Raises:
    DataError: something went wrong.
  """
  try:
    yield
  except BaseException as error:
    panic = type(error).__name__ == 'PanicException'
    if isinstance(error, DataError) or not (
      panic or isinstance(error, Exception)
    ):
      raise
    said = (str(error).splitlines() or [''])[0][:300]
    raise DataError(f'{what}: {type(error).__name__}: {said}') from error
