"""Cloud TPU VMs: the commands of gcloud, and the loop that resumes."""

import shlex

import pytest
from launching import COMMIT, ROOT, Machine, printed

SETTINGS = {
  'TPU_NAME': 'llama',
  'PROJECT': 'mine',
  'ZONE': 'us-east5-b',
  'ACCELERATOR': 'v6e-16',
  'POLL_SECONDS': 0,
}
FLAGS = ['--config=configs/llama_1b.py', '--workdir=gs://bucket/run']
AT = ['--project=mine', '--zone=us-east5-b']
RESOURCES = ['gcloud', 'compute', 'tpus', 'queued-resources']

# Says what the files of answers say: the state of the queued resource, statuses
# of the workers, where 'dead' is a connection that fails, and exit statuses.
GCLOUD = """
case "$*" in
  *'value(state.state)'*)
    state=$(answer FOLDER/machines)
    if [ "$state" = GONE ]; then echo 'ERROR: NOT_FOUND: x' >&2; exit 1; fi
    if [ "$state" = MUTE ]; then echo 'ERROR: no network' >&2; exit 1; fi
    echo "$state"
    ;;
  *'tpu_worker.sh state'*)
    number=0
    for word in $(answer FOLDER/workers); do
      if [ "$word" = dead ]; then exit 255; fi
      echo "meshwork-worker host-$number ${word/-/ }"
      number=$((number + 1))
    done
    ;;
  *' create '*) exit "$(answer FOLDER/creations)" ;;
  *' scp '*) exit "$(answer FOLDER/copies)" ;;
esac
"""
ABSENT = 'absent absent absent absent'
RUNNING = 'running running running running'
DONE = 'exit-0 exit-0 exit-0 exit-0'


@pytest.fixture
def machine(tmp_path) -> Machine:
  machine = Machine(tmp_path)
  machine.fake('gcloud', GCLOUD)
  machine.answers('creations', '0')
  machine.answers('copies', '0')
  return machine


def watch(machine: Machine, command: str = 'watch', code: int = 0, **settings):
  """Runs a command that follows the run."""
  return machine.run(
    'tpu_vm.sh', command, '--yes', '--', *FLAGS, code=code,
    **(SETTINGS | settings),
  )  # fmt: skip


def steps(machine: Machine) -> list[str]:
  """What gcloud was told to do, without the looks at how things stand."""
  found = []
  for _, _, _, _, verb, *rest in (c for c in machine.calls if c[0] != 'git'):
    remote = [w for w in rest if w.startswith('--command=')]
    word = remote[0].rpartition('tpu_worker.sh ')[2] if remote else verb
    word = word.split()[0]
    if word not in ('describe', 'state'):
      found.append(word)
  return found


RUN = ['scp', 'setup', 'start']
UP = ['create', *RUN]


def test_all_prints_every_command_and_runs_none(machine):
  done = machine.run(
    'tpu_vm.sh', 'all', '--', *FLAGS, '--config.steps=9', **SETTINGS
  )
  assert machine.calls == []
  code = f'meshwork-{COMMIT}'
  archive = f'{machine.folder}/{code}.tar.gz'
  worker = 'bash meshwork/launch/tpu_worker.sh'
  ssh = [
    *RESOURCES, 'ssh', 'llama', '--node=all', '--worker=all', '--quiet',
    '--ssh-flag=-oServerAliveInterval=30',
  ]  # fmt: skip
  create = [
    *RESOURCES, 'create', 'llama', '--accelerator-type=v6e-16',
    '--runtime-version=v2-alpha-tpuv6e', '--node-id=llama', '--spot', *AT,
  ]  # fmt: skip
  delete = [*RESOURCES, 'delete', 'llama', '--force', '--quiet', *AT]
  assert printed(done.stdout) == [
    create,
    [*RESOURCES, 'describe', 'llama', '--format=value(state.state)', *AT],
    [
      *ssh,
      f'--command={worker} state || echo meshwork-worker absent',
      *AT,
    ],
    [
      'git', '-C', str(ROOT), 'archive', '--format=tar.gz',
      f'--output={archive}', COMMIT,
    ],
    [
      *RESOURCES, 'scp', archive, f'llama:{code}.tar.gz', '--node=all',
      '--worker=all', '--quiet', *AT,
    ],
    [
      *ssh,
      f'--command=mkdir -p {code} && tar -xzf {code}.tar.gz -C {code} && '
      f'ln -sfn {code} meshwork && {worker} setup',
      *AT,
    ],
    [
      *ssh,
      f'--command=MESHWORK_COMMIT={COMMIT} {worker} start {FLAGS[0]} '
      f'{FLAGS[1]} --config.steps=9 --multihost',
      *AT,
    ],
    # After a preemption, and at the end.
    delete,
    create,
    delete,
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    (
      {'ACCELERATOR': 'v5p-64', 'CREATE_FLAGS': ''},
      '--accelerator-type=v5p-64 --runtime-version=v2-alpha-tpuv5 '
      '--node-id=llama',
    ),
    (
      {'ACCELERATOR': 'v5litepod-8', 'CREATE_FLAGS': '--reserved'},
      '--accelerator-type=v5litepod-8 --runtime-version=v2-alpha-tpuv5-lite '
      '--node-id=llama --reserved',
    ),
    (
      {
        'ACCELERATOR': 'v4-32',
        'SLICES': 3,
        'CREATE_FLAGS': '--spot --network=mine --internal-ips',
      },
      '--accelerator-type=v4-32 --runtime-version=tpu-ubuntu2204-base '
      '--node-count=3 --node-prefix=llama --spot --network=mine '
      '--internal-ips',
    ),
    (
      {'RUNTIME': 'other'},
      '--accelerator-type=v6e-16 --runtime-version=other --node-id=llama '
      '--spot',
    ),
  ],
)
def test_the_request_follows_the_settings(machine, settings, words):
  done = machine.run('tpu_vm.sh', 'create', **(SETTINGS | settings))
  assert printed(done.stdout)[0] == [
    *RESOURCES, 'create', 'llama', *words.split(), *AT,
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('accelerator', 'chips', 'hosts'),
  [
    # v4 and v5p count TensorCores, two a chip; four chips a host.
    ('v4-8', 4, 1),
    ('v5p-8', 4, 1),
    ('v5p-128', 64, 16),
    # v5e and v6e count chips; up to eight share a host.
    ('v5litepod-1', 1, 1),
    ('v5litepod-8', 8, 1),
    ('v5litepod-16', 16, 4),
    ('v6e-256', 256, 64),
  ],
)
def test_chips_and_hosts_of_an_accelerator(machine, accelerator, chips, hosts):
  settings = SETTINGS | {'ACCELERATOR': accelerator, 'SLICES': 2}
  done = machine.run('tpu_vm.sh', 'create', **settings)
  assert f'{2 * chips} chips on {2 * hosts} hosts' in done.stdout


