"""Signals that ask a run to end."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(Exception):
  """A signal ended the run, after its state had been saved."""

  def __init__(self, signum: int, step: int):
    super().__init__(
      f'{signal.Signals(signum).name} ended the run at step {step}, which is '
      'saved; the same command goes on from there.'
    )
    self.signum = signum


class StopRequest:
  """Remembers the first signal; the loop looks at it between steps."""

  def __init__(self):
    self.signum: int | None = None


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
  """Turns SIGINT and SIGTERM into a request, for the time of the block.

  A second signal ends the process the usual way. Signals belong to the main
  thread; in any other nothing is changed.
  """
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield request
    return

  previous = {
    signum: signal.getsignal(signum)
    for signum in (signal.SIGINT, signal.SIGTERM)
  }

  def remember(signum, frame):
    del frame
    request.signum = signum
    for each, handler in previous.items():
      signal.signal(each, handler)

  for signum in previous:
    signal.signal(signum, remember)
  try:
    yield request
  finally:
    for signum, handler in previous.items():
      signal.signal(signum, handler)
