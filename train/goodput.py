"""Where the time of a run went, over all processes that worked on it.

The records of metrics.jsonl say how many seconds their process had spent on
what when it wrote them. Between two of them lies a stretch of work. A record of
a lower step than the one before it says that the run went back: the work beyond
that step is lost. Durations within a process are those of its monotonic clock;
the wall clock only tells what lies between two processes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from train.timing import PHASES

Record = Mapping[str, Any]
# Parts of the time of a run, and what a person calls them.
NAMES = {
  'step_time': 'training steps',
  'data_wait': 'waiting for data',
  'evaluation': 'evaluation',
  'checkpoint': 'checkpoints',
  'device_check': 'device checks',
  'startup': 'start-up',
  'compile': 'compilation',
  'other': 'other',
  'restart': 'restarts',
  'lost_steps': 'lost steps',
  'down': 'down time',
}
# They serve all steps of a process: no step that is lost takes them along.
_PREPARATIONS = ('startup', 'compile')
# What a session says of its end if it made all there was to do.
DONE = 'done'


@dataclass(frozen=True)
class SessionTime:
  """What one process did for the run.

  Attributes:
    ended: 'done', or the signal or error that ended it; None: it did not say,
      because it was cut off or is still at work.
    seconds: from its start to its last sign.
    lost: of these, the seconds of work that the run did not keep.
    down: seconds before its start in which no process was at work.
  """

  ended: str | None
  seconds: float
  lost: float
  down: float


@dataclass(frozen=True)
class Goodput:
  """The time of a run.

  Attributes:
    seconds: of each part in NAMES, which are disjoint. 'startup' and 'compile'
      are those of the first process, and 'restart' has those of all others;
      'lost_steps' has the steps that the run did not keep with their data,
      evaluations and saves, and the other parts are without these; 'down' is
      when no process was at work.
    sessions: the processes in their order.
  """

  seconds: dict[str, float]
  sessions: tuple[SessionTime, ...]

  @property
  def total(self) -> float:
    """Seconds from the start of the first process to the last sign."""
    return sum(self.seconds.values())

  @property
  def share(self) -> float:
    """What part of the time went into steps that the run kept."""
    return self.seconds['step_time'] / self.total if self.total else 0.0

  def record(self) -> dict[str, Any]:
    """The values of a record of kind 'goodput'; seconds to four digits."""
    seconds = self.seconds | {'total': self.total}
    return {
      'goodput': self.share,
      'sessions': len(self.sessions),
      **{name: round(value, 4) for name, value in seconds.items()},
    }


@dataclass
class _Session:
  """A process, up to its last record.

  Attributes:
    step: of the last record that told the time.
    told: the seconds of each phase then.
    told_at: by the wall clock.
    begin: by the wall clock; None: nothing has told it yet.
    sign: the last record of any kind, by the wall clock.
    tail: seconds since `told_at`, of which only the wall clock is known.
    lost: seconds of work that the run did not keep.
  """

  step: int
  told_at: float
  sign: float
  told: Mapping[str, float] = field(default_factory=dict)
  begin: float | None = None
  tail: float = 0.0
  lost: float = 0.0
  ended: str | None = None


@dataclass
class _Stretch:
  """Work of a process from one step to another; `open` if it may grow."""

  session: _Session
  first: int
  last: int
  seconds: dict[str, float]
  open: bool


class Account:
  """Adds up the time of a run, record by record."""

  def __init__(self) -> None:
    self._sessions: list[_Session] = []
    # By rising steps: what lies beyond a step that the run goes back to is
    # taken off the end.
    self._kept: list[_Stretch] = []
    self._prepared = dict.fromkeys((*_PREPARATIONS, 'restart'), 0.0)

  def add(self, record: Record) -> None:
    """Adds the next record of the run; those before any session are left out.

    Args:
      record: from metrics.jsonl. What older ones do not tell counts as 'other'.
    """
    kind, step, now = record['kind'], record['step'], record['time']
    if kind == 'session':
      self._go_back(step)
      self._sessions.append(_Session(step, told_at=now, sign=now))
    if not self._sessions:
      return
    session = self._sessions[-1]
    session.sign = now
    told = record if kind == 'time' else record.get('spent')
    if kind == 'goodput':
      session.ended = record.get('ended')
    elif told is None or 'total' not in told:
      session.tail = max(now - session.told_at, 0.0)
    else:
      self._account(session, step, told, may_grow=kind == 'train')
      session.told_at, session.tail = now, 0.0
      if session.begin is None:
        session.begin = now - told['total']

  def _account(
    self, session: _Session, step: int, told: Record, *, may_grow: bool
  ) -> None:
    """Counts what a process did since its last word."""
    names = (*PHASES, 'total')
    told = {name: told.get(name, 0.0) for name in names}
    work = {
      name: max(told[name] - session.told.get(name, 0.0), 0.0) for name in names
    }
    total = work.pop('total')
    work['other'] = max(total - sum(work.values()), 0.0)
    for name in _PREPARATIONS:
      part = name if len(self._sessions) == 1 else 'restart'
      self._prepared[part] += work.pop(name)
    last = self._kept[-1] if self._kept else None
    if step < session.step:
      session.lost += sum(work.values())
      self._go_back(step)
    elif last is not None and last.open and last.session is session:
      last.last, last.open = step, may_grow
      last.seconds = {k: v + work[k] for k, v in last.seconds.items()}
    else:
      self._kept.append(_Stretch(session, session.step, step, work, may_grow))
    session.step, session.told = step, told

  def _go_back(self, step: int) -> None:
    """Moves the work beyond a step to what is lost."""
    while self._kept and self._kept[-1].last > step:
      stretch = self._kept.pop()
      steps = stretch.last - stretch.first
      # What it took until the step is not known better than by the steps.
      share = max(step - stretch.first, 0) / steps if steps else 0.0
      stretch.session.lost += (1 - share) * sum(stretch.seconds.values())
      if share:
        kept = {name: share * v for name, v in stretch.seconds.items()}
        self._kept.append(
          _Stretch(stretch.session, stretch.first, step, kept, open=False)
        )

  def goodput(self) -> Goodput:
    """The time of the run up to the last record."""
    sessions = self._sessions
    seconds = dict.fromkeys(NAMES, 0.0) | self._prepared
    for stretch in self._kept:
      for name, value in stretch.seconds.items():
        seconds[name] += value
    downs = [0.0] * len(sessions)
    for i, (before, after) in enumerate(pairwise(sessions), 1):
      # Nothing was to be done after the end.
      if before.ended != DONE:
        begin = after.told_at if after.begin is None else after.begin
        downs[i] = max(begin - before.sign, 0.0)
    seconds['other'] += sum(session.tail for session in sessions)
    seconds['lost_steps'] = sum(session.lost for session in sessions)
    seconds['down'] = sum(downs)
    return Goodput(
      seconds,
      tuple(
        SessionTime(s.ended, s.told.get('total', 0.0) + s.tail, s.lost, down)
        for s, down in zip(sessions, downs, strict=True)
      ),
    )


def goodput(records: Iterable[Record]) -> Goodput:
  """Where the time of a run went.

  Args:
    records: of metrics.jsonl, in their order.
  """
  account = Account()
  for record in records:
    account.add(record)
  return account.goodput()
