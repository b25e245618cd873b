"""Runs tasks in several processes."""

import concurrent.futures
import concurrent.futures.process
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Task = TypeVar('Task')
Result = TypeVar('Result')


def run(
  function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int
) -> Iterator[Result]:
  """Yields function(task) for every task, in the order of completion.

  One worker, or one task, runs in this process. Otherwise new interpreters do
  the work: a forked copy of a program with threads, such as JAX's, may hang.

  Raises:
    RuntimeError: when the system killed a worker.
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
  try:
    futures = [pool.submit(function, task) for task in tasks]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()
  except concurrent.futures.process.BrokenProcessPool as error:
    raise RuntimeError(
      f'a worker process was killed, perhaps for its memory; data.workers is'
      f' {workers}: start again with fewer, what is finished is kept'
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


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
