"""Where the time of a process goes."""

import contextlib
import time
from collections.abc import Iterator

PHASES = (
  'startup',
  'compile',
  'data_wait',
  'step_time',
  'evaluation',
  'checkpoint',
  'device_check',
)


class Stopwatch:
  """Adds up the seconds spent in each phase.

  Args:
    start: time.perf_counter() when the process began its work.
  """

  def __init__(self, start: float):
    self._start = start
    self._seconds = dict.fromkeys(PHASES, 0.0)
    self._starting = True

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Counts the time of the block towards a phase."""
    begin = time.perf_counter()
    try:
      yield
    finally:
      self._seconds[name] += time.perf_counter() - begin

  def startup_done(self) -> None:
    """Counts all time so far that is in no other phase as start-up."""
    totals = self.totals()
    self._seconds = {name: totals[name] for name in PHASES}
    self._starting = False

  def training(self) -> float:
    """Seconds of steps and of waiting for their data."""
    return self._seconds['step_time'] + self._seconds['data_wait']

  def totals(self) -> dict[str, float]:
    """Seconds of each phase, of everything else, and of all together."""
    total = time.perf_counter() - self._start
    rest = total - sum(self._seconds.values())
    seconds = self._seconds | {'other': 0.0, 'total': total}
    seconds['startup' if self._starting else 'other'] += rest
    return seconds
