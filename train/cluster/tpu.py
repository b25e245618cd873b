"""Hosts of TPU slices, as GKE and Cloud TPU name them.

GKE sets TPU_WORKER_ID and TPU_WORKER_HOSTNAMES or TPU_PROCESS_ADDRESSES; a
Cloud TPU VM asks the metadata server. MEGASCALE_* number slices that train
together.
"""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from train.cluster.description import (
  Description,
  Environment,
  address,
  integer,
)

# The value of an attribute of this machine; None: it has no such attribute.
# Raises OSError if the metadata server does not answer.
Fetch = Callable[[str], str | None]

# Where jax, too, has the coordinator listen on TPUs.
TPU_PORT = 8482

_MEGASCALE = (
  'MEGASCALE_COORDINATOR_ADDRESS', 'MEGASCALE_NUM_SLICES', 'MEGASCALE_SLICE_ID',
)  # fmt: skip
_SECONDS, _TRIES = 3.0, 3


def metadata_attribute(
  name: str, *, host: str = 'metadata.google.internal'
) -> str | None:
  """An attribute of this machine on Google Cloud; None: it has none such.

  Args:
    name: of the attribute.
    host: name or address of the metadata server.

  Raises:
    OSError: the server does not answer.
  """
  return metadata(f'instance/attributes/{name}', host=host)


def metadata(
  path: str, *, host: str = 'metadata.google.internal'
) -> str | None:
  """What the metadata server of Google Cloud says; None: it knows no such.

  Args:
    path: of the value.
    host: name or address of the server.

  Raises:
    OSError: the server does not answer.
  """
  request = urllib.request.Request(
    f'http://{host}/computeMetadata/v1/{path}',
    headers={'Metadata-Flavor': 'Google'},
  )
  # The server is the machine's own: no proxy knows it.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  for attempt in range(1, _TRIES + 1):
    try:
      with opener.open(request, timeout=_SECONDS) as response:
        return response.read().decode()
    except urllib.error.HTTPError as error:
      if error.code == 404:
        return None
      failure: OSError = error
    except OSError as error:
      failure = error
    if attempt < _TRIES:
      time.sleep(0.2 * attempt)
  raise failure


def gke_tpu(environ: Environment) -> Description | None:
  """What GKE says of the slice of this pod."""
  name = 'TPU_PROCESS_ADDRESSES'
  if not environ.get(name):
    name = 'TPU_WORKER_HOSTNAMES'
  hosts = _split(environ.get(name, ''))
  worker = integer(environ, 'TPU_WORKER_ID')
  if not (hosts or worker or any(environ.get(n) for n in _MEGASCALE)):
    return None
  return _slice(
    'GKE TPU', environ, environ, hosts, worker, (name, 'TPU_WORKER_ID')
  )


def cloud_tpu(environ: Environment, *, fetch: Fetch) -> Description | None:
  """What the metadata server says of the slice of this machine."""
  platforms = environ.get('JAX_PLATFORMS', '')
  # jax sets the first where no TPU is attached. JAX_PLATFORMS=cpu on a host of
  # a slice means that host alone.
  if 'TPU_SKIP_MDS_QUERY' in environ or (platforms and 'tpu' not in platforms):
    return None
  names = ('worker-network-endpoints', 'agent-worker-number')
  try:
    endpoints, worker, tpu_env = map(fetch, (*names, 'tpu-env'))
  except OSError as error:
    return Description(
      launcher='Cloud TPU',
      problem='This machine has a TPU, and the metadata server, which knows '
      f'the hosts of its slice, does not answer ({error}). Give '
      '--coordinator_address, --num_processes and --process_id.',
    )
  if not endpoints and not worker:
    return None
  # Lines of NAME: 'VALUE'.
  said = dict(
    re.findall(r"^\s*(\w+)\s*:\s*'?([^'\n]*?)'?\s*$", tpu_env or '', re.M)
  )
  return _slice(
    'Cloud TPU',
    environ,
    {**said, **environ},
    # Hosts, or NAME:NUMBER:HOST.
    [part.rpartition(':')[2] for part in _split(endpoints or '')],
    integer({names[1]: worker or ''}, names[1]),
    tuple(f'the attribute {name} of the metadata server' for name in names),
  )


def _slice(
  launcher: str,
  environ: Environment,
  slices: Environment,
  hosts: list[str],
  worker: int | None,
  names: tuple[str, ...],
) -> Description:
  """Describes the hosts of one slice, or of several.

  Args:
    launcher: who names the hosts.
    environ: the environment variables.
    slices: where MEGASCALE_* are looked for.
    hosts: of this slice, in the order of their numbers.
    worker: number of this host within the slice.
    names: where hosts and worker come from, for the message.
  """
  # Ports are those of the TPU runtime.
  hosts = [re.sub(r':\d+$', '', host) for host in hosts]
  said = [name for name in _MEGASCALE if slices.get(name)]
  missing = [name for name in _MEGASCALE if not slices.get(name)]
  several = bool(said) and slices.get('MEGASCALE_NUM_SLICES') != '1'
  problem = ''
  if several and missing:
    problem = (
      f'{said[0]} is {slices[said[0]]}, but {" and ".join(missing)} not set: '
      'slices that train together need all three.'
    )
  elif not hosts:
    problem = f'This is one of several hosts, but {names[0]} is not set.'
  elif worker is None and (several or len(hosts) > 1):
    problem = (
      f'{names[0]} names {len(hosts)} host(s), but {names[1]}, which of them '
      'this is, is not set.'
    )
  elif worker is not None and worker >= len(hosts):
    problem = (
      f'{names[0]} names {len(hosts)} host(s), but {names[1]} is {worker}: '
      f'they are numbered from 0 to {len(hosts) - 1}.'
    )
  if problem:
    return Description(launcher=launcher, problem=problem)
  count, index, first = 1, 0, hosts[0]
  if several:
    count = integer(slices, 'MEGASCALE_NUM_SLICES') or 0
    index = integer(slices, 'MEGASCALE_SLICE_ID') or 0
    first = re.sub(r':\d+$', '', slices['MEGASCALE_COORDINATOR_ADDRESS'])
  return Description(
    launcher=launcher + (f', {count} slices' if several else ''),
    num_processes=len(hosts) * count,
    process_id=index * len(hosts) + (worker or 0),
    coordinator_address=address(environ, first, TPU_PORT),
  )


def _split(text: str) -> list[str]:
  return [part.strip() for part in text.split(',') if part.strip()]
