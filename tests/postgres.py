"""A PostgreSQL server of a test's own, where one is installed."""

import contextlib
import glob
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

# The user that a server runs as where the test runs as root: it refuses root.
USER = 'postgres'


def program(name: str) -> str:
  """Path of one of the server's programs; skips the test without one."""
  places = sorted(glob.glob('/usr/lib/postgresql/*/bin'))
  found = shutil.which(
    name, path=os.pathsep.join([*places, os.environ['PATH']])
  )
  if found is None:
    pytest.skip(f'PostgreSQL is not installed: there is no {name}.')
  return os.path.realpath(found)


def user() -> dict[str, str]:
  """How a process is started as a user that a server accepts."""
  return {'user': USER, 'group': USER} if os.geteuid() == 0 else {}


class Server:
  """A server on a free port of this machine, with an empty database.

  Attributes:
    url: of the database, as SQLAlchemy writes it.
  """

  def __init__(self, folder: pathlib.Path):
    pytest.importorskip('psycopg')
    self._data = folder / 'data'
    self._initdb, self._pg_ctl = program('initdb'), program('pg_ctl')
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      self._port = free.getsockname()[1]
    self.url = f'postgresql+psycopg://{USER}@127.0.0.1:{self._port}/postgres'
    self._run(
      self._initdb, '-D', str(self._data), '-U', USER, '-A', 'trust', '-N'
    )

  def start(self) -> None:
    """Starts the server, and returns when it answers."""
    options = f'-p {self._port} -k "" -c listen_addresses=127.0.0.1'
    log = str(self._data / 'log')
    self._run(
      self._pg_ctl, '-D', str(self._data), '-l', log, '-o', options, '-w',
      'start',
    )  # fmt: skip

  def stop(self) -> None:
    """Ends the server, whoever is connected."""
    self._run(self._pg_ctl, '-D', str(self._data), '-m', 'immediate', 'stop')

  def _run(self, *arguments: str) -> None:
    subprocess.run(
      arguments,
      check=True,
      cwd=self._data.parent,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      **user(),
    )


@contextlib.contextmanager
def server() -> Iterator[Server]:
  """A server that runs, for the block."""
  # The folders of pytest belong to the user that runs it alone.
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    if user():
      shutil.chown(folder, USER, USER)
    made = Server(folder)
    made.start()
    try:
      yield made
    finally:
      with contextlib.suppress(subprocess.CalledProcessError):
        made.stop()
