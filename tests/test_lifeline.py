"""Connections between processes: cut, ended, and asked for by strangers."""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import PATHS, port

from train.cluster.bind import _is_here
from train.lifeline import Lifelines, connect, reach

TOKEN = b'0123456789abcdef'
HOST = '127.0.0.1'
# A machine may have no IPv6.
LOOPBACK = [host for host in (HOST, '::1') if _is_here(host)]


def greeting(number, token=TOKEN):
  return token + struct.pack('>I', number)


@contextlib.contextmanager
def process_0(processes=4, host=HOST, **kinds):
  """Its lifelines, with an open door."""
  lines = Lifelines(TOKEN, processes, **kinds)
  try:
    yield lines, lines.open_door(host)
  finally:
    lines.close()


@contextlib.contextmanager
def serving(lines):
  """Process 0 looks at its connections, in a thread."""
  ended = []

  def serve():
    while not ended:
      assert lines.look(0.01) == {}

  with ThreadPoolExecutor(1) as thread:
    done = thread.submit(serve)
    try:
      yield
    finally:
      ended.append(True)
      done.result()


def lost_soon(lines):
  """Who is found to be lost."""
  for _ in range(500):
    if lost := lines.look(0.01):
      return lost
  return {}


def none_lost(lines):
  return not any(lines.look(0.005) for _ in range(10))


def said(line, seconds=5.0):
  """What a connection says; b'': it has ended; None: nothing."""
  line.settimeout(seconds)
  try:
    return line.recv(100)
  except TimeoutError:
    return None
  except ConnectionError:
    return b''


def joined(lines, door, number):
  """The connection of a process that was let in."""
  with serving(lines):
    return reach(HOST, door, TOKEN, number)


def reset(line):
  line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
  line.close()


@pytest.mark.parametrize(
  ('words', 'end', 'lost'),
  [
    (b'', socket.socket.close, {2: ''}),
    (b'', reset, {2: ''}),
    (b'goodbye\0', socket.socket.close, {}),
    (b'goodbye', socket.socket.close, {2: 'goodbye'}),
    (b'a disk is full\0', socket.socket.close, {2: 'a disk is full'}),
    # These count as soon as they are complete.
    (b'a disk is full\0', lambda line: None, {2: 'a disk is full'}),
    (b'\xff' * 5000, socket.socket.close, {2: '\ufffd' * 2000}),
  ],
)
def test_who_ends_without_a_goodbye_is_lost(words, end, lost):
  with process_0() as (lines, door):
    lives, dies = joined(lines, door, 1), joined(lines, door, 2)
    dies.sendall(words)
    end(dies)
    assert lost_soon(lines) == lost if lost else none_lost(lines)
    # Once, and nobody else is.
    assert none_lost(lines)
    dies.close()
    lives.close()
    assert lost_soon(lines) == {1: ''}


def test_the_others_learn_how_process_0_ends():
  for end, lost in (
    (lambda lines: lines.end(), {}),
    (lambda lines: lines.say('Process 3 is lost'), {0: 'Process 3 is lost'}),
    (lambda lines: lines.say('x' * 5000), {0: 'x' * 1999}),
    (lambda lines: None, {0: ''}),
  ):
    other = Lifelines()
    with process_0() as (lines, door):
      other.hold(0, joined(lines, door, 1))
      assert none_lost(other)
      end(lines)
    assert lost_soon(other) == lost if lost else none_lost(other)
    other.close()


@pytest.mark.parametrize(
  'words',
  [
    greeting(2, TOKEN[:-1] + b'x'),
    greeting(2, TOKEN[:-1]) + b'x',
    greeting(0),
    greeting(4),
    # It is here already.
    greeting(1),
    b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n',
    b'\0' * 5000,
  ],
)
def test_a_stranger_is_sent_away(words):
  with process_0() as (lines, door):
    here = joined(lines, door, 1)
    with serving(lines):
      with socket.create_connection((HOST, door)) as stranger:
        stranger.sendall(words)
        assert said(stranger) == b''
      # Half a greeting is none.
      with socket.create_connection((HOST, door)) as stranger:
        stranger.sendall(greeting(2)[:-1])
        stranger.shutdown(socket.SHUT_WR)
        assert said(stranger) == b''
    joined(lines, door, 2).close()
    assert lost_soon(lines) == {2: ''}
    here.close()
    assert lost_soon(lines) == {1: ''}


def test_strangers_who_say_nothing_keep_nobody_waiting():
  now = [0.0]
  with (
    process_0(clock=lambda: now[0]) as (lines, door),
    contextlib.ExitStack() as stack,
  ):
    strangers = [
      stack.enter_context(socket.create_connection((HOST, door)))
      for _ in range(100)
    ]
    here = stack.enter_context(joined(lines, door, 1))
    # There is room for 4 + 64. The first of them made room for the last.
    states = [said(stranger, 0.001) for stranger in strangers]
    assert states == [b''] * 33 + [None] * 67
    now[0] = 2.9
    strangers[-1].sendall(b'x')
    assert none_lost(lines)
    assert said(strangers[-1], 0.01) is None
    # Whoever says little by little is late all the same.
    now[0] = 3.1
    assert none_lost(lines)
    assert {said(stranger) for stranger in strangers} == {b''}
    here.close()
    assert lost_soon(lines) == {1: ''}


