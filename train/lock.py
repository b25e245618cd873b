"""One run at a time in a folder, or one process at a time at some work."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from train.distributed import first_process_does
from train.exits import USAGE_ERROR

LOCK_FILE = 'lock'


class LockedError(ValueError):
  """Another run is at work in the workdir."""


@contextlib.contextmanager
def alone_in(workdir: epath.Path) -> Iterator[None]:
  """Keeps other runs out of a workdir, for the time of the block.

  Process 0 holds the lock for all processes of the run. A run that was killed
  holds none on a disk; see input_pipeline/lock.py for object stores.

  Args:
    workdir: folder of the run.

  Raises:
    LockedError: another run is at work there.
    ValueError: on the other processes, where process 0 was refused.
  """
  from input_pipeline.lock import HeldError, locked

  with contextlib.ExitStack() as stack:

    def take() -> None:
      lock = locked(workdir / LOCK_FILE, _say, wait=False, lost=_leave)
      try:
        stack.enter_context(lock)
      except HeldError as error:
        raise LockedError(
          f'Another run is at work in {workdir}: {error}. Nothing was changed. '
          'Wait for its end or stop it, or choose another --workdir.'
        ) from None

    first_process_does(take, f'take {workdir} for this run')
    yield


@contextlib.contextmanager
def one_at_a_time(
  path: epath.Path, said: Callable[[str], None]
) -> Iterator[None]:
  """Waits until no other process is in such a block, then keeps them out.

  Args:
    path: of the file that stands for it.
    said: is told when this process has to wait.
  """
  from input_pipeline.lock import locked

  with locked(path, said):
    yield


def one_run_at_a_time(run: Callable[..., Any]) -> Callable[..., Any]:
  """Lets a function work alone in the folder that it is given as `workdir`."""

  @functools.wraps(run)
  def alone(*args: Any, workdir: epath.Path, **kwargs: Any) -> Any:
    with alone_in(workdir):
      return run(*args, workdir=workdir, **kwargs)

  return alone


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def _leave(text: str) -> None:
  """Ends the process at once: a save in flight would mix with another run's."""
  _say(f'{text}; it ends here, and nothing more is saved.')
  os._exit(USAGE_ERROR)
