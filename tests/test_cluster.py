"""Who a process belongs to: whole descriptions are joined, halves refused."""

import http.server
import subprocess
import sys
import threading
from typing import ClassVar

import pytest
import runs

from train.cluster import tpu
from train.cluster.find import Cluster, Given, find_cluster

SLURM = {
  'SLURM_JOB_ID': '4711',
  'SLURM_JOB_NUM_NODES': '2',
  'SLURM_NTASKS': '4',
  'SLURM_PROCID': '3',
  'SLURM_LOCALID': '1',
  'SLURM_NODEID': '1',
  'SLURM_STEP_ID': '0',
  'SLURM_STEP_NUM_TASKS': '4',
  'SLURM_STEP_NODELIST': 'node[07-08]',
  'SLURM_STEP_TASKS_PER_NODE': '2(x2)',
}
OPEN_MPI = {
  'OMPI_COMM_WORLD_SIZE': '4',
  'OMPI_COMM_WORLD_RANK': '2',
  'OMPI_COMM_WORLD_LOCAL_SIZE': '1',
  'OMPI_COMM_WORLD_LOCAL_RANK': '0',
}
OPEN_MPI_4 = OPEN_MPI | {
  'OMPI_MCA_orte_hnp_uri': '153157632.0;tcp://10.96.0.1,10.148.0.1:34911'
}
OPEN_MPI_5 = OPEN_MPI | {
  'PMIX_NAMESPACE': 'prterun-login-3.site-812@1',
  'PMIX_SERVER_URI41': 'prterun-login-3.site-812@0.1;tcp4://127.0.0.1:4321',
}
HYDRA = {'PMI_SIZE': '4', 'PMI_RANK': '1'}
TORCHRUN = {
  'WORLD_SIZE': '4',
  'RANK': '1',
  'LOCAL_WORLD_SIZE': '2',
  'LOCAL_RANK': '1',
  'MASTER_ADDR': 'node1',
  'MASTER_PORT': '29500',
}
GKE = {'TPU_WORKER_ID': '1', 'TPU_WORKER_HOSTNAMES': 'job-0-0.svc,job-0-1.svc'}
SLICES = {
  'MEGASCALE_COORDINATOR_ADDRESS': 'job-slice-0-0.svc:8081',
  'MEGASCALE_NUM_SLICES': '3',
  'MEGASCALE_SLICE_ID': '2',
}
FLAGS = Given(coordinator_address='a:1', num_processes=2, process_id=1)
OLD_ENDPOINTS = 'w-0:0:10.0.0.5,w-1:1:10.0.0.6'
NEW_ENDPOINTS = '10.0.0.5,10.0.0.6'


def never(name):
  raise AssertionError(f'the metadata server was asked for {name}')


def find(environ, *, given=None, expected=None, metadata=None):
  """What is found on a machine; metadata None: it has no TPU."""
  if metadata is None:
    environ = environ | {'TPU_SKIP_MDS_QUERY': '1'}
  return find_cluster(
    environ,
    never if metadata is None else metadata.get,
    given or Given(),
    expected=expected,
  )


@pytest.mark.parametrize(
  ('environ', 'host', 'count', 'index'),
  [
    (SLURM, 'node07', 4, 3),
    (OPEN_MPI_4, '10.96.0.1', 4, 2),
    (OPEN_MPI_5, 'login-3.site', 4, 2),
    (GKE, 'job-0-0.svc:8482', 2, 1),
    (GKE | SLICES, 'job-slice-0-0.svc:8482', 6, 5),
    (
      {'TPU_WORKER_ID': '1', 'TPU_PROCESS_ADDRESSES': 'a:8476, b:8476,c:8476'},
      'a:8482',
      3,
      1,
    ),
    (GKE | {'JAX_COORDINATOR_PORT': '77'}, 'job-0-0.svc:77', 2, 1),
    # The nearest launcher counts: mpirun within an allocation, in the batch
    # script or in a step.
    (SLURM | OPEN_MPI_5, 'login-3.site', 4, 2),
    ({'SLURM_NTASKS': '4'} | OPEN_MPI_4, '10.96.0.1', 4, 2),
    # srun --mpi=pmi2 sets these too, and scripts for srun those.
    (SLURM | HYDRA, 'node07', 4, 3),
    (SLURM | {'WORLD_SIZE': '4', 'MASTER_ADDR': 'n'}, 'node07', 4, 3),
    ({'WORLD_SIZE': '1'} | GKE, 'job-0-0.svc:8482', 2, 1),
  ],
)
@pytest.mark.parametrize('expected', [None, True])
def test_a_whole_description_is_joined(environ, host, count, index, expected):
  cluster = find(environ, expected=expected)
  name, _, port = cluster.coordinator_address.rpartition(':')
  assert host in (name, cluster.coordinator_address)
  assert (cluster.num_processes, cluster.process_id) == (count, index)
  if host == name:
    assert 61_440 <= int(port) <= 65_535


