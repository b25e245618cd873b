"""A lock between programs: one at a time writes to a folder.

On a disk the system keeps it (flock), and takes it from a program that ends,
however it ends: a file that is left behind holds nobody up. Object stores and
some network disks have no locks. There the holder writes the file anew every
few seconds, and one that stays as it is for a minute belongs to nobody. No
clocks are compared: who wants the lock watches the file.

What that cannot promise: two programs that start within the same seconds may
both take the lock, and so may a second one while the first is frozen for more
than a minute. The loser finds out when it writes the file next, and is told.
"""

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import IO

from etils import epath

from input_pipeline import durable

Log = Callable[[str], None]

# Seconds between two signs of life, and without one until a lock is free.
BEAT_SECONDS = 5.0
QUIET_SECONDS = 60.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class HeldError(Exception):
  """Another program holds the lock; the message says which."""


@contextlib.contextmanager
def locked(
  path: epath.Path, log: Log, *, wait: bool = True, lost: Log | None = None
) -> Iterator[None]:
  """Holds a lock file.

  Args:
    path: of the file; its folder is made.
    log: gets a line where there is something to wait for.
    wait: while another program holds it; else that is an error.
    lost: called from a thread when another program took the lock in spite of
      this one, which happens only without locks of the system; None: `log`.

  Raises:
    HeldError: another program holds it, and `wait` is False.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    if durable.is_local(path):
      file = stack.enter_context(open(path, 'a+'))
      if _flock(file, path, log, wait):
        _rewrite(file, _me())
        stack.callback(_rewrite, file, '')
        yield
        return
    with beating(path, log, wait=wait, lost=lost or log):
      yield


def _me() -> str:
  now = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())
  return f'process {os.getpid()} on {socket.gethostname()}, since {now}'


def _rewrite(file: IO[str], text: str) -> None:
  file.seek(0)
  file.truncate()
  file.write(text)
  file.flush()


def _flock(file: IO[str], path: epath.Path, log: Log, wait: bool) -> bool:
  """Takes the lock; returns False where the disk has none."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    holder = file.read().strip() or 'another program'
    if not wait:
      raise HeldError(holder) from None
    log(f'Waiting for {holder}, which holds {path}')
    fcntl.flock(file, fcntl.LOCK_EX)
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    return False
  return True


@contextlib.contextmanager
def beating(
  path: epath.Path,
  log: Log,
  *,
  wait: bool,
  lost: Log,
  beat: float = BEAT_SECONDS,
  quiet: float = QUIET_SECONDS,
) -> Iterator[None]:
  """Holds a lock file where the system has no locks; see `locked`.

  Args:
    path: of the file.
    log: gets a line where there is something to wait for.
    wait: while another program holds it.
    lost: called when another program took it.
    beat: seconds between two signs of life.
    quiet: seconds without one until the lock is free.
  """
  token = uuid.uuid4().hex
  text = f'{_me()}\n{token}'
  while True:
    _watch(path, log, wait=wait, beat=beat, quiet=quiet)
    durable.write(path, f'{text} 0\n'.encode())
    # One that started at the same time has written by then.
    time.sleep(beat / 2)
    if token in _read(path):
      break
  done = threading.Event()
  thread = threading.Thread(
    target=_beat, args=(path, text, beat, done, lost), daemon=True
  )
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    if token in _read(path):
      path.unlink()


def _watch(
  path: epath.Path, log: Log, *, wait: bool, beat: float, quiet: float
) -> None:
  """Returns when nobody holds the lock any more."""
  seen, said = _read(path), False
  since = time.monotonic()
  while seen:
    if not said:
      log(f'Waiting for a sign of life of {_holder(seen)}, which holds {path}')
      said = True
    time.sleep(beat / 4)
    if (now := _read(path)) != seen:
      if now and not wait:
        raise HeldError(_holder(now))
      seen, since = now, time.monotonic()
    elif time.monotonic() - since > quiet:
      return


def _beat(
  path: epath.Path, text: str, beat: float, done: threading.Event, lost: Log
) -> None:
  count = 0
  while not done.wait(beat):
    count += 1
    # A store that does not answer for a while takes the lock from nobody.
    with contextlib.suppress(Exception):
      found = _read(path)
      if found and not found.startswith(text):
        lost(f'{_holder(found)} took {path} from this process')
        return
      durable.write(path, f'{text} {count}\n'.encode())


def _holder(text: str) -> str:
  return text.partition('\n')[0]


def _read(path: epath.Path) -> str:
  """What the file says; '' where it is not there."""
  try:
    return path.read_text()
  except FileNotFoundError:
    return ''
