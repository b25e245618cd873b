"""Starts a run again after faults, until it is done or would fail again."""

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from etils import epath

from train.exits import BY_HAND, DONE, FINAL

# Failures in a row without a new checkpoint after which a run is given up.
_SAME_STEP = 3
_FIRST_SECONDS, _LONGEST_SECONDS = 5.0, 300.0


@dataclasses.dataclass(frozen=True)
class Attempt:
  """How a process of the run ended.

  Attributes:
    status: of the process; negative where a signal killed it.
    step: newest that was saved then; None: none was.
  """

  status: int
  step: int | None


def delay(attempts: Sequence[Attempt], max_restarts: int) -> float | str:
  """When to start again, or why not to.

  Args:
    attempts: all so far, the last one a failure.
    max_restarts: of the whole run.

  Returns:
    Seconds to wait, which double with each failure at one step; or the reason
    to give up.
  """
  last = attempts[-1]
  if last.status in (*FINAL, BY_HAND):
    return 'another attempt would end the same way'
  restarts = len(attempts) - 1
  if restarts >= max_restarts:
    return f'{restarts} restarts were made (--max_restarts)'
  failures = 0
  for attempt in reversed(attempts):
    if attempt.step != last.step:
      break
    failures += 1
  if failures >= _SAME_STEP:
    where = 'before the first one' if last.step is None else f'at {last.step}'
    return f'{failures} failures in a row without a new checkpoint, {where}'
  if failures == 1 and restarts:
    return 0.0
  return min(_FIRST_SECONDS * 2 ** (failures - 1), _LONGEST_SECONDS)


def supervise(
  command: Sequence[str],
  steps: Callable[[], Sequence[int]],
  *,
  max_restarts: int,
  wait: Callable[[float], None] = time.sleep,
) -> int:
  """Runs a command, and again after faults.

  Signals are passed on; the command is not started again after one.

  Args:
    command: what trains.
    steps: those that are saved, the newest last.
    max_restarts: at most.
    wait: for seconds.

  Returns:
    The exit status of the last process.
  """
  attempts: list[Attempt] = []
  with _Child() as child:
    while True:
      status = child.run(command)
      if status == DONE or child.stopped:
        return _status(status)
      saved = steps()
      attempts.append(Attempt(status, saved[-1] if saved else None))
      decision = delay(attempts, max_restarts)
      if isinstance(decision, str):
        _say(f'{_ended(status)}; given up: {decision}.')
        return _status(status)
      _say(
        f'{_ended(status)}, step {attempts[-1].step} is saved; restart '
        f'{len(attempts)} of {max_restarts} in {decision:.0f} s.'
      )
      wait(decision)
      if child.stopped:
        return _status(status)


def saved_steps(workdir: epath.Path) -> list[int]:
  """The steps that a run has saved, good or damaged, the newest last."""
  from train.step_folders import StepFolders

  return StepFolders(workdir / 'checkpoints').steps()


class _Child:
  """The process that trains; signals to this one are passed on to it."""

  def __init__(self):
    self.stopped = False
    self._process: subprocess.Popen | None = None
    self._previous = {}

  def __enter__(self):
    for signum in (signal.SIGINT, signal.SIGTERM):
      self._previous[signum] = signal.signal(signum, self._pass_on)
    return self

  def __exit__(self, *error):
    for signum, handler in self._previous.items():
      signal.signal(signum, handler)

  def _pass_on(self, signum, frame):
    del frame
    self.stopped = True
    if self._process is not None:
      self._process.send_signal(signum)

  def run(self, command: Sequence[str]) -> int:
    # A process group of its own: a terminal sends Ctrl-C to the whole group of
    # this process, and the child would get it twice.
    self._process = subprocess.Popen(command, process_group=0)
    try:
      while True:
        # In pieces, between which Python runs the handlers of signals.
        with contextlib.suppress(subprocess.TimeoutExpired):
          return self._process.wait(timeout=1)
    finally:
      self._process = None


def _status(status: int) -> int:
  """As a shell tells it."""
  return 128 - status if status < 0 else status


def _ended(status: int) -> str:
  if status < 0:
    return f'Ended by {signal.Signals(-status).name}'
  return f'Ended with status {status}'


def _say(text: str) -> None:
  print(f'supervise: {text}', file=sys.stderr, flush=True)
