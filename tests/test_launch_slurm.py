"""Slurm: what is submitted, and what the job does."""

import pytest
from launching import LAUNCH, ROOT, Machine, printed

SETTINGS = {'NODES': 2, 'GPUS': 8, 'TIME': '24:00:00'}
FLAGS = ['--config=configs/llama_1b.py', '--workdir=/shared/my run']
TRAIN = ['--kill-on-bad-exit=0', '--wait=300', 'python', 'main.py']


@pytest.fixture
def machine(tmp_path) -> Machine:
  machine = Machine(tmp_path)
  for name in ('sbatch', 'scontrol'):
    machine.fake(name)
  machine.fake('srun', 'exit "$(answer FOLDER/statuses)"')
  (tmp_path / 'activate').touch()
  (tmp_path / 'bin/activate').touch()
  return machine


def run_job(machine: Machine, status: int, restart: int = 0, **settings):
  """Runs the job that was submitted, the srun of which ends with a status."""
  machine.answers('statuses', str(status))
  return machine.run(
    'slurm.sbatch', '--yes', '--', *FLAGS, code=status, SLURM_JOB_ID=41,
    SLURM_SUBMIT_DIR=ROOT, SLURM_RESTART_COUNT=restart, SLURM_NTASKS=16,
    VENV=machine.folder, **settings,
  )  # fmt: skip


def test_prints_what_it_would_submit_and_run(machine):
  done = machine.run('slurm.sbatch', '--', *FLAGS, **SETTINGS)
  assert machine.calls == []
  assert printed(done.stdout) == [
    [
      'sbatch', '--nodes=2', '--ntasks-per-node=8', '--gpus-per-node=8',
      '--cpus-per-task=8', '--time=24:00:00', 'launch/slurm.sbatch', '--yes',
      '--', *FLAGS, '--multihost',
    ],
    ['srun', '--cpus-per-task=8', *TRAIN, *FLAGS, '--multihost'],
  ]  # fmt: skip


def test_yes_submits(machine):
  machine.run(
    'slurm.sbatch', '--yes', '--', *FLAGS, CPUS=4,
    SUBMIT_FLAGS='--partition=gpu --account=mine', **SETTINGS,
  )  # fmt: skip
  assert machine.calls == [
    [
      'sbatch', '--nodes=2', '--ntasks-per-node=8', '--gpus-per-node=8',
      '--cpus-per-task=4', '--time=24:00:00', '--partition=gpu',
      '--account=mine', 'launch/slurm.sbatch', '--yes', '--', *FLAGS,
      '--multihost',
    ]
  ]  # fmt: skip


def test_one_gpu_is_no_cluster(machine):
  settings = SETTINGS | {'NODES': 1, 'GPUS': 1}
  done = machine.run('slurm.sbatch', '--', *FLAGS, **settings)
  assert '--multihost' not in done.stdout


def test_two_preemptions_then_the_end(machine):
  for restart, status in enumerate([75, 75, 0]):
    run_job(machine, status, restart)
  srun = ['srun', '--cpus-per-task=8', *TRAIN, *FLAGS, '--multihost']
  requeue = ['scontrol', 'requeue', '41']
  assert machine.calls == [srun, requeue, srun, requeue, srun]


@pytest.mark.parametrize(
  ('status', 'restart', 'again'),
  [
    (1, 0, True),
    (134, 19, True),
    (75, 20, False),
    (64, 0, False),
    (65, 0, False),
    (76, 0, False),
  ],
)
def test_queues_again_where_another_attempt_may_help(
  machine, status, restart, again
):
  run_job(machine, status, restart)
  called = [call[0] for call in machine.calls]
  assert called == ['srun', 'scontrol'] if again else ['srun']


def test_directives_stand_before_the_first_command():
  lines = (LAUNCH / 'slurm.sbatch').read_text().splitlines()
  first = next(i for i, line in enumerate(lines) if line[:1] not in ('#', ''))
  directives = {
    line.removeprefix('#SBATCH --').partition('=')[::2]
    for line in lines[:first]
    if line.startswith('#SBATCH')
  }
  # Without B: the signal goes to the processes of srun, where main.py is.
  assert ('signal', 'TERM@300') in directives
  assert ('requeue', '') in directives
  assert ('open-mode', 'append') in directives
  assert not any('SBATCH' in line for line in lines[first:])


@pytest.mark.parametrize('name', list(SETTINGS))
def test_a_missing_setting_is_named(machine, name):
  settings = {k: v for k, v in SETTINGS.items() if k != name}
  done = machine.run('slurm.sbatch', '--', *FLAGS, code=64, **settings)
  assert f'{name} is not set' in done.stderr
  assert done.stdout == ''


def test_mistakes_are_explained(machine):
  done = machine.run('slurm.sbatch', '--yes', code=64, **SETTINGS)
  assert '--workdir=' in done.stderr
  done = machine.run(
    'slurm.sbatch', '--', *FLAGS, code=64, **(SETTINGS | {'GPUS': 'all'})
  )
  assert "GPUS is 'all'" in done.stderr
  done = machine.run(
    'slurm.sbatch', '--yes', '--', *FLAGS, code=64, SLURM_JOB_ID=41,
    SLURM_SUBMIT_DIR=machine.folder,
  )  # fmt: skip
  assert 'no checkout' in done.stderr
  assert machine.calls == []