def test_nobody_comes_through_a_door_that_is_shut():
  with process_0() as (lines, door):
    here = joined(lines, door, 1)
    waits = socket.create_connection((HOST, door))
    assert none_lost(lines)
    lines.shut_door()
    assert none_lost(lines)
    assert said(waits) == b''
    with pytest.raises(ConnectionRefusedError):
      reach(HOST, door, TOKEN, 2)
    here.close()
    assert lost_soon(lines) == {1: ''}


@pytest.mark.parametrize('host', [*LOOPBACK, '', '::'])
def test_doors_of_both_versions_of_ip(host):
  with process_0(host=host) as (lines, door), serving(lines):
    for number, own in enumerate(LOOPBACK, 1):
      if host in (own, '', '::'):
        line = reach(own, door, TOKEN, number)
        assert not os.get_inheritable(line.fileno())
        line.sendall(b'goodbye\0')
        line.close()
      else:
        with pytest.raises(ConnectionRefusedError):
          reach(own, door, TOKEN, number)


def test_somebody_else_at_the_door_is_found_out():
  with socket.create_server((HOST, 0)) as silent:
    door = silent.getsockname()[1]
    with pytest.raises(TimeoutError):
      reach(HOST, door, TOKEN, 1, seconds=0.1)
    # Had it been process 0, it would know that nobody is lost.
    assert silent.accept()[0].recv(100) == greeting(1) + b'goodbye\0'
    with ThreadPoolExecutor(1) as thread:
      reached = thread.submit(reach, HOST, door, TOKEN, 1)
      silent.accept()[0].sendall(b'SSH-2.0-OpenSSH_9.2\r\n')
      with pytest.raises(ConnectionRefusedError, match='somebody else'):
        reached.result()


# A parent that holds a connection and has a child when it is killed.
PARENT = """
import os, sys, time
from train.lifeline import Lifelines, reach
lines = Lifelines()
lines.hold(0, reach('127.0.0.1', int(sys.argv[1]), sys.argv[2].encode(), 1))
if os.fork():
  print('ready', flush=True)
time.sleep(60)
"""


def test_a_child_does_not_hold_the_connection_of_its_killed_parent():
  with process_0() as (lines, door), contextlib.ExitStack() as stack:
    with serving(lines):
      parent = stack.enter_context(
        subprocess.Popen(
          [sys.executable, '-c', PARENT, str(door), TOKEN.decode()],
          env=os.environ | PATHS,
          stdout=subprocess.PIPE,
          process_group=0,
        )
      )
      stack.callback(os.killpg, parent.pid, signal.SIGKILL)
      assert parent.stdout.readline() == b'ready\n'
    parent.kill()
    assert lost_soon(lines) == {1: ''}


class Store:
  """A key-value store such as that of the coordinator."""

  def __init__(self):
    self.values = {}

  def key_value_set(self, key, value):
    self.values[key] = value

  def blocking_key_value_get(self, key, milliseconds):
    assert milliseconds > 0
    return self.values[key]


def test_processes_find_each_other_by_the_store(capfd):
  store = Store()
  first = connect(store, 0, 3, host='localhost', bound=HOST)
  (key,) = store.values
  with serving(first):
    others = [connect(store, n, 3, host='localhost', bound='') for n in (1, 2)]
  assert capfd.readouterr().err == ''
  others[0].end()
  for other in others:
    other.close()
  assert lost_soon(first) == {2: ''}
  # Nobody can guess what lets one in.
  first.close()
  connect(again := Store(), 0, 3, host='localhost', bound=HOST).close()
  tokens = {s.values[key].split()[1] for s in (store, again)}
  assert len(tokens) == 2
  assert all(re.fullmatch('[0-9a-f]{64}', token) for token in tokens)


def test_without_a_way_there_it_says_so_and_goes_on(capfd):
  store = Store()
  # Of a network for examples, which is nobody's (RFC 5737).
  first = connect(store, 0, 2, host='localhost', bound='192.0.2.1')
  error = capfd.readouterr().err
  assert error.startswith('Process 0 cannot listen on 192.0.2.1: ')
  assert error.count('\n') == 1
  other = connect(store, 1, 2, host='localhost', bound='')
  assert capfd.readouterr().err == ''
  for key in store.values:
    store.values[key] = f'{port()} token'
  blocked = connect(store, 1, 2, host='localhost', bound='')
  error = capfd.readouterr().err
  assert re.match(r'Process 1 cannot reach port \d+ of localhost: ', error)
  assert error.count('\n') == 1
  for lines in (first, other, blocked):
    assert lines.look(0) == {}
    lines.close()
