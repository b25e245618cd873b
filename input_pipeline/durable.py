"""Files that are there whole or not at all, and a lock between programs."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def locked(path: epath.Path, log: Callable[[str], None]) -> Iterator[None]:
  """Holds a lock file; waits while another program holds it.

  The system takes the lock from a program that ends, however it ends, so a
  file that is left behind holds nobody up. Object stores have no locks: there
  the caller makes sure that one program prepares at a time.
  """
  if not is_local(path):
    yield
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'a+') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      log(f'Waiting for {file.read().strip()}, which holds {path}')
      fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    file.truncate()
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    yield
