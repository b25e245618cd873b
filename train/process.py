"""How a process of a command begins and ends, whatever the command."""

import os
import signal
import sys
from typing import Any, NoReturn

from train.exits import START_AGAIN, exit_status


def end_on_sigterm() -> None:
  """Lets SIGTERM end the process as an exception does: files are closed.

  Training has a handler of its own, which saves first.
  """
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(START_AGAIN))


def join_cluster(flags: Any, *, expected: bool | None) -> bool:
  """Joins the other processes of a cluster; whether there are any.

  Args:
    flags: of the command line, which may describe the cluster.
    expected: whether there must be one; None: look for it.
  """
  # Imported here, as below: a typo should not wait for JAX.
  from train.cluster.find import Given
  from train.distributed import join_cluster as join

  names = ('coordinator_address', 'num_processes', 'process_id')
  given = Given(**{name: flags[name].value for name in names})
  return join(given, expected=expected) is not None


def fail_as_designed(error: Exception, joined: bool) -> None:
  """Ends the process if an error is one that a run ends with by design.

  Args:
    error: what ended the command.
    joined: whether the process has joined others.
  """
  from train.distributed import is_lost_peer, leave_alone

  status = exit_status(error)
  if status is None:
    return
  if is_lost_peer(error):
    line = str(error).strip().splitlines()[0]
    leave_alone(f'Another process is lost: {line}')
  fail(str(error), status, joined)


def fail(message: str, status: int, joined: bool = False) -> NoReturn:
  """Ends the process with one line for a person.

  Args:
    message: what went wrong, and what to do.
    status: of the process.
    joined: whether it has joined others, which must not wait for it.
  """
  program = os.path.basename(sys.argv[0])
  print(f'{program}: {message}', file=sys.stderr)
  if joined:
    from train.distributed import leave

    leave(status, message)
  sys.exit(status)
