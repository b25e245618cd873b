"""Connections that the kernel closes when a process is gone, however it went.

A killed process says nothing; one that loads a library of a gigabyte lives and
says nothing either, for all threads of Python stand still. So every process
holds a connection to process 0. Where it ends without a goodbye, the process at
the other end is lost; the kernel sees to that at once.
"""

import contextlib
import functools
import hmac
import os
import secrets
import selectors
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

_KEY = 'meshwork/lifeline'
# A greeting is the token and the number of a process.
_NUMBER_BYTES = 4
_WELCOME = b'+'
# Last words end with a zero.
_END, _GOODBYE = b'\0', b'goodbye\0'
_LAST_WORDS = 2000
_GREETING_SECONDS, _REACH_SECONDS, _TOLD_SECONDS = 3.0, 5.0, 10.0
# Beside those that belong here, which may all come at the same time.
_STRANGERS = 64
# Firewalls forget a connection over which nothing goes. No answer for 80 s ends
# it; the signs of life find that out sooner.
_KEEP_ALIVE = {'TCP_KEEPIDLE': 20, 'TCP_KEEPINTVL': 10, 'TCP_KEEPCNT': 6}


class Lifelines:
  """The connections of a process: to process 0; there, to all the others.

  Nothing here waits but `look`, which one thread calls again and again.

  Args:
    token: that others must know to be let in.
    processes: how many there are.
    clock: in seconds.
  """

  def __init__(
    self,
    token: bytes = b'',
    processes: int = 0,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._token = token
    self._processes = processes
    self._clock = clock
    self._selector = selectors.DefaultSelector()
    self._door: socket.socket | None = None
    self._shut = False
    # Since when they are here, and what they have said so far.
    self._strangers: dict[socket.socket, tuple[float, bytes]] = {}
    self._lines: dict[int, socket.socket] = {}
    self._words: dict[int, bytes] = {}
    self._lost: dict[int, str] = {}
    # A child that is forked would hold the connections of a killed parent.
    os.register_at_fork(after_in_child=self.close)

  def open_door(self, host: str) -> int:
    """Lets the others in.

    Args:
      host: address of this machine to listen on; '': all of them.

    Returns:
      The port, one that was free.

    Raises:
      OSError: that is impossible.
    """
    self._door = _listen(host)
    self._door.setblocking(False)
    self._selector.register(self._door, selectors.EVENT_READ, self._let_in)
    return self._door.getsockname()[1]

  def shut_door(self) -> None:
    """Lets nobody in from the next `look` on."""
    self._shut = True

  def hold(self, number: int, line: socket.socket) -> None:
    """Holds the connection to a process from now on."""
    line.setblocking(False)
    _keep_alive(line)
    self._lines[number], self._words[number] = line, b''
    hear = functools.partial(self._hear, number)
    self._selector.register(line, selectors.EVENT_READ, hear)

  def look(self, seconds: float) -> dict[int, str]:
    """Does what is due; returns after that many seconds, or before.

    Returns:
      The processes that are lost, and their last words.
    """
    for key, _ in self._selector.select(seconds):
      key.data(key.fileobj)
    late = self._clock() - _GREETING_SECONDS
    for line, (since, _) in list(self._strangers.items()):
      if since < late or self._shut:
        self._send_away(line)
    if self._shut and self._door is not None:
      self._selector.unregister(self._door)
      self._door.close()
      self._door = None
    lost, self._lost = self._lost, {}
    return lost

  def say(self, words: str) -> None:
    """The last words to all who hold a connection: why this process ends."""
    self._send(words.encode()[: _LAST_WORDS - 1] + _END)

  def end(self) -> None:
    """Says that this process ends, and is not lost."""
    self._send(_GOODBYE)

  def close(self) -> None:
    """Closes what this process holds of the connections."""
    # In a child the selector is still that of its parent: nothing is taken out.
    self._selector.close()
    for line in [*self._lines.values(), *self._strangers, self._door]:
      if line is not None:
        line.close()

  def _send(self, words: bytes) -> None:
    for line in list(self._lines.values()):
      # What is said is little, and once: there is room for it.
      with contextlib.suppress(OSError):
        line.send(words)

  def _let_in(self, door: socket.socket) -> None:
    # Thousands come at once; between them the others have their turn.
    for _ in range(_STRANGERS):
      try:
        line, _ = door.accept()
      except OSError:
        return
      line.setblocking(False)
      if len(self._strangers) >= self._processes + _STRANGERS:
        self._send_away(next(iter(self._strangers)))
      self._strangers[line] = self._clock(), b''
      self._selector.register(line, selectors.EVENT_READ, self._check)

  def _check(self, line: socket.socket) -> None:
    """Lets a stranger stay that knows the token."""
    if line not in self._strangers:
      return
    since, said = self._strangers[line]
    whole = len(self._token) + _NUMBER_BYTES
    piece = _receive(line, whole - len(said))
    if piece is None:
      return
    said += piece
    if piece and len(said) < whole:
      self._strangers[line] = since, said
      return
    token, number = said[:-_NUMBER_BYTES], said[-_NUMBER_BYTES:]
    who = int.from_bytes(number, 'big')
    known = hmac.compare_digest(token, self._token)
    if not known or not 0 < who < self._processes or who in self._lines:
      self._send_away(line)
      return
    del self._strangers[line]
    self._selector.unregister(line)
    self.hold(who, line)
    with contextlib.suppress(OSError):
      line.send(_WELCOME)

  def _send_away(self, line: socket.socket) -> None:
    del self._strangers[line]
    self._selector.unregister(line)
    line.close()

  def _hear(self, number: int, line: socket.socket) -> None:
    piece = _receive(line, _LAST_WORDS)
    if piece is None:
      return
    words = (self._words[number] + piece)[:_LAST_WORDS]
    self._words[number] = words
    if piece and not words.endswith(_END):
      return
    self._selector.unregister(line)
    line.close()
    del self._lines[number]
    if words != _GOODBYE:
      self._lost[number] = words.decode(errors='replace').rstrip('\0')


def connect(
  client: Any, me: int, processes: int, *, host: str, bound: str
) -> Lifelines:
  """Opens the door on process 0, and goes to it on the others.

  Where that is impossible it says so, and nothing is held.

  Args:
    client: of the coordinator.
    me: number of this process.
    processes: how many there are.
    host: by which the others reach process 0.
    bound: address on which process 0 listens; '': all.

  Raises:
    jax.errors.JaxRuntimeError: process 0 does not answer.
  """
  if not me:
    token = secrets.token_hex(32)
    lines = Lifelines(token.encode(), processes)
    port = 0
    try:
      port = lines.open_door(bound)
    except OSError as error:
      _say_none(
        f'Process 0 cannot listen on {bound or "its networks"}: {error}'
      )
    client.key_value_set(_KEY, f'{port} {token}')
    return lines
  lines = Lifelines()
  milliseconds = round(1000 * _TOLD_SECONDS)
  said, token = client.blocking_key_value_get(_KEY, milliseconds).split()
  if port := int(said):
    try:
      lines.hold(0, reach(host, port, token.encode(), me))
    except OSError as error:
      _say_none(f'Process {me} cannot reach port {port} of {host}: {error}')
  return lines


def reach(
  host: str,
  port: int,
  token: bytes,
  me: int,
  seconds: float = _REACH_SECONDS,
) -> socket.socket:
  """A connection to process 0, which has let this process in.

  Args:
    host: of process 0.
    port: its door.
    token: that it asks for.
    me: number of this process.
    seconds: that all of it may take.

  Raises:
    OSError: it is not reached at any address of the host.
  """
  places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
  failure = OSError(f'{host} has no address')
  for family, kind, protocol, _, place in places:
    line = socket.socket(family, kind, protocol)
    try:
      line.settimeout(seconds / len(places))
      line.connect(place)
      line.sendall(token + me.to_bytes(_NUMBER_BYTES, 'big'))
      if line.recv(1) == _WELCOME:
        return line
      failure = ConnectionRefusedError('somebody else listens there')
    except OSError as error:
      failure = error
    # It may have let this process in, and answered too late.
    with contextlib.suppress(OSError):
      line.sendall(_GOODBYE)
    line.close()
  raise failure


def _listen(host: str) -> socket.socket:
  if host in ('', '::'):
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(
      ('', 0), family=family, backlog=socket.SOMAXCONN, dualstack_ipv6=both
    )
  family, *_, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
  return socket.create_server(place, family=family, backlog=socket.SOMAXCONN)


def _receive(line: socket.socket, most: int) -> bytes | None:
  """What has come; b'': the connection has ended; None: nothing has come."""
  try:
    return line.recv(most)
  except BlockingIOError:
    return None
  except OSError:
    return b''


def _keep_alive(line: socket.socket) -> None:
  line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in _KEEP_ALIVE.items():
    # Not every system has them.
    if hasattr(socket, name):
      line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _say_none(why: str) -> None:
  print(
    f'{why}. So only its signs of life tell that a process is killed, after a '
    'minute while it starts. Let the machines of the run reach each other on '
    'all ports.',
    file=sys.stderr,
    flush=True,
  )