@pytest.mark.parametrize(
  ('environ', 'changes', 'wanted'),
  [
    (SLURM, {}, ['SLURM_NTASKS is 4', 'srun']),
    (SLURM, {'SLURM_PROCID': None}, ['SLURM_NTASKS is 4', 'SLURM_PROCID']),
    (SLURM, {'SLURM_STEP_NODELIST': None}, ['SLURM_STEP_NODELIST', 'srun']),
    # The shell of an allocation, and a batch script that names only nodes.
    (SLURM, {'SLURM_STEP_NUM_TASKS': '1'}, ['SLURM_STEP_NUM_TASKS is 1']),
    (SLURM, {'SLURM_NTASKS': None}, ['SLURM_JOB_NUM_NODES is 2', 'srun']),
    (SLURM, {'SLURM_NTASKS': 'four'}, ["SLURM_NTASKS is 'four'"]),
    (
      OPEN_MPI,
      {},
      ['OMPI_COMM_WORLD_SIZE is 4', 'PMIX_NAMESPACE', '--coordinator_address'],
    ),
    (OPEN_MPI_5, {'OMPI_COMM_WORLD_RANK': None}, ['OMPI_COMM_WORLD_RANK']),
    (HYDRA, {}, ['PMI_SIZE is 4', '--coordinator_address']),
    # mpiexec within an allocation of one task.
    (HYDRA | {'SLURM_NTASKS': '1'}, {}, ['PMI_SIZE is 4']),
    (TORCHRUN, {}, ['WORLD_SIZE is 4', '--coordinator_address']),
    (TORCHRUN, {'RANK': None}, ['WORLD_SIZE is 4', 'RANK', '--process_id']),
    (TORCHRUN | {'SLURM_NTASKS': '1'}, {}, ['WORLD_SIZE is 4']),
    # Agents of torchrun that srun started, one a node.
    (SLURM | TORCHRUN | {'TORCHELASTIC_RUN_ID': 'x'}, {}, ['WORLD_SIZE is 4']),
    (GKE, {'TPU_WORKER_ID': None}, ['TPU_WORKER_HOSTNAMES', 'TPU_WORKER_ID']),
    (GKE, {'TPU_WORKER_ID': '2'}, ['2 host(s)', 'TPU_WORKER_ID is 2']),
    (GKE, {'TPU_WORKER_HOSTNAMES': None}, ['TPU_WORKER_HOSTNAMES']),
    (
      GKE | SLICES,
      {'MEGASCALE_SLICE_ID': None},
      ['MEGASCALE_COORDINATOR_ADDRESS', 'MEGASCALE_SLICE_ID not set'],
    ),
    (
      GKE | SLICES,
      {'MEGASCALE_NUM_SLICES': None, 'MEGASCALE_SLICE_ID': None},
      ['MEGASCALE_COORDINATOR_ADDRESS', 'MEGASCALE_NUM_SLICES'],
    ),
    (SLICES, {}, ['TPU_WORKER_HOSTNAMES is not set']),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1'}, {}, ['--num_processes']),
  ],
)
def test_half_a_description_is_refused(environ, changes, wanted):
  if environ is SLURM and not changes:
    # What sbatch leaves in the environment of its script.
    changes = dict.fromkeys(
      ('SLURM_STEP_NODELIST', 'SLURM_STEP_NUM_TASKS', 'SLURM_STEP_ID')
    )
  environ = {
    name: value
    for name, value in (environ | changes).items()
    if value is not None
  }
  with pytest.raises(ValueError, match=r'\.$') as raised:
    find(environ)
  for words in wanted:
    assert words in str(raised.value)
  assert find(environ, expected=False) is None


@pytest.mark.parametrize(
  'environ',
  [
    {},
    # An allocation of one task, in the batch script and under srun.
    {'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'},
    {'SLURM_JOB_ID': '1', 'SLURM_JOB_NUM_NODES': '1'},
    {'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_COMM_WORLD_RANK': '0'},
    {'WORLD_SIZE': '1'},
    # One host, as GKE, Colab and Kaggle say it.
    {'TPU_WORKER_ID': '0', 'TPU_WORKER_HOSTNAMES': 'localhost'},
    {'TPU_WORKER_HOSTNAMES': 'localhost'},
    {'TPU_WORKER_ID': '0', 'TPU_WORKER_HOSTNAMES': ''},
    {'TPU_WORKER_HOSTNAMES': 'a', 'MEGASCALE_NUM_SLICES': '1'},
    # Every pod of Kubernetes has it.
    {'KUBERNETES_SERVICE_HOST': '10.0.0.1'},
  ],
)
def test_a_process_that_is_alone_stays_alone(environ):
  assert find(environ) is None


