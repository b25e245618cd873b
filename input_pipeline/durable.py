"""Files that are there whole or not at all."""

import os
import socket
from typing import Any

from etils import epath

_UNFINISHED = '.unfinished'


def is_local(path: epath.Path) -> bool:
  """Whether the path lies in a file system, not in an object store."""
  return '://' not in str(path)


def write(path: epath.Path, data: Any) -> None:
  """Writes a file under another name and renames it when it is on disk.

  Args:
    path: of the file.
    data: bytes, or a contiguous array.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  # Two programs that write the same file must not write into one another's.
  writer = f'{socket.gethostname()}-{os.getpid()}'
  unfinished = path.parent / f'{path.name}.{writer}{_UNFINISHED}'
  with unfinished.open('wb') as file:
    file.write(memoryview(data).cast('B'))
    if is_local(path):
      file.flush()
      os.fsync(file.fileno())
  unfinished.replace(path)


def remove_unfinished(directory: epath.Path) -> None:
  """Removes what killed programs left half written."""
  for path in directory.glob(f'*{_UNFINISHED}'):
    path.unlink()