def test_flags_arrive_as_they_were_given(machine):
  flags = [
    "--workdir=gs://bucket/it's my run",
    '--config.data.files=("a b", \'$HOME\', `c`)',
    '--config.x=\\n & ; * ~',
    '',
  ]
  settings = SETTINGS | {'ACCELERATOR': 'v5litepod-4'}
  done = machine.run('tpu_vm.sh', 'run', '--', *flags, **settings)
  ssh = printed(done.stdout)[-1]
  (remote,) = (w for w in ssh if w.startswith('--command='))
  words = shlex.split(remote.removeprefix('--command='))
  assert words[words.index('start') + 1 :] == flags


@pytest.mark.parametrize('name', ['TPU_NAME', 'PROJECT', 'ZONE', 'ACCELERATOR'])
def test_a_missing_setting_is_named(machine, name):
  settings = {k: v for k, v in SETTINGS.items() if k != name}
  done = machine.run('tpu_vm.sh', 'create', '--yes', code=64, **settings)
  assert f'{name} is not set' in done.stderr
  assert machine.calls == []


@pytest.mark.parametrize(
  ('arguments', 'settings', 'message'),
  [
    (['all'], {}, '--workdir=gs://'),
    (['run', '--', '--workdir=runs/x'], {}, '--workdir=gs://'),
    (['lunch'], {}, "'lunch' is no command"),
    ([], {}, 'give a command'),
    (['create', '--force'], {}, '--force is no option'),
    (['create', 'run'], {}, 'Give one command'),
    (['create'], {'ACCELERATOR': 'v6e-18'}, 'must be a multiple of 4'),
    (['create'], {'ACCELERATOR': 'v5p-12'}, 'must be a multiple of 8'),
    (['create'], {'ACCELERATOR': 'v6e-08'}, 'N must be a number'),
    (['create'], {'ACCELERATOR': 'v6e'}, "'v6e'"),
    (['create'], {'ACCELERATOR': 'tpu7x-8'}, 'on GKE only'),
    (['create'], {'SLICES': 'two'}, "SLICES is 'two'"),
    (['run'], {'COMMIT': 'nope'}, "COMMIT is 'nope'"),
  ],
)
def test_a_mistake_is_explained(machine, arguments, settings, message):
  done = machine.run(
    'tpu_vm.sh', *arguments[:1], '--yes', *arguments[1:], code=64,
    **(SETTINGS | settings),
  )  # fmt: skip
  assert message in done.stderr
  assert machine.calls == []


def test_changes_that_would_not_be_trained_are_refused(machine):
  (machine.folder / 'changes').touch()
  arguments = ['tpu_vm.sh', 'run', '--yes', '--', *FLAGS]
  done = machine.run(*arguments, code=64, **SETTINGS)
  assert 'changes that are in no commit' in done.stderr
  assert machine.calls == []
  machine.run(*arguments, COMMIT='HEAD', **SETTINGS)
  assert steps(machine) == RUN


