"""Several processes that train one model: how they join, agree and leave.

`train/cluster/` finds out who they are; here jax.distributed is told.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.cluster.bind import bind_address
from train.cluster.find import Cluster, Given, find_cluster
from train.cluster.tpu import metadata_attribute
from train.peers import Watch, tell_cause

# Hosts start at different times.
_JOIN_SECONDS = 300
# A person who waits wants to know for what.
_PATIENCE_SECONDS = 15
# What only process 0 does, such as preparing data, may take days.
_WAIT_SECONDS = 14 * 24 * 3600
# Processes that fail for the same reason do so at about the same time.
_LEAVE_SECONDS = 5

_BIND_ADDRESS = 'JAX_COORDINATOR_BIND_ADDRESS'
_FAILED = 'failed'
# What collectives and the coordinator say of a process that is gone.
_GONE = re.compile(
  'gloo|nccl|connection|unavailable|cancelled|deadline_exceeded|aborted|'
  'barrier|heartbeat|socket',
  re.IGNORECASE,
)

# Looks after the other processes, once this one has joined them.
_watch: Watch | None = None

# Processes that wait for each other name what they wait for; all count alike.
_names = (f'meshwork/{number}' for number in itertools.count())


def join_cluster(given: Given, *, expected: bool | None) -> Cluster | None:
  """Joins the other processes, if there are any; before JAX sees a device.

  Args:
    given: what flags say of the cluster.
    expected: whether there must be a cluster; None: look for one.

  Returns:
    The cluster; None: this process is alone.

  Raises:
    ValueError: see `find_cluster`.
  """

  def fetch(name: str) -> str | None:
    host = os.environ.get('GCE_METADATA_IP')
    return metadata_attribute(name, **({'host': host} if host else {}))

  cluster = find_cluster(os.environ, fetch, given, expected=expected)
  if cluster is None:
    return None
  # Its handler of SIGTERM would keep the signal from ending a process that
  # does not poll it, such as one that prepares data; the loop has its own.
  jax.config.update('jax_enable_preemption_service', False)
  address = cluster.coordinator_address
  with _said_if_slow(cluster):
    host = _host(address)
    _wait_for_name(host)
    bound = os.environ.get(_BIND_ADDRESS) or bind_address(address)
    jax.distributed.initialize(
      coordinator_address=address,
      num_processes=cluster.num_processes,
      process_id=cluster.process_id,
      local_device_ids=cluster.local_devices,
      cluster_detection_method='deactivate',
      initialization_timeout=_JOIN_SECONDS,
      coordinator_bind_address=bound or None,
    )
  global _watch
  _watch = Watch(coordinator(), cluster.process_id)
  _watch.connect(cluster.num_processes, host=host, bound=_host(bound or ''))
  sys.excepthook = _leave_after(sys.excepthook)
  if is_first():
    print(
      f'Joined {cluster.num_processes} processes (by {cluster.launcher}); '
      f'process 0 listens on {bound or f"{address} and all other networks"}.',
      file=sys.stderr,
      flush=True,
    )
  return cluster


def first_process_does(work: Callable[[], Any], what: str) -> None:
  """Runs something on process 0 while the others wait, however long.

  Args:
    work: what is done.
    what: the same in words, for the message.

  Raises:
    ValueError: on the other processes, where the work failed on process 0.
    jax.errors.JaxRuntimeError: process 0 did not end it within two weeks.
  """

  def silently() -> None:
    work()

  first_process_tells(silently, what)


def first_process_tells(work: Callable[[], Any], what: str) -> Any:
  """Like `first_process_does`; returns on all processes what comes of it.

  Args:
    work: returns what JSON holds; the others get its lists for tuples.
    what: is done, in words.
  """
  client, key = coordinator(), next(_names)
  if client is None:
    return work()
  if is_first():
    outcome = _FAILED
    try:
      found = work()
      outcome = json.dumps(found)
    finally:
      client.key_value_set(key, outcome)
    return found
  outcome = client.blocking_key_value_get(key, 1000 * _WAIT_SECONDS)
  if outcome == _FAILED:
    raise ValueError(f'Process 0 could not {what}; it says why.')
  return json.loads(outcome)


def wait_for_all() -> None:
  """Waits until all processes are here, however long.

  They wait by the coordinator. A collective of devices is no means to wait: on
  CPUs it fails after half a minute, and compiling may take longer on some
  hosts than on others.
  """
  client = coordinator()
  if client is not None:
    client.wait_at_barrier(next(_names), 1000 * _WAIT_SECONDS)


def peers_give_signs() -> None:
  """Steps begin: a process that is silent now is soon taken to be lost."""
  if _watch is not None:
    _watch.steps_begin()


def check_same(facts: Mapping[str, Any]) -> None:
  """Raises unless all processes hold the same facts.

  Hosts with different programs or data do not fail by themselves: they go on
  with wrong numbers.

  Args:
    facts: names, which all processes have in common, and values.

  Raises:
    ValueError: they differ; the message names the facts and the processes.
  """
  wait_for_all()
  if jax.process_count() == 1:
    return
  hashes = [
    hashlib.sha256(repr(value).encode()).digest()[:8]
    for value in (sorted(facts), *(facts[name] for name in sorted(facts)))
  ]
  mine_F2 = np.frombuffer(b''.join(hashes), np.uint32).reshape(-1, 2)
  names_P2 = multihost_utils.process_allgather(mine_F2[0])
  _name_strangers(names_P2, 'run different code or configurations')
  all_PF2 = multihost_utils.process_allgather(mine_F2[1:])
  for index, name in enumerate(sorted(facts)):
    _name_strangers(
      all_PF2[:, index],
      f'differ from process 0 in {name}: here, on process '
      f'{jax.process_index()}, it is {facts[name]!r}',
    )


def check_same_program(lowered: Any) -> None:
  """Raises unless all processes are about to compile the same program.

  Hosts that run different programs do not fail: they go on with wrong numbers.

  Raises:
    ValueError: they are not.
  """
  if jax.process_count() > 1:
    text = lowered.as_text().encode()
    check_same({'the program of a step': hashlib.sha256(text).hexdigest()})


def agreed(fact: bool) -> bool:
  """Whether a fact holds on any process; the same answer on all of them."""
  if jax.process_count() == 1:
    return fact
  return bool(multihost_utils.process_allgather(np.int32(fact)).any())


def _name_strangers(values_P2: np.ndarray, what: str) -> None:
  others = np.flatnonzero((values_P2 != values_P2[0]).any(axis=1)).tolist()
  if others:
    raise ValueError(
      f'Processes {", ".join(map(str, others))} {what}. All must be started '
      'with the same code and command, and see the same data and workdir.'
    )


def is_lost_peer(error: BaseException) -> bool:
  """Whether an error says that another process is gone."""
  return (
    coordinator() is not None
    and isinstance(error, jax.errors.JaxRuntimeError)
    and _GONE.search(str(error)) is not None
  )


def leave_alone(lost: str) -> None:
  """Ends this process, whose peers are lost, if it has joined any.

  Args:
    lost: who is, in words.
  """
  if _watch is not None:
    _watch.leave_alone(lost)


def leave(status: int, cause: str) -> None:
  """Ends this process at once, unless all the others end as well.

  A process that ends in the usual way waits for the others, who may be waiting
  for its part of a computation.

  Args:
    status: of the process.
    cause: why it ends, which the others say as well.
  """
  client = coordinator()
  if client is None:
    return
  tell_cause(client, f'process {jax.process_index()}: {cause}')
  try:
    client.wait_at_barrier('meshwork/leave', 1000 * _LEAVE_SECONDS)
  except jax.errors.JaxRuntimeError:
    if _watch is not None:
      _watch.say(f'Process 0 has ended: {cause}')
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


Hook = Callable[[type[BaseException], BaseException, TracebackType | None], Any]


def _leave_after(hook: Hook) -> Hook:
  """What is done about an exception that nobody caught."""

  def leave_after(kind, error, traceback):
    hook(kind, error, traceback)
    leave(1, f'{kind.__name__}: {error}')

  return leave_after


def is_first() -> bool:
  """Whether this is process 0; unlike jax.process_index it uses no device."""
  from jax._src.distributed import global_state

  return global_state.process_id == 0


def coordinator() -> Any:
  """The connection to the coordinator, for which jax has no public name.

  None where this process is alone.
  """
  from jax._src.distributed import global_state

  return global_state.client


@contextlib.contextmanager
def _said_if_slow(cluster: Cluster):
  """Says what is being waited for, after a while."""
  message = (
    f'Process {cluster.process_id} of {cluster.num_processes} (by '
    f'{cluster.launcher}) waits for the others; process 0 is to listen on '
    f'{cluster.coordinator_address}. After {_JOIN_SECONDS} s it gives up. If '
    'it is to run alone, start it with --nomultihost.'
  )
  timer = threading.Timer(
    _PATIENCE_SECONDS,
    lambda: print(message, file=sys.stderr, flush=True),
  )
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _host(address: str) -> str:
  return address.rpartition(':')[0].strip('[]')


def _wait_for_name(host: str) -> None:
  """Waits until a host has an address: pods get theirs as they start.

  Raises:
    ValueError: it got none.
  """
  end = time.monotonic() + _JOIN_SECONDS
  while True:
    try:
      socket.getaddrinfo(host, None)
      return
    except socket.gaierror as error:
      if time.monotonic() > end:
        raise ValueError(
          f'The host of process 0, {host}, has no address: {error}. Check '
          '--coordinator_address.'
        ) from error
    time.sleep(1)
