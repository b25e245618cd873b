"""Who works on which trial: leases in the study's database.

A worker holds a trial while it renews its lease. One that was killed renews
nothing, and its trial goes to whoever asks next. Optuna has heartbeats too, but
only inside its own loop, and it gives the trial another number. The database's
clock counts: those of hosts differ.

No lease can stop a worker that is frozen for longer than it lasts. When such a
one wakes up its trial may be another's: it asks before it saves or tells, and
what it tells of a trial that it lost does not count.
"""

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sqlalchemy as sql
from optuna.exceptions import StorageInternalError
from sqlalchemy import exc

# What stands for the right to ask for a new trial.
ASK = -1
# Without a sign of life for this long, a worker is taken for dead.
LEASE_SECONDS = 60.0
# How long a worker waits for a database that is gone.
_PATIENCE_SECONDS = 900.0

# What a database raises that is not there, or too busy.
GONE = (exc.OperationalError, exc.InterfaceError, StorageInternalError)

_LEASES = sql.Table(
  'meshwork_leases',
  sql.MetaData(),
  sql.Column('study', sql.String(255), primary_key=True),
  sql.Column('trial', sql.Integer, primary_key=True, autoincrement=False),
  sql.Column('worker', sql.String(255), nullable=False),
  sql.Column('until', sql.Float(53), nullable=False),
)


class Leases:
  """The leases of one worker in one study.

  Args:
    engine: of the study's database.
    study: its name.
    seconds: a lease lasts without a renewal.
  """

  def __init__(
    self, engine: sql.Engine, study: str, seconds: float = LEASE_SECONDS
  ):
    self.worker = worker_name()
    self.seconds = seconds
    self._engine = engine
    self._study = study
    self._held: set[int] = set()
    _LEASES.metadata.create_all(engine)

  def take(self, trial: int) -> bool:
    """Takes a trial that nobody, or a dead worker, holds; says if it did."""
    if trial in self._held:
      return False
    mine = self._of(trial)
    with self._engine.begin() as connection:
      holder = connection.execute(
        sql.select(_LEASES.c.worker).where(mine)
      ).scalar()
      if holder is None:
        return self._insert(trial)
      free = _LEASES.c.until < self._now()
      if _is_dead(holder):
        free |= _LEASES.c.worker == holder
      taken = connection.execute(
        sql.update(_LEASES).where(mine, free).values(self._values())
      )
    if taken.rowcount:
      self._held.add(trial)
    return taken.rowcount == 1

  def _insert(self, trial: int) -> bool:
    try:
      with self._engine.begin() as connection:
        connection.execute(
          sql.insert(_LEASES).values(
            study=self._study, trial=trial, **self._values()
          )
        )
    except exc.IntegrityError:
      # Another worker was faster.
      return False
    self._held.add(trial)
    return True

  def renew(self, trials: Iterable[int]) -> set[int]:
    """Renews leases, and the right to ask while this worker has it.

    Returns:
      The trials that it does not hold: others took them meanwhile.
    """
    lost = set()
    with self._engine.begin() as connection:
      for trial in {*trials, *({ASK} & self._held)}:
        kept = connection.execute(
          sql.update(_LEASES)
          .where(self._of(trial), _LEASES.c.worker == self.worker)
          .values(self._values())
        )
        if kept.rowcount == 0:
          lost.add(trial)
    # The right to ask may have been given back beside this thread.
    lost.discard(ASK)
    self._held -= lost
    return lost

  def release(self, trial: int) -> None:
    """Gives a trial back, done or not."""
    self._held.discard(trial)
    with self._engine.begin() as connection:
      connection.execute(
        sql.delete(_LEASES).where(
          self._of(trial), _LEASES.c.worker == self.worker
        )
      )

  @contextlib.contextmanager
  def asking(self) -> Iterator[None]:
    """Keeps other workers from asking for a new trial, in the block.

    Who asks must see what was asked before: suggestions and budget depend on
    it.
    """
    while not patiently(lambda: self.take(ASK)):
      time.sleep(0.05 + 0.1 * random.random())
    try:
      yield
    finally:
      patiently(lambda: self.release(ASK))

  def _of(self, trial: int) -> Any:
    return (_LEASES.c.study == self._study) & (_LEASES.c.trial == trial)

  def _values(self) -> dict[str, Any]:
    return {'worker': self.worker, 'until': self._now() + self.seconds}

  def _now(self) -> Any:
    """The database's clock, in seconds."""
    if self._engine.dialect.name == 'sqlite':
      return (sql.func.julianday('now') - 2440587.5) * 86400.0
    return sql.extract('epoch', sql.func.clock_timestamp())


def worker_name() -> str:
  """This process among all of all hosts."""
  return f'{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}'


def _started(pid: int) -> str:
  """When a process of this host began; '': there is none, or no telling."""
  try:
    with open(f'/proc/{pid}/stat') as file:
      return file.read().rpartition(')')[2].split()[19]
  except OSError:
    return ''


def _is_dead(worker: str) -> bool:
  """Whether a worker was a process of this host that has ended."""
  host, pid, began = worker.rsplit(':', 2)
  here = host == socket.gethostname() and os.path.exists('/proc/self/stat')
  return here and _started(int(pid)) != began


def patiently(
  work: Callable[[], Any],
  *,
  seconds: float = _PATIENCE_SECONDS,
  said: Callable[[str], None] = lambda text: None,
) -> Any:
  """Does work in the database, again and again while that is gone.

  Args:
    work: does all or nothing.
    seconds: after which the error is the caller's.
    said: is told when the wait begins.
  """
  end, pause = time.monotonic() + seconds, 0.1
  while True:
    try:
      return work()
    except GONE as error:
      if time.monotonic() > end:
        raise
      said(f'The database of the study does not answer: {_line(error)}')
      time.sleep(pause * (1 + random.random()))
      pause = min(2 * pause, 10.0)


def _line(error: Exception) -> str:
  return str(error).splitlines()[0][:200]