def test_multihost_wants_a_description_be_it_of_one_process():
  with pytest.raises(ValueError, match=r'describes one\. Start.*srun'):
    find({}, expected=True)
  assert find({'SLURM_NTASKS': '1'}, expected=True) is None


def test_flags_are_enough_and_win():
  whole = Cluster(
    launcher='flags', coordinator_address='a:1', num_processes=2, process_id=1
  )
  assert find({}, given=FLAGS) == whole
  assert find(SLURM | GKE, given=FLAGS, expected=True) == whole
  variables = {
    'JAX_COORDINATOR_ADDRESS': 'a:1',
    'JAX_NUM_PROCESSES': '2',
    'JAX_PROCESS_ID': '1',
  }
  assert find(variables) == whole
  other = find(variables, given=Given(process_id=0))
  assert (other.process_id, other.coordinator_address) == (0, 'a:1')
  # The launcher says the rest.
  some = find(HYDRA, given=Given(coordinator_address='b:2'))
  assert (some.coordinator_address, some.process_id) == ('b:2', 1)
  some = find(TORCHRUN, given=Given(coordinator_address='b:2'))
  assert (some.num_processes, some.local_devices) == (4, (1,))
  assert find({}, given=Given(num_processes=1)) is None


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'coordinator_address': 'a:1'}, '--num_processes and --process_id'),
    ({'process_id': 1, 'num_processes': 2}, 'Give --coordinator_address'),
    (
      {'coordinator_address': 'a:1', 'process_id': 2, 'num_processes': 2},
      '--process_id=2 with --num_processes=2.*from 0 to 1',
    ),
    (
      {'coordinator_address': 'a', 'process_id': 0, 'num_processes': 2},
      'HOST:PORT, such as a:8482',
    ),
  ],
)
def test_flags_that_do_not_fit_are_named(given, message):
  with pytest.raises(ValueError, match=message):
    find({}, given=Given(**given))


def test_flags_of_a_cluster_contradict_nomultihost():
  with pytest.raises(ValueError, match='leave one of them out'):
    find({}, given=FLAGS, expected=False)


@pytest.mark.parametrize(
  ('nodes', 'first'),
  [
    ('node001', 'node001'),
    ('node001,host2', 'node001'),
    ('node[001-015],host2', 'node001'),
    ('node[001,007-015],host2', 'node001'),
    ('rack[2-3]-n[04,06]', 'rack2-n04'),
    ('gpu-a-1,gpu-a-2', 'gpu-a-1'),
  ],
)
def test_first_node_of_a_slurm_list(nodes, first):
  cluster = find(SLURM | {'SLURM_STEP_NODELIST': nodes})
  assert cluster.coordinator_address.startswith(f'{first}:')


def test_an_ipv6_launcher_and_ports_of_jobs():
  uri = '1314521088.0;tcp6://[fe80::b9b:1,2620:10d::2]:43370'
  cluster = find(OPEN_MPI | {'OMPI_MCA_orte_hnp_uri': uri})
  assert cluster.coordinator_address.startswith('[fe80::b9b:1]:')
  ports = {
    find(SLURM | {'SLURM_STEP_ID': str(step)}).coordinator_address
    for step in range(8)
  }
  assert len(ports) > 1


@pytest.mark.parametrize(
  ('changes', 'devices'),
  [
    # As jax does: one process a GPU.
    ({}, (1,)),
    ({'CUDA_VISIBLE_DEVICES': '4,5,6,7'}, (2, 3)),
    ({'CUDA_VISIBLE_DEVICES': '5'}, None),
    ({'SLURM_GPUS_PER_TASK': '1'}, None),
    ({'JAX_LOCAL_DEVICE_IDS': '0'}, None),
    # One process on each machine takes all.
    ({'SLURM_STEP_TASKS_PER_NODE': '3,1'}, None),
    ({'SLURM_STEP_TASKS_PER_NODE': '1,3'}, (1,)),
  ],
)
def test_gpus_of_a_process(changes, devices):
  assert find(SLURM | changes).local_devices == devices


def test_gpus_that_cannot_be_shared_are_an_error():
  with pytest.raises(ValueError, match=r'3 GPUs.*2 processes.*3 = 2 x 1 \+ 1'):
    find(SLURM | {'CUDA_VISIBLE_DEVICES': '0,1,2'})


