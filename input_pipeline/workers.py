"""Runs tasks in several processes."""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from input_pipeline.errors import DataError

_ROOM = pathlib.Path(__file__).parent


class Named(Protocol):
  """A task has a name, for messages."""

  @property
  def name(self) -> str:
    """Of the task."""


Task = TypeVar('Task', bound=Named)
Result = TypeVar('Result')


@dataclasses.dataclass(frozen=True)
class _UserError:
  """A ValueError of ours, whose message is all that a user needs."""

  message: str
  kind: type[ValueError]


def run(
  function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int
) -> Iterator[Result]:
  """Yields function(task) for every task, in the order of completion.

  One worker, or one task, runs in this process. Otherwise new interpreters do
  the work: a forked copy of a program with threads, such as JAX's, may hang.

  Raises:
    RuntimeError: when the system killed a worker; names the tasks at work.
    Exception: what `function` raises.
  """
  workers = min(workers, len(tasks))
  if workers <= 1:
    yield from map(function, tasks)
    return
  pool = concurrent.futures.ProcessPoolExecutor(
    workers,
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_follow_parent,
  )
  waiting = iter(tasks)
  running: dict[concurrent.futures.Future, str] = {}
  try:
    while True:
      # No more at a time than there are workers, to know what they work on.
      for task in itertools.islice(waiting, workers - len(running)):
        running[pool.submit(guarded, function, task)] = task.name
      if not running:
        return
      done, _ = concurrent.futures.wait(
        running, return_when=concurrent.futures.FIRST_COMPLETED
      )
      for future in done:
        result = future.result()
        del running[future]
        yield unguarded(result)
  except concurrent.futures.process.BrokenProcessPool as error:
    raise RuntimeError(
      'a worker process was killed, perhaps for its memory, at work on one of'
      f' {", ".join(sorted(running.values()))}; data.workers is {workers}:'
      ' start again with fewer, what is finished is kept'
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def guarded(function: Callable[[Task], Result], task: Task) -> Any:
  """function(task), or the error of a user in place of a result.

  Raised in another process, it would look like a fault in a library.
  """
  try:
    return function(task)
  except ValueError as error:
    frames = traceback.extract_tb(error.__traceback__)
    if pathlib.Path(frames[-1].filename).is_relative_to(_ROOM):
      kind = DataError if isinstance(error, DataError) else ValueError
      return _UserError(str(error), kind)
    raise


def unguarded(result: Any) -> Any:
  """The result of `guarded`, or the error that it stands for."""
  if isinstance(result, _UserError):
    raise result.kind(result.message)
  return result


def cores() -> int:
  """Processor cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _follow_parent() -> None:
  """Makes a worker end when its parent is killed, and not on Ctrl-C alone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def wait() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
