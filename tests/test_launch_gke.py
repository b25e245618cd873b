"""GKE: the manifest, and what kubectl is told."""

import math
import re

import pytest
import yaml
from jobset_schema import faults
from launching import COMMIT, LAUNCH, ROOT, Machine, printed

SETTINGS = {
  'RUN_NAME': 'llama',
  'ACCELERATOR': 'v6e',
  'TOPOLOGY': '4x4',
  'IMAGE': 'registry/meshwork:0123',
}
FLAGS = ['--config=configs/llama_1b.py', '--workdir=gs://bucket/run']

KUBECTL = """
case "$*" in *' -f -') cat >FOLDER/manifest.yaml ;; esac
"""


@pytest.fixture
def machine(tmp_path) -> Machine:
  machine = Machine(tmp_path)
  machine.fake('kubectl', KUBECTL)
  machine.fake(
    'docker', 'if [ "$1" = build ]; then cat >FOLDER/context.tar; fi'
  )
  return machine


def manifest(machine: Machine, *flags: str, **settings) -> dict:
  """The manifest that is printed."""
  done = machine.run(
    'gke.sh', 'create', '--', *(flags or FLAGS), **(SETTINGS | settings)
  )
  lines = done.stdout.splitlines()
  assert printed(lines[-1]) == [
    ['kubectl', '--namespace=default', 'create', '-f', '-']
  ]
  return yaml.safe_load('\n'.join(lines[:-1]))


def pod(jobset: dict) -> dict:
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  return job['template']['spec']


