"""The shell of launch/, its guide, and what a worker of a TPU VM does."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from launching import LAUNCH, ROOT, Machine

from configs.base import get_config
from configs.check import fields
from train import workdir
from train.exits import FINAL

# Stands for training: saves on a signal, and takes a moment to.
MAIN = """
import pathlib, signal, sys, time

def save(signum, frame):
  if '--deaf' in sys.argv:
    return
  time.sleep(0.05)
  pathlib.Path('saved').write_text('saved')
  sys.exit(75)

signal.signal(signal.SIGTERM, save)
pathlib.Path('new').write_text('\\n'.join(sys.argv[1:]))
pathlib.Path('new').rename('flags')
while not pathlib.Path('status').exists():
  time.sleep(0.01)
sys.exit(int(pathlib.Path('status').read_text()))
"""


SCRIPTS = [
  path.relative_to(ROOT)
  for path in sorted([*ROOT.glob('launch/*'), *ROOT.glob('scripts/*')])
  if path.suffix in ('.sh', '.sbatch')
]


def check(*command: object) -> None:
  done = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout + done.stderr


def test_bash_reads_every_script():
  assert len(SCRIPTS) == 8
  for script in SCRIPTS:
    check('bash', '-n', script)


def test_shellcheck_has_nothing_to_say():
  program = pathlib.Path(sys.executable).parent / 'shellcheck'
  check(program, '--external-sources', '--source-path=SCRIPTDIR', *SCRIPTS)


def test_statuses_that_another_attempt_would_repeat_are_final():
  statuses = [str(status) for status in FINAL]
  shell = (LAUNCH / 'commands.sh').read_text()
  assert f"FINAL=' {' '.join(statuses)} '" in shell
  manifest = (LAUNCH / 'gke_jobset.yaml').read_text()
  assert f'values: [{", ".join(statuses)}]' in manifest


class Worker:
  """A checkout as it lies on a worker, with a stand-in for main.py."""

  def __init__(self, machine: Machine):
    self._machine = machine
    self.folder = machine.folder / 'meshwork-0123'
    (self.folder / 'launch').mkdir(parents=True)
    shutil.copy(LAUNCH / 'tpu_worker.sh', self.folder / 'launch')
    (self.folder / 'main.py').write_text(MAIN)

  def set_up(self) -> None:
    """Puts an environment there, without its packages."""
    (self.folder / '.venv/bin').mkdir(parents=True)
    (self.folder / '.venv/bin/activate').touch()
    (self._machine.folder / 'bin/python').symlink_to(sys.executable)

  def __call__(self, *arguments: str, code: int = 0, **settings) -> str:
    script = str(self.folder / 'launch/tpu_worker.sh')
    done = self._machine.run(script, *arguments, code=code, **settings)
    return done.stdout

  def state(self) -> str:
    word, _, state = self('state').strip().split(' ', 2)
    assert word == 'meshwork-worker'
    return state

  def exit_status(self) -> str:
    return self.wait('../.meshwork/exit').strip()

  def end(self) -> str:
    """Waits until nothing runs any more, and says how it ended."""
    for _ in range(6_000):
      if self.state() != 'running':
        return self.state()
      time.sleep(0.01)
    raise AssertionError(f'still running: {self("log")}')

  def wait(self, name: str) -> str:
    """Waits until main.py or its supervisor has written a file."""
    for _ in range(6_000):
      if (self.folder / name).exists():
        return (self.folder / name).read_text()
      time.sleep(0.01)
    raise AssertionError(f'{name} was not written: {self("log")}')


@pytest.fixture
def worker(tmp_path) -> Worker:
  worker = Worker(Machine(tmp_path))
  yield worker
  (worker.folder / 'status').write_text('0')


def test_a_worker_runs_main_py_to_its_end(worker):
  assert worker.state() == 'absent'
  worker.set_up()
  flags = ['--workdir=gs://bucket/my run', "--config.x=it's $HOME"]
  worker('start', *flags)
  assert worker.wait('flags').splitlines() == flags
  assert worker.state() == 'running'
  (worker.folder / 'status').write_text('65')
  assert worker.end() == 'exit 65'
  worker('stop')
  assert worker.state() == 'exit 65'
  assert 'ended with status 65' in worker('log')


def test_a_worker_saves_before_it_stops_or_starts_again(worker):
  worker.set_up()
  worker('start', '--one')
  worker.wait('flags')
  worker('stop')
  assert worker.state() == 'stopped'
  assert worker.exit_status() == '75'
  assert worker.wait('saved') == 'saved'
  (worker.folder / 'saved').unlink()
  (worker.folder / 'flags').unlink()
  worker('start', '--two')
  assert worker.wait('flags') == '--two'
  worker('start', '--three')
  assert worker.wait('saved') == 'saved'
  assert worker.state() == 'running'
  # That one before was stopped says nothing about this one.
  (worker.folder / 'status').write_text('3')
  assert worker.end() == 'exit 3'


def test_a_worker_that_does_not_listen_is_ended(worker):
  worker.set_up()
  worker('start', '--deaf')
  worker.wait('flags')
  worker('stop', GRACE_SECONDS=0)
  assert worker.state() == 'stopped'
  assert worker.exit_status() == '137'


def test_a_worker_that_was_switched_off_has_failed(worker):
  worker.set_up()
  worker('start')
  worker.wait('flags')
  worker('stop')
  notes = worker.folder.parent / '.meshwork'
  # Neither a status nor a process: the number is now that of this test.
  (notes / 'exit').unlink()
  (notes / 'stopped').unlink()
  (notes / 'supervisor').write_text(f'{pathlib.Path("/proc/self").readlink()}')
  assert worker.state() == 'exit 137'


def test_a_worker_without_packages_says_so(worker):
  worker('start', code=64)
  assert worker.state() == 'absent'


def test_a_copy_without_history_knows_its_commit(monkeypatch):
  monkeypatch.setenv('MESHWORK_COMMIT', '0123456789ab')
  assert workdir._commit() == '0123456789ab'


def commands_of_the_runbook() -> Iterator[tuple[list[str], dict[str, str]]]:
  """Words of each command in docs/tpu.md, and what was exported before."""
  exported: dict[str, str] = {}
  page = (ROOT / 'docs/tpu.md').read_text()
  for block in re.findall(r'^```sh\n(.*?)^```', page, re.DOTALL | re.MULTILINE):
    for line in block.replace('\\\n', ' ').splitlines():
      program, *words = shlex.split(line)
      if program == 'export':
        exported |= dict(word.split('=', 1) for word in words)
      else:
        yield [program, *words], exported


def test_every_launch_of_the_runbook_is_one(tmp_path):
  machine = Machine(tmp_path)
  launched = []
  for (program, *words), exported in commands_of_the_runbook():
    if program != 'bash':
      continue
    script = words.pop(0).removeprefix('launch/')
    words.remove('--yes')
    machine.run(script, *words, **exported)
    launched.append((script, words[0]))
  assert {script for script, _ in launched} == {
    'tpu_vm.sh', 'gke.sh', 'slurm.sbatch',
  }  # fmt: skip
  assert machine.calls == []


def test_every_flag_of_the_runbook_is_one():
  known = fields(get_config())
  page = (ROOT / 'docs/tpu.md').read_text()
  assert set(re.findall(r'--config\.([\w.]+)=', page)) <= set(known)
  for config in re.findall(r'--config=(\S+)', page):
    assert (ROOT / config).exists()
