"""Notices of a platform that it is about to take a machine away."""

import contextlib
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator

from train.background import looked_at
from train.cluster.tpu import metadata
from train.signals import StopRequest

# Seconds between two questions: a machine is left half a minute.
_ASK_SECONDS = 3.0
_MAKER = pathlib.Path('/sys/class/dmi/id/product_name')


def google_preemption() -> Callable[[], bool] | None:
  """Asks whether this machine of Google Cloud is preempted; None: it is none.

  The machine's operating system is told as well, and it sends SIGTERM to what
  it started as a service, and to nothing else.
  """
  host = os.environ.get('GCE_METADATA_IP')
  maker = _MAKER.read_text() if _MAKER.exists() else ''
  if host is None and 'Google' not in maker:
    return None
  where = {'host': host} if host else {}
  return lambda: metadata('instance/preempted', **where) == 'TRUE'


@contextlib.contextmanager
def platform_notice(
  request: StopRequest,
  preempted: Callable[[], bool] | None,
  seconds: float = _ASK_SECONDS,
) -> Iterator[None]:
  """Takes the platform's notice of a preemption for a SIGTERM.

  Args:
    request: is told.
    preempted: asks the platform; None: it gives no notice.
    seconds: between two questions.
  """
  if preempted is None:
    yield
    return

  def ask() -> bool:
    try:
      noticed = preempted()
    except OSError:
      # The metadata server may be away for a moment.
      return True
    if noticed:
      print(
        'The platform is about to take this machine away.',
        file=sys.stderr,
        flush=True,
      )
      request.receive(signal.SIGTERM)
    return not noticed

  with looked_at(ask, seconds, 'notice'):
    yield