def test_the_manifest_has_the_fields_of_a_jobset_and_no_other(machine):
  assert faults(manifest(machine)) == []
  full = manifest(machine, SPOT='yes', SERVICE_ACCOUNT='trainer', SLICES=4)
  assert faults(full) == []
  assert pod(full)['serviceAccountName'] == 'trainer'
  assert pod(full)['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
  assert 'gke-spot' not in str(manifest(machine))


@pytest.mark.parametrize(
  ('wrong', 'right'),
  [
    ('completion:', 'completions:'),
    ('maxRestart:', 'maxRestarts:'),
    ('action: FailJobSets', 'action: FailJobSet'),
    ('restartPolicy: OnFailure', 'restartPolicy: Never'),
    ('nodeselector:', 'nodeSelector:'),
    ('containerPort: "8482"', 'containerPort: 8482'),
    ('gke-tpu-topology: 16', 'gke-tpu-topology: "4x4"'),
  ],
)
def test_a_slip_in_the_manifest_is_found(machine, wrong, right):
  machine.run('gke.sh', 'create', '--yes', '--', *FLAGS, **SETTINGS)
  text = (machine.folder / 'manifest.yaml').read_text()
  assert right in text
  assert faults(yaml.safe_load(text)) == []
  assert faults(yaml.safe_load(text.replace(right, wrong, 1))) != []


@pytest.mark.parametrize(
  ('accelerator', 'topology', 'label', 'chips', 'hosts'),
  [
    ('v4', '2x2x4', 'tpu-v4-podslice', 4, 4),
    ('v5e', '1x1', 'tpu-v5-lite-podslice', 1, 1),
    ('v5e', '2x2', 'tpu-v5-lite-podslice', 4, 1),
    ('v5e', '2x4', 'tpu-v5-lite-podslice', 8, 1),
    ('v5e', '16x16', 'tpu-v5-lite-podslice', 4, 64),
    ('v5p', '2x2x1', 'tpu-v5p-slice', 4, 1),
    ('v5p', '4x4x8', 'tpu-v5p-slice', 4, 32),
    ('v6e', '4x8', 'tpu-v6e-slice', 4, 8),
    ('tpu7x', '2x2x2', 'tpu7x', 4, 2),
  ],
)
@pytest.mark.parametrize('slices', [1, 3])
def test_a_pod_for_each_host_and_all_chips_taken(
  machine, accelerator, topology, label, chips, hosts, slices
):
  jobset = manifest(
    machine, ACCELERATOR=accelerator, TOPOLOGY=topology, SLICES=slices
  )
  (jobs,) = jobset['spec']['replicatedJobs']
  job = jobs['template']['spec']
  (container,) = pod(jobset)['containers']
  assert jobs['replicas'] == slices
  assert job['completions'] == job['parallelism'] == hosts
  resources = container['resources']
  assert resources['limits'] == resources['requests']
  assert resources['limits'] == {'google.com/tpu': chips}
  sizes = [int(n) for n in topology.split('x')]
  assert hosts * chips == math.prod(sizes)
  assert pod(jobset)['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': label,
    'cloud.google.com/gke-tpu-topology': topology,
  }
  assert ('--multihost' in container['args']) == (slices * hosts > 1)


def test_hosts_may_have_other_chips(machine):
  # Eight chips of v5e are one host of eight, or two of four.
  jobset = manifest(machine, TOPOLOGY='2x4', CHIPS=4)
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  assert job['completions'] == 2


def test_flags_arrive_as_they_were_given(machine):
  flags = [
    '--workdir=gs://bucket/it\'s "my" run',
    '--config.x=\\n: # [a, b] {c} & * % @FLAGS@ é',
    '--config.y=on',
    '8',
    '',
    '--nomultihost',
  ]
  (container,) = pod(manifest(machine, *flags))['containers']
  assert container['command'] == ['python', 'main.py']
  assert container['args'] == flags


def test_kubernetes_does_not_expand_flags(machine):
  flags = [*FLAGS, '--config.x=$(HOME) $HOME', '--nomultihost']
  (container,) = pod(manifest(machine, *flags))['containers']
  assert container['args'][2] == '--config.x=$$(HOME) $HOME'


def test_what_would_only_repeat_fails_the_jobset(machine):
  jobset = manifest(machine, MAX_RESTARTS=7)
  job = jobset['spec']['replicatedJobs'][0]['template']['spec']
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes']['values'] == [64, 65, 76]
  names = [container['name'] for container in pod(jobset)['containers']]
  assert rule['onExitCodes']['containerName'] in names
  # Any other failure ends the job at once, and the job's end restarts all.
  assert job['backoffLimit'] == 0
  assert jobset['spec']['failurePolicy']['maxRestarts'] == 7
  (rule,) = jobset['spec']['failurePolicy']['rules']
  assert rule['action'] == 'FailJobSet'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  assert re.fullmatch('[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?', rule['name'])


def test_only_yes_reaches_the_cluster(machine):
  commands = ['image', 'status', 'logs', 'delete']
  for command in commands:
    machine.run('gke.sh', command, **SETTINGS)
  printed_manifest = manifest(machine)
  assert machine.calls == []
  machine.run('gke.sh', 'create', '--yes', '--', *FLAGS, **SETTINGS)
  sent = yaml.safe_load((machine.folder / 'manifest.yaml').read_text())
  assert sent == printed_manifest
  machine.run('gke.sh', 'delete', '--yes', **SETTINGS)
  assert machine.calls == [
    ['kubectl', '--namespace=default', 'create', '-f', '-'],
    ['kubectl', '--namespace=default', 'delete', 'jobset', 'llama'],
  ]


def test_the_image_is_made_of_the_commit(machine):
  machine.run('gke.sh', 'image', '--yes', **SETTINGS)
  archive, build, push = machine.calls
  assert archive == ['git', '-C', str(ROOT), 'archive', COMMIT]
  assert build == [
    'docker', 'build', '--platform=linux/amd64', '-f', 'launch/Dockerfile',
    '--build-arg', f'COMMIT={COMMIT}', '-t', SETTINGS['IMAGE'], '-',
  ]  # fmt: skip
  assert push == ['docker', 'push', SETTINGS['IMAGE']]
  assert (machine.folder / 'context.tar').read_text() == 'archive\n'
  for line in (LAUNCH / 'Dockerfile').read_text().splitlines():
    if line.startswith('COPY'):
      assert (ROOT / line.split()[1]).exists()


@pytest.mark.parametrize('name', list(SETTINGS))
def test_a_missing_setting_is_named(machine, name):
  settings = {k: v for k, v in SETTINGS.items() if k != name}
  done = machine.run('gke.sh', 'create', '--', *FLAGS, code=64, **settings)
  assert f'{name} is not set' in done.stderr
  assert done.stdout == ''


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'ACCELERATOR': 'v9'}, "ACCELERATOR is 'v9'"),
    ({'TOPOLOGY': '2x2x2'}, 'v6e has 2 axes'),
    ({'TOPOLOGY': '4x'}, "TOPOLOGY is '4x'"),
    ({'TOPOLOGY': '3x3'}, '9 chips, which are no whole hosts of CHIPS = 4'),
    ({'CHIPS': 0}, 'no whole hosts of CHIPS = 0'),
    ({'SLICES': 'x'}, "SLICES is 'x'"),
    ({'RUN_NAME': 'My_run'}, "RUN_NAME is 'My_run'"),
  ],
)
def test_a_setting_that_does_not_fit_is_explained(machine, settings, message):
  done = machine.run(
    'gke.sh', 'create', '--', *FLAGS, code=64, **(SETTINGS | settings)
  )
  assert message in done.stderr