@pytest.mark.parametrize('endpoints', [OLD_ENDPOINTS, NEW_ENDPOINTS])
def test_the_hosts_of_a_cloud_tpu(endpoints):
  metadata = {
    'worker-network-endpoints': endpoints,
    'agent-worker-number': '1',
    'tpu-env': "ACCELERATOR_TYPE: 'v5p-16'\nZONE: 'z'\n",
  }
  cluster = find({}, metadata=metadata)
  assert cluster == Cluster(
    launcher='Cloud TPU',
    coordinator_address='10.0.0.5:8482',
    num_processes=2,
    process_id=1,
  )
  slices = ''.join(f"{name}: '{value}'\n" for name, value in SLICES.items())
  cluster = find({}, metadata=metadata | {'tpu-env': slices})
  assert cluster.coordinator_address == 'job-slice-0-0.svc:8482'
  assert (cluster.num_processes, cluster.process_id) == (6, 5)
  # On purpose not the TPU; and the flag.
  assert find({'JAX_PLATFORMS': 'cpu'}, metadata=metadata) is None
  assert find({}, metadata=metadata, expected=False) is None


def test_a_cloud_tpu_of_one_host_and_machines_that_are_none():
  one = {'worker-network-endpoints': '10.0.0.5', 'agent-worker-number': '0'}
  assert find({}, metadata=one) is None
  assert find({}, metadata=one, expected=True) is None
  assert find({}, metadata={}) is None


def test_half_of_a_cloud_tpu_is_refused():
  with pytest.raises(ValueError, match=r'agent-worker-number .*not set'):
    find({}, metadata={'worker-network-endpoints': NEW_ENDPOINTS})
  with pytest.raises(ValueError, match=r'worker-network-endpoints .*not set'):
    find({}, metadata={'agent-worker-number': '1'})
  with pytest.raises(ValueError, match='MEGASCALE_SLICE_ID not set'):
    find(
      {},
      metadata={
        'worker-network-endpoints': NEW_ENDPOINTS,
        'agent-worker-number': '1',
        'tpu-env': "MEGASCALE_NUM_SLICES: '2'",
      },
    )


def test_a_silent_metadata_server_is_no_reason_to_train_alone():
  def silent(name):
    raise TimeoutError('timed out')

  with pytest.raises(ValueError, match=r'does not answer \(timed out\)'):
    find_cluster({}, silent, Given(), expected=None)


class Metadata(http.server.BaseHTTPRequestHandler):
  """A metadata server; it fails once before it answers."""

  attributes: ClassVar = {'agent-worker-number': '3'}
  failures = 1
  asked = 0

  def do_GET(self):
    Metadata.asked += 1
    name = self.path.removeprefix('/computeMetadata/v1/instance/attributes/')
    found = self.attributes.get(name)
    if self.headers['Metadata-Flavor'] != 'Google':
      self.send_error(403)
    elif Metadata.asked <= Metadata.failures:
      self.send_error(503)
    elif found is None:
      self.send_error(404)
    else:
      self.send_response(200)
      self.end_headers()
      self.wfile.write(found.encode())

  def log_message(self, *arguments):
    pass


def test_asks_the_metadata_server(monkeypatch):
  # No proxy may come between a machine and its metadata server.
  monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')
  monkeypatch.setattr(tpu.time, 'sleep', lambda seconds: None)
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Metadata)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  host = f'127.0.0.1:{server.server_address[1]}'
  try:
    assert tpu.metadata_attribute('agent-worker-number', host=host) == '3'
    assert tpu.metadata_attribute('tpu-env', host=host) is None
    monkeypatch.setattr(Metadata, 'failures', 99)
    with pytest.raises(OSError, match='503'):
      tpu.metadata_attribute('agent-worker-number', host=host)
  finally:
    server.shutdown()
    server.server_close()
  with pytest.raises(OSError, match='refused'):
    tpu.metadata_attribute('agent-worker-number', host=host)


def test_a_user_sees_one_line(tmp_path):
  """main.py in an allocation of four tasks that srun did not start."""
  done = subprocess.run(
    [
      sys.executable,
      str(runs.ROOT / 'main.py'),
      f'--config={runs.ROOT / "configs/tiny.py"}',
      f'--workdir={tmp_path / "run"}',
    ],
    env=runs.environment() | {'SLURM_NTASKS': '4', 'SLURM_JOB_ID': '1'},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 64, done.stdout + done.stderr
  (line,) = done.stderr.splitlines()
  assert 'SLURM_NTASKS is 4' in line
  assert '--nomultihost' in line
  assert not (tmp_path / 'run').exists()
