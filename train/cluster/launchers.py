"""What launchers say of the processes they start, each in its own variables.

Open MPI   OMPI_COMM_WORLD_*; the first host from OMPI_MCA_orte_hnp_uri
           (version 4) or PMIX_NAMESPACE (version 5)
Slurm      SLURM_*, complete in what srun starts and nowhere else
others     numbers of processes, and no address that JAX may use
"""

import re
import zlib

from train.cluster.description import (
  Description,
  Environment,
  address,
  integer,
)

# Launchers that name no port get one of the highest 4,096, which Linux does
# not hand out to outgoing connections. Two jobs on a machine seldom share one.
_FIRST_PORT, _PORTS = 61_440, 4_096

# Processes, number of this one, and both within its machine.
_OTHERS = (
  # MPICH and Intel MPI.
  ('PMI_SIZE', 'PMI_RANK', 'MPI_LOCALRANKID', 'MPI_LOCALNRANKS'),
  # torchrun; at its MASTER_ADDR:MASTER_PORT it may listen itself.
  ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'),
)


def open_mpi(environ: Environment) -> Description | None:
  """What mpirun of Open MPI 4 or 5 says."""
  size = integer(environ, 'OMPI_COMM_WORLD_SIZE')
  if size is None:
    return None
  rank = integer(environ, 'OMPI_COMM_WORLD_RANK')
  host, job = None, environ.get('OMPI_MCA_orte_hnp_uri', '')
  if job:
    # '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911', or tcp6://[A,B]:PORT
    job, _, addresses = job.partition(';')
    if match := re.search(r'tcp6?://(?:\[([^\],]+)|([^\[,:]+))', addresses):
      host = f'[{match[1]}]' if match[1] else match[2]
  else:
    # 'prterun-HOST-PID@1'. PMIX_SERVER_URI* are no help: on all hosts but the
    # first they hold the loopback's address.
    job = environ.get('PMIX_NAMESPACE', '')
    if match := re.fullmatch(r'prte(?:run)?-(.+)-\d+@\d+', job):
      host = match[1]
  problem = (
    'neither OMPI_MCA_orte_hnp_uri (Open MPI 4) nor PMIX_NAMESPACE (Open MPI '
    '5) names the host of process 0: give --coordinator_address=HOST:PORT.'
  )
  if rank is None:
    problem = 'OMPI_COMM_WORLD_RANK is not set: start this process by mpirun.'
  return Description(
    launcher='Open MPI',
    num_processes=size,
    process_id=rank,
    coordinator_address=address(environ, host, _port(job)),
    local_devices=_gpus(
      environ,
      integer(environ, 'OMPI_COMM_WORLD_LOCAL_RANK'),
      integer(environ, 'OMPI_COMM_WORLD_LOCAL_SIZE'),
    ),
    problem=f'OMPI_COMM_WORLD_SIZE is {size}, but {problem}',
  )


def others(environ: Environment) -> Description | None:
  """What launchers say that need --coordinator_address beside them."""
  for size_name, *names in _OTHERS:
    size = integer(environ, size_name)
    if size is None:
      continue
    rank, local_rank, local_size = (integer(environ, name) for name in names)
    missing = '' if rank is not None else f' and {names[0]} is not set'
    return Description(
      launcher=size_name,
      num_processes=size,
      process_id=rank,
      local_devices=_gpus(environ, local_rank, local_size),
      problem=f'{size_name} is {size}{missing}, and no variable says where JAX '
      'may listen: give --coordinator_address=HOST:PORT of process 0'
      + (', --num_processes and --process_id.' if missing else '.'),
    )
  return None


def slurm(environ: Environment) -> Description | None:
  """What srun, or else the allocation, says."""
  name = 'SLURM_NTASKS'
  if not environ.get(name):
    name = 'SLURM_JOB_NUM_NODES'
  tasks = integer(environ, name)
  if tasks is None:
    return None
  if tasks == 1:
    return Description(launcher='Slurm', num_processes=1)
  wrong = [
    f'{needed} is not set'
    for needed in (
      'SLURM_JOB_ID', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_STEP_NODELIST',
    )
    if not environ.get(needed)
  ]  # fmt: skip
  in_step = integer(environ, 'SLURM_STEP_NUM_TASKS')
  if in_step not in (None, tasks):
    # The shell of an allocation: a step of one task among variables of many.
    wrong.append(f'SLURM_STEP_NUM_TASKS is {in_step}')
  if wrong:
    return Description(
      launcher='Slurm',
      problem=f'{name} is {tasks}, but srun did not start this process as one '
      f'of several ({", ".join(wrong)}): start it by srun.',
    )
  job = f'{environ["SLURM_JOB_ID"]}.{environ.get("SLURM_STEP_ID", "")}'
  node = _first_node(environ['SLURM_STEP_NODELIST'])
  return Description(
    launcher='Slurm',
    num_processes=tasks,
    process_id=integer(environ, 'SLURM_PROCID'),
    coordinator_address=address(environ, node, _port(job)),
    local_devices=_gpus(
      environ, integer(environ, 'SLURM_LOCALID'), _tasks_on_node(environ)
    ),
  )


def _first_node(nodes: str) -> str:
  """'node[007-009,12],other' -> 'node007'."""
  first = re.match(r'(?:\[[^\]]*\]|[^,\[])+', nodes)
  assert first is not None, nodes
  return re.sub(r'\[([^,\-\]]*)[^\]]*\]', r'\1', first[0])


def _tasks_on_node(environ: Environment) -> int | None:
  """Tasks of this step on this node, from '4(x2),3'; None: not known."""
  counts: list[int] = []
  for part in environ.get('SLURM_STEP_TASKS_PER_NODE', '').split(','):
    if match := re.fullmatch(r'(\d+)(?:\(x(\d+)\))?', part):
      counts += [int(match[1])] * int(match[2] or 1)
  node = integer(environ, 'SLURM_NODEID')
  return None if node is None or node >= len(counts) else counts[node]


def _port(job: str) -> int:
  """A port that all processes of a job agree on."""
  return _FIRST_PORT + zlib.crc32(job.encode()) % _PORTS


def _gpus(
  environ: Environment, rank: int | None, size: int | None
) -> tuple[int, ...] | None:
  """Share of the visible GPUs of one of several processes on a machine.

  Args:
    environ: the environment variables.
    rank: of the process on its machine.
    size: processes on its machine.

  Raises:
    ValueError: they cannot be shared out evenly.
  """
  own = {'JAX_LOCAL_DEVICE_IDS', 'SLURM_GPUS_PER_TASK'} & set(environ)
  if rank is None or size is None or size == 1 or own:
    return None
  visible = environ.get('CUDA_VISIBLE_DEVICES')
  if not visible:
    # As jax does: one process a GPU.
    return (rank,)
  count = len(visible.split(','))
  if count < size:
    # The launcher gave each process its own.
    return None
  if count % size:
    raise ValueError(
      f'CUDA_VISIBLE_DEVICES names {count} GPUs, which {size} processes on '
      f'this machine cannot share evenly ({count} = {size} x {count // size} + '
      f'{count % size}). Change one of the two, or say which GPUs each takes '
      'in JAX_LOCAL_DEVICE_IDS.'
    )
  share = count // size
  return tuple(range(rank * share, (rank + 1) * share))
