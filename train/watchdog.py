"""A thread that ends the process where the run makes no progress.

A host that is stuck in Python is alive to every other: its heartbeats come from
another thread. The others wait for it in a collective, so that all of them make
no progress, and each of them ends.
"""

import contextlib
import faulthandler
import os
import sys
import time
from collections.abc import Callable, Iterator

from train.background import ENDING, looked_at
from train.config import WatchdogConfig
from train.distributed import is_first
from train.exits import HANG

_LOOK_SECONDS = 0.5
_OTHERS_SECONDS, _FIRST_SECONDS = 1.0, 3.5


class Watchdog:
  """Ends the process when the last sign of progress is too long ago.

  Args:
    config: how long that may be; start-up lasts until the first sign.
    end: what is done then.
    clock: in seconds.
  """

  def __init__(
    self,
    config: WatchdogConfig,
    *,
    end: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._config = config
    self._minutes = config.startup_minutes
    self._field = 'watchdog.startup_minutes'
    self._end = end or _dump_and_exit
    self._clock = clock
    self._last = clock()
    self._doing = 'starting'

  def progress(self, doing: str) -> None:
    """A sign of progress.

    Args:
      doing: what comes now, for the message.
    """
    self._last, self._doing = self._clock(), doing
    self._minutes, self._field = self._config.minutes, 'watchdog.minutes'

  def look(self) -> None:
    """Ends the process if it is time."""
    silent = self._clock() - self._last
    if self._minutes is not None and silent > 60 * self._minutes:
      self._end(
        f'No progress for {silent:,.0f} s while {self._doing}, with '
        f'{self._field} = {self._minutes:g}. The stacks of all threads:'
      )


def _dump_and_exit(message: str) -> None:
  ENDING.acquire()
  print(f'\n{message}', file=sys.stderr, flush=True)
  faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
  sys.stderr.flush()
  # The others are stuck as well, and the loss of this process would end them
  # before they have written theirs; with process 0 JAX aborts them.
  time.sleep(_FIRST_SECONDS if is_first() else _OTHERS_SECONDS)
  os._exit(HANG)


@contextlib.contextmanager
def watched(watchdog: Watchdog) -> Iterator[Watchdog]:
  """Looks at the progress from time to time, in the block."""

  def look() -> bool:
    watchdog.look()
    return True

  with looked_at(look, _LOOK_SECONDS, 'watchdog'):
    yield watchdog
