"""Which cluster a process is to join: flags first, then its launcher.

What jax.distributed detects by itself (version 0.10) lacks Open MPI 5, and
takes half a description for none: then each host would train its own model, and
all of them write to one workdir.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

from train.cluster.description import Description, Environment, integer
from train.cluster.launchers import open_mpi, others, slurm
from train.cluster.tpu import TPU_PORT, Fetch, cloud_tpu, gke_tpu

_HINT = ' To run this process alone, add --nomultihost.'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
  """What is needed to join a cluster of at least two processes.

  Attributes:
    launcher: who described it.
    coordinator_address: HOST:PORT, where process 0 listens.
    num_processes: of the cluster.
    process_id: of this process.
    local_devices: GPUs that this process takes among those it sees; None: all.
  """

  launcher: str
  coordinator_address: str
  num_processes: int
  process_id: int
  local_devices: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
  """What flags say of the cluster; None: nothing."""

  coordinator_address: str | None = None
  num_processes: int | None = None
  process_id: int | None = None

  @property
  def anything(self) -> bool:
    """Whether any of them is given."""
    return any(value is not None for value in dataclasses.astuple(self))


def find_cluster(
  environ: Environment, fetch: Fetch, given: Given, *, expected: bool | None
) -> Cluster | None:
  """The cluster that this process is to join; None: it is alone.

  Args:
    environ: the environment variables.
    fetch: asks the metadata server of a Cloud TPU.
    given: what flags say; the JAX_* variable of the same name stands in for one
      that is not given, and what a launcher says for both.
    expected: --multihost. True: something must describe the processes, be it
      that there is one. False: alone, whatever is described. None: alone if
      nothing is described.

  Raises:
    ValueError: processes are described, but not how to join them; the message
      names the flag or variable, and what to do.
  """
  if expected is False:
    if given.anything:
      raise ValueError(
        '--nomultihost says that this process is alone, and '
        '--coordinator_address, --num_processes or --process_id that it is '
        'not: leave one of them out.'
      )
    return None
  given = _or_variables(given, environ)
  if given.num_processes == 1:
    return None
  found = Description(launcher='flags')
  if None in dataclasses.astuple(given):
    found = _describe(environ, fetch) or found
  if found.num_processes == 1 and given.num_processes is None:
    return None
  if found.launcher != 'flags' or given.anything:
    return _merged(given, found)
  if expected:
    raise ValueError(
      '--multihost expects a cluster, and nothing here describes one. Start '
      'every process by srun or mpirun or on the hosts of a TPU slice, or give '
      'each --coordinator_address=HOST:PORT (of process 0), --num_processes '
      'and --process_id.'
    )
  return None


def _or_variables(given: Given, environ: Environment) -> Given:
  """Adds the variables that jax has, or should have, for the flags."""
  found = Given(
    coordinator_address=environ.get('JAX_COORDINATOR_ADDRESS'),
    num_processes=integer(environ, 'JAX_NUM_PROCESSES'),
    process_id=integer(environ, 'JAX_PROCESS_ID'),
  )
  said = {k: v for k, v in vars(given).items() if v is not None}
  return dataclasses.replace(found, **said)


def _merged(given: Given, found: Description) -> Cluster:
  """What flags say, and a launcher for the rest; checked."""
  values = {
    name: getattr(found, name) if value is None else value
    for name, value in vars(given).items()
  }
  missing = [f'--{name}' for name, value in values.items() if value is None]
  if missing:
    raise ValueError(
      (found.problem or f'Give {" and ".join(missing)} as well.') + _HINT
    )
  address, count = values['coordinator_address'], values['num_processes']
  if not 0 <= values['process_id'] < count:
    raise ValueError(
      f'--process_id={values["process_id"]} with --num_processes={count} (by '
      f'{found.launcher}): processes are numbered from 0 to {count - 1}.'
    )
  if not re.fullmatch(r'.+:\d+', address):
    raise ValueError(
      f'--coordinator_address={address} has no port: write HOST:PORT, such as '
      f'{address}:{TPU_PORT}.'
    )
  return Cluster(
    launcher=found.launcher, local_devices=found.local_devices, **values
  )


def _describe(environ: Environment, fetch: Fetch) -> Description | None:
  """What the launcher of this process says; None: there is none.

  Of several the one counts that says all and is nearest to this process: what
  mpirun starts within an allocation of Slurm belongs to mpirun. Where none
  says all, the first that says something is returned.

  Args:
    environ: the environment variables.
    fetch: asks the metadata server; used only if no variable settles it.

  Raises:
    ValueError: a variable is not a number, or GPUs cannot be shared out.
  """
  if 'TORCHELASTIC_RUN_ID' in environ:
    # torchrun's agent may itself be a task of srun, whose variables then
    # describe the agents and not what they start.
    return others(environ)
  finders: list[Callable[[Environment], Description | None]] = [
    open_mpi,
    others,
    slurm,
    gke_tpu,
    functools.partial(cloud_tpu, fetch=fetch),
  ]
  partial = alone = None
  for finder in finders:
    found = finder(environ)
    if found is None:
      continue
    if found.num_processes == 1 and finder in (others, slurm):
      # An allocation with one task may hold a launcher with many.
      alone = found
    elif found.complete:
      return found
    else:
      partial = partial or found
  return partial or alone
