"""Lines that say how far a stage is."""

import time
from collections.abc import Callable

_SECONDS_BETWEEN_LINES = 10


class Progress:
  """Counts documents and bytes of a stage, and logs them now and then."""

  def __init__(self, stage: str, log: Callable[[str], None]) -> None:
    self._stage = stage
    self._log = log
    self._start = self._last = time.monotonic()
    self._documents = self._bytes = 0

  def add(self, documents: int, text_bytes: int) -> None:
    """Counts what is done."""
    self._documents += documents
    self._bytes += text_bytes
    now = time.monotonic()
    if now - self._last > _SECONDS_BETWEEN_LINES:
      self._last = now
      self._log(f'{self._line(now)} so far')

  def finish(self) -> None:
    """Logs the sum."""
    self._log(self._line(time.monotonic()))

  def _line(self, now: float) -> str:
    seconds = max(now - self._start, 1e-9)
    return (
      f'{self._stage}: {self._documents:,} documents,'
      f' {self._bytes / 1e6:,.1f} MB in {seconds:.1f} s'
      f' ({self._bytes / 1e6 / seconds:,.1f} MB/s)'
    )
