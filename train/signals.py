"""Signals that ask a run to end.

Python runs its handlers between two of its instructions, which is too late
where the main thread compiles for minutes. The interpreter also writes the
number of a signal to a socket at once, and a thread reads it there.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from train.exits import interrupted_status

# Ctrl-C as often as this ends the process at once, whatever is lost.
_PATIENCE = 3


class Interrupted(Exception):
  """A signal ended the run, after its state had been saved."""

  def __init__(self, signum: int, step: int):
    super().__init__(
      f'{signal.Signals(signum).name} ended the run at step {step}, which is '
      'saved; the same command goes on from there.'
    )
    self.signum = signum


class StopRequest:
  """Remembers the first signal; the loop looks at it between steps.

  Before the first step there is nothing to save that is not saved, and a signal
  ends the process at once. Later ones do not disturb the save.

  Attributes:
    signum: the first signal; None: none came.
  """

  def __init__(self):
    self.signum: int | None = None
    self._nothing_to_save = True
    self._hand_signals = 0
    self._lock = threading.Lock()

  def steps_begin(self) -> None:
    """From now on there is something to save."""
    with self._lock:
      self._nothing_to_save = False

  def receive(self, signum: int) -> None:
    """Deals with a signal, or with a notice that stands for one."""
    with self._lock:
      self._hand_signals += signum == signal.SIGINT
      if self._nothing_to_save:
        _leave(
          signum,
          'before the first step: nothing is lost, and the same command starts '
          'again.',
        )
      if self._hand_signals >= _PATIENCE:
        _leave(signum, 'at once; the same command goes on from the last save.')
      if self.signum is None:
        self.signum = signum
        return
    print(
      f'{signal.Signals(signum).name} again: the state is being saved'
      + (
        f'; Ctrl-C {_PATIENCE} times ends the run without.'
        if signum == signal.SIGINT
        else '.'
      ),
      file=sys.stderr,
      flush=True,
    )


def _leave(signum: int, when: str) -> None:
  print(
    f'\n{signal.Signals(signum).name} ended the run {when}',
    file=sys.stderr,
    flush=True,
  )
  sys.stdout.flush()
  os._exit(interrupted_status(signum))


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
  """Turns SIGINT and SIGTERM into a request, for the time of the block.

  Signals belong to the main thread; in any other nothing is changed.
  """
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield request
    return

  ours, reader = socket.socketpair()
  ours.setblocking(False)
  signums = (signal.SIGINT, signal.SIGTERM)

  def listen() -> None:
    while number := reader.recv(1):
      if number[0] in signums:
        request.receive(number[0])

  thread = threading.Thread(target=listen, name='signals', daemon=True)
  previous = {signum: signal.getsignal(signum) for signum in signums}
  descriptor = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
  thread.start()
  # Only signals with a handler in Python are written to the socket.
  for signum in signums:
    signal.signal(signum, lambda *_: None)
  try:
    yield request
  finally:
    for signum, handler in previous.items():
      signal.signal(signum, handler)
    signal.set_wakeup_fd(descriptor)
    ours.close()
    thread.join()
    reader.close()