def test_two_preemptions_then_the_end(machine):
  machine.answers(
    'machines',
    *('WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE', 'ACTIVE'),
    *('SUSPENDING', 'SUSPENDED', 'DELETING', 'GONE', 'ACTIVE', 'ACTIVE'),
    *('SUSPENDED', 'GONE', 'PROVISIONING', 'ACTIVE'),
  )
  machine.answers('workers', ABSENT, RUNNING, ABSENT, RUNNING, ABSENT, DONE)
  done = watch(machine, 'all')
  assert steps(machine) == [*UP, 'delete', *UP, 'delete', *UP, 'delete']
  starts = [c[-3] for c in machine.calls if ' start ' in c[-3]]
  # Every attempt is the same command: the workdir alone says where to go on.
  assert len(starts) == 3
  assert len(set(starts)) == 1
  assert 'Restart 2 of 20: the machines are SUSPENDED' in done.stderr


def test_a_failure_starts_main_py_again_on_the_same_machines(machine):
  machine.answers('machines', 'ACTIVE')
  machine.answers('workers', 'exit-1 running running running', RUNNING, DONE)
  watch(machine)
  assert steps(machine) == RUN


@pytest.mark.parametrize('status', [64, 65, 76])
def test_what_would_only_repeat_ends_the_loop(machine, status):
  machine.answers('machines', 'ACTIVE')
  machine.answers('workers', f'exit-1 exit-{status} running exit-75')
  watch(machine, 'all', code=status)
  # The machines are given back, after the log has been shown.
  assert steps(machine) == ['create', 'log', 'delete']


def test_stop_ends_the_loop(machine):
  machine.answers('machines', 'ACTIVE')
  # One host was told; the others agreed to end.
  machine.answers('workers', RUNNING, 'exit-75 stopped exit-75 running')
  watch(machine, 'all', code=143)
  assert steps(machine) == ['create', 'delete']


def test_restarts_are_counted(machine):
  machine.answers('machines', 'ACTIVE')
  machine.answers('workers', 'exit-134 exit-134 exit-134 exit-134')
  done = watch(machine, code=1, MAX_RESTARTS=3)
  assert steps(machine) == RUN * 3
  assert 'Given up after 3 restarts' in done.stderr


@pytest.mark.parametrize('workers', [ABSENT, 'exit-1'])
def test_a_step_that_fails_is_taken_again(machine, workers):
  machine.answers('machines', 'ACTIVE')
  machine.answers('workers', *[workers] * 3, DONE)
  machine.answers('copies', '1', '1', '0')
  watch(machine)
  assert steps(machine) == ['scp', 'scp', *RUN]


def test_machines_that_do_not_answer_are_made_anew(machine):
  machine.answers('machines', *['ACTIVE'] * 6, 'GONE', 'ACTIVE')
  machine.answers(
    'workers', *('dead', RUNNING, 'dead', RUNNING, 'dead', 'dead'), ABSENT, DONE
  )
  watch(machine, PATIENCE=2)
  assert steps(machine) == ['delete', *UP]


def test_a_launcher_without_network_waits(machine):
  machine.answers('machines', *['MUTE'] * 9, 'ACTIVE')
  machine.answers('workers', DONE)
  watch(machine, PATIENCE=2)
  assert steps(machine) == []


def test_some_workers_at_their_end_is_not_the_end(machine):
  machine.answers('machines', 'ACTIVE')
  machine.answers('workers', 'exit-0 exit-0 exit-0 running', 'exit-0', DONE)
  watch(machine)
  assert steps(machine) == []
  assert (machine.folder / 'workers').read_text() == f'{DONE}\n'


@pytest.mark.parametrize(
  ('before', 'renewals'),
  [(['ACTIVE'], []), (['SUSPENDED', 'GONE', 'ACTIVE'], ['delete', 'create'])],
)
def test_machines_that_were_deleted_by_hand_are_not_made_again(
  machine, before, renewals
):
  machine.answers('machines', *before, 'GONE')
  machine.answers('workers', RUNNING)
  watch(machine, code=1)
  assert steps(machine) == renewals


def test_a_request_that_cannot_be_met_is_given_back(machine):
  machine.answers('machines', 'FAILED', 'GONE', 'FAILED')
  done = watch(machine, 'all', code=1, MAX_RESTARTS=1)
  assert steps(machine) == ['create', 'delete', 'create', 'delete']
  assert (
    'Given up after 1 restarts (MAX_RESTARTS): the machines are FAILED'
    in (done.stderr)
  )


def test_a_name_that_is_taken_is_left_alone(machine):
  machine.answers('creations', '1')
  watch(machine, 'all', code=1)
  assert steps(machine) == ['create']


def test_a_creation_that_fails_is_tried_again(machine):
  machine.answers('machines', 'SUSPENDED', 'GONE', 'GONE', 'ACTIVE')
  machine.answers('creations', '1', '0')
  machine.answers('workers', DONE)
  watch(machine)
  assert steps(machine) == ['delete', 'create', 'create']
