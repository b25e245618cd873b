"""A thread that ends this process soon after another one was lost.

JAX's own heartbeats take minutes by default, and end a process by SIGABRT; a
collective whose peer is gone fails at once on CPUs and waits for ever on other
devices. Here a process that was killed is found by the end of its connection to
process 0 (train/lifeline.py), and one that froze or whose host vanished by its
silence: every process leaves a sign of life with the coordinator. Process 0
looks at all of them, and the others at that of process 0: what the coordinator
has to answer grows with the number of processes only.
"""

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import jax

from train.background import ENDING
from train.exits import START_AGAIN
from train.lifeline import Lifelines, connect

_BEAT, _LOST, _CAUSE = 'meshwork/beat/', 'meshwork/lost', 'meshwork/cause'
_CONNECTED = 'meshwork/connected'
# What a process leaves behind that is not lost.
_DONE = 'done'
_LOOK_SECONDS = 1.0
# Loading a library of a gigabyte stops all of Python for a while.
_STARTUP_SECONDS, _STEP_SECONDS = 60.0, 10.0
_CONNECT_SECONDS = 0.1
# With process 0 ends the coordinator, and JAX aborts those that are still here.
_HEARD_SECONDS = 1.0
# They have just joined, and have nothing to do but to connect.
_HERE_SECONDS = 10.0


class Silence:
  """Tells who has been silent for too long.

  Args:
    clock: in seconds.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._heard: dict[str, tuple[str, float]] = {}

  def of(self, beats: dict[str, str], seconds: float) -> list[str]:
    """Those whose sign is what it was that long ago, by name.

    Args:
      beats: the present sign of each, which changes while it lives.
      seconds: that are too long.
    """
    now = self._clock()
    for name, beat in beats.items():
      if self._heard.get(name, ('', 0.0))[0] != beat:
        self._heard[name] = beat, now
    return [
      name
      for name, (beat, heard) in self._heard.items()
      if now - heard > seconds and beat != _DONE
    ]


class Watch:
  """Ends this process if another one is lost.

  Args:
    client: of the coordinator.
    me: number of this process.
  """

  def __init__(self, client: Any, me: int):
    self._client = client
    self._me = me
    self._silence = Silence()
    self._seconds = _STARTUP_SECONDS
    self._lifelines: Lifelines | None = None
    self._ended = threading.Event()
    self._thread = threading.Thread(
      target=self._watch, name='peers', daemon=True
    )
    self._thread.start()
    atexit.register(self.end)

  def connect(self, processes: int, *, host: str, bound: str) -> None:
    """Connects all processes with process 0, and returns when all are.

    Args:
      processes: how many there are.
      host: by which the others reach process 0.
      bound: address on which process 0 listens; '': all.
    """
    try:
      self._lifelines = connect(
        self._client, self._me, processes, host=host, bound=bound
      )
      threading.Thread(
        target=self._hold, args=[self._lifelines], name='lifelines', daemon=True
      ).start()
      self._client.wait_at_barrier(_CONNECTED, round(1000 * _HERE_SECONDS))
    except jax.errors.JaxRuntimeError as error:
      self.leave_alone(f'A process that had joined is lost: {error}')
    self._lifelines.shut_door()

  def steps_begin(self) -> None:
    """From now on nothing keeps a process from giving signs of life."""
    self._seconds = _STEP_SECONDS

  def end(self) -> None:
    """Says that this process ends, and is not lost."""
    self._ended.set()
    if self._lifelines is not None:
      self._lifelines.end()
    self._thread.join()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._beat(_DONE)

  def say(self, words: str) -> None:
    """Tells the others why process 0 ends, and gives them time to end first."""
    if self._lifelines is not None and not self._me:
      self._lifelines.say(words)
      time.sleep(_HEARD_SECONDS)

  def leave_alone(self, lost: str) -> NoReturn:
    """Ends this process, whose peers are lost; says why, if one of them did.

    Args:
      lost: who is, in words.
    """
    ENDING.acquire()
    try:
      self.say(lost)
      print(
        f'\n{lost}\nStart the same command again on all of them.',
        file=sys.stderr,
        flush=True,
      )
      # Without process 0 nobody answers, and JAX aborts this one very soon.
      if _coordinator_listens() and (cause := first_cause(self._client)):
        print(f'The first cause: {cause}', file=sys.stderr, flush=True)
      sys.stdout.flush()
    finally:
      os._exit(START_AGAIN)

  def _beat(self, sign: str) -> None:
    self._client.key_value_set(f'{_BEAT}{self._me}', sign, allow_overwrite=True)

  def _watch(self) -> None:
    count = 0
    while not self._ended.wait(_LOOK_SECONDS):
      count += 1
      try:
        self._beat(str(count))
        lost = self._lost()
      except jax.errors.JaxRuntimeError as error:
        if self._ended.is_set():
          return
        lost = f'The coordinator, in process 0, is lost: {error}'
      if lost:
        self.leave_alone(lost)

  def _hold(self, lifelines: Lifelines) -> None:
    while not self._ended.is_set():
      ends = lifelines.look(_LOOK_SECONDS)
      if ends and not self._ended.is_set():
        told = ' '.join(filter(None, ends.values()))
        lost = told or f'{_named(ends)} is lost: the connection was cut.'
        with contextlib.suppress(jax.errors.JaxRuntimeError):
          self._tell_lost(lost)
        self.leave_alone(lost)

  def _lost(self) -> str | None:
    """Who is lost, in words."""
    if self._me:
      beats = {'0': try_get(self._client, f'{_BEAT}0') or ''}
    else:
      beats = {
        key.rpartition('/')[2]: beat
        for key, beat in self._client.key_value_dir_get(_BEAT)
      }
    silent = self._silence.of(beats, self._seconds)
    if not silent:
      return try_get(self._client, _LOST)
    lost = (
      f'{_named(silent)} is lost: no sign of life for {self._seconds:.0f} s.'
    )
    self._tell_lost(lost)
    return lost

  def _tell_lost(self, lost: str) -> None:
    """Leaves word for those that look at process 0 only."""
    if not self._me:
      self._client.key_value_set(_LOST, lost, allow_overwrite=True)


def _named(processes: Iterable[Any]) -> str:
  return f'Process {", ".join(map(str, processes))}'


def _coordinator_listens() -> bool:
  from jax._src.distributed import global_state

  host, _, port = (global_state.coordinator_address or '').rpartition(':')
  try:
    socket.create_connection(
      (host.strip('[]'), int(port)), _CONNECT_SECONDS
    ).close()
  except OSError:
    return False
  return True


def tell_cause(client: Any, cause: str) -> None:
  """Leaves word with the coordinator of why this process ends."""
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    client.key_value_set(_CAUSE, cause)


def first_cause(client: Any) -> str | None:
  """What the first process that ended said of it."""
  try:
    return try_get(client, _CAUSE)
  except jax.errors.JaxRuntimeError:
    return None


def try_get(client: Any, key: str) -> str | None:
  """The value of a key; None: there is none.

  Raises:
    jax.errors.JaxRuntimeError: the coordinator does not answer.
  """
  try:
    return client.key_value_try_get(key)
  except jax.errors.JaxRuntimeError as error:
    if 'NOT_FOUND' in str(error):
      return None
    raise
