"""Signals and notices at any moment: nothing lost, nothing repeated."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import runs
from processes import ROOT, Cluster

from train.exits import BY_HAND, CHECKPOINT_ERROR, START_AGAIN
from train.platform_notice import google_preemption
from train.signals import stop_request

FAULTY = str(ROOT / 'tests' / 'faulty_main.py')
FIELDS = {'checkpoint__every': 1000}
# A step, a save and an evaluation of this run are far below a second.
SOON_SECONDS = 5


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Holds the data, and the run that nobody disturbed."""
  folder = tmp_path_factory.mktemp('signals')
  runs.run(folder, runs.command('train', folder, 'whole', **FIELDS))
  return folder


def start(folder, workdir, kind=None, **fields):
  command = runs.command('train', folder, workdir, **FIELDS | fields)
  environment = runs.environment()
  if kind is not None:
    command[1] = FAULTY
    environment['FAULT'] = repr({'kind': kind})
  return Cluster([command], [environment], folder, seconds=120)


def saved(workdir):
  return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir())


def assert_goes_on_like_whole(folder, workdir):
  """The run ends with the losses, evaluations and bits of the whole one."""
  runs.run(folder, runs.command('train', folder, workdir, **FIELDS))
  assert runs.numbers(folder / workdir) == runs.numbers(folder / 'whole')
  for step, record in runs.records(folder / 'whole', 'evaluation').items():
    found = runs.records(folder / workdir, 'evaluation')[step]
    assert found['loss'] == record['loss'], step


@pytest.mark.slow
@pytest.mark.parametrize(
  ('signum', 'status'),
  [(signal.SIGTERM, START_AGAIN), (signal.SIGINT, BY_HAND)],
)
def test_a_signal_in_the_compiler_ends_the_run_at_once(folder, signum, status):
  with start(folder, f'compile{status}', 'slow_compile') as cluster:
    cluster.wait_for_text(0, 'compiling')
    cluster.signal(0, signum)
    begin = time.monotonic()
    (output,) = cluster.wait([status])
    assert time.monotonic() - begin < SOON_SECONDS
  assert f'{signum.name} ended the run before the first step' in output


@pytest.mark.slow
def test_a_signal_in_an_evaluation_saves_and_makes_up_for_it(folder):
  workdir = folder / 'evaluation'
  with start(folder, workdir.name, 'slow_evaluation') as cluster:
    cluster.wait_for_text(0, 'evaluating')
    cluster.signal(0, signal.SIGTERM)
    begin = time.monotonic()
    cluster.wait([START_AGAIN])
    assert time.monotonic() - begin < SOON_SECONDS
  assert saved(workdir) == [40]
  assert not runs.records(workdir, 'evaluation')
  assert_goes_on_like_whole(folder, workdir.name)


@pytest.mark.slow
def test_a_signal_in_the_last_evaluation_too(folder):
  workdir = folder / 'last'
  fields = {'evaluation__every': 120}
  with start(folder, workdir.name, 'slow_evaluation', **fields) as cluster:
    cluster.wait_for_text(0, 'evaluating')
    cluster.signal(0, signal.SIGTERM)
    cluster.wait([START_AGAIN])
  assert saved(workdir) == [120]
  arguments = runs.command('train', folder, workdir.name, **FIELDS | fields)
  done = runs.run(folder, arguments)
  assert 'Done at step 120. Best loss' in done.stderr
  # The checkpoint knows of the evaluation that came after it.
  arguments[2] = 'checkpoints'
  assert 'best so far' in runs.run(folder, arguments).stdout


@pytest.mark.slow
def test_a_second_signal_does_not_spoil_the_save(folder):
  workdir = folder / 'twice'
  with start(folder, workdir.name, 'slow_save') as cluster:
    while runs.last_step(workdir) < 10:
      cluster.check_time()
      time.sleep(0.005)
    cluster.signal(0, signal.SIGTERM)
    cluster.wait_for_text(0, 'saving')
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
      cluster.signal(0, signum)
      time.sleep(0.1)
    (output,) = cluster.wait([START_AGAIN])
  assert output.count('the state is being saved') == 3
  assert saved(workdir) == [runs.last_step(workdir)]
  assert_goes_on_like_whole(folder, workdir.name)


@pytest.mark.slow
def test_a_third_ctrl_c_ends_at_once(folder):
  workdir = folder / 'thrice'
  with start(folder, workdir.name, 'slow_save') as cluster:
    while runs.last_step(workdir) < 10:
      cluster.check_time()
      time.sleep(0.005)
    cluster.signal(0, signal.SIGINT)
    cluster.wait_for_text(0, 'saving')
    for _ in range(2):
      cluster.signal(0, signal.SIGINT)
      time.sleep(0.1)
    cluster.wait([BY_HAND])
  assert_goes_on_like_whole(folder, workdir.name)


@pytest.mark.slow
def test_supervise_starts_a_killed_run_again(folder):
  workdir = folder / 'supervised'
  fields = {'checkpoint__every': 7}
  command = runs.command('supervise', folder, workdir.name, **fields)
  with Cluster([command], [runs.environment()], folder, seconds=200) as cluster:
    while runs.last_step(workdir) < 30:
      cluster.check_time()
      time.sleep(0.005)
    (child,) = cluster.children(0)
    os.kill(child, signal.SIGKILL)
    (output,) = cluster.wait([0])
  assert 'supervise: Ended by SIGKILL, step' in output
  assert 'restart 1 of 20 in 5 s' in output
  assert runs.numbers(workdir) == runs.numbers(folder / 'whole')


@pytest.mark.slow
def test_a_last_save_that_fails_is_no_success(folder):
  fields = FIELDS | {
    'checkpoint__on_failure': 'continue', 'checkpoint__every': 50,
  }  # fmt: skip
  command = runs.command('train', folder, 'unsaved', **fields)
  command[1] = FAULTY
  fault = {'kind': 'no_disk', 'step': 100}
  environment = runs.environment() | {'FAULT': repr(fault)}
  with Cluster([command], [environment], folder, seconds=120) as cluster:
    (output,) = cluster.wait([CHECKPOINT_ERROR])
  # Step 100 was let pass, as the configuration says; the last one was not.
  assert runs.last_step(folder / 'unsaved') == 120
  assert 'main.py: there is no disk' in output


class Metadata(http.server.BaseHTTPRequestHandler):
  """A metadata server of a machine that is preempted at some time."""

  preempted = False

  def do_GET(self):
    assert self.path == '/computeMetadata/v1/instance/preempted'
    assert self.headers['Metadata-Flavor'] == 'Google'
    self.send_response(200)
    self.end_headers()
    self.wfile.write(b'TRUE' if self.preempted else b'FALSE')

  def log_message(self, *_):
    pass


@pytest.fixture
def metadata_server():
  Metadata.preempted = False
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Metadata) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'127.0.0.1:{server.server_port}'
    server.shutdown()


def test_the_notice_of_the_platform_is_read(metadata_server, monkeypatch):
  monkeypatch.setenv('GCE_METADATA_IP', metadata_server)
  preempted = google_preemption()
  assert preempted is not None
  assert not preempted()
  Metadata.preempted = True
  assert preempted()


@pytest.mark.slow
def test_a_notice_saves_as_a_signal_does(folder, metadata_server):
  workdir = folder / 'notice'
  command = runs.command(
    'train', folder, workdir.name, '--nomultihost', **FIELDS | {'steps': 10_000}
  )
  environment = runs.environment() | {'GCE_METADATA_IP': metadata_server}
  with Cluster([command], [environment], folder, seconds=120) as cluster:
    while runs.last_step(workdir) < 3:
      cluster.check_time()
      time.sleep(0.01)
    Metadata.preempted = True
    (output,) = cluster.wait([START_AGAIN])
  assert 'The platform is about to take this machine away' in output
  assert saved(workdir)[-1] == runs.last_step(workdir)


def test_the_first_signal_is_a_request_once_steps_begin(capfd):
  with stop_request() as request:
    request.steps_begin()
    os.kill(os.getpid(), signal.SIGTERM)
    while request.signum is None:
      time.sleep(0.001)
    assert request.signum == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGINT)
    while 'being saved' not in capfd.readouterr().err:
      time.sleep(0.001)
    assert request.signum == signal.SIGTERM


def test_handlers_are_given_back():
  before = signal.getsignal(signal.SIGTERM)
  with stop_request():
    assert signal.getsignal(signal.SIGTERM) is not before
  assert signal.getsignal(signal.SIGTERM) is before
  assert signal.set_wakeup_fd(-1) == -1


COMPUTES = """
import ctypes, sys
sys.path.insert(0, {root!r})
from train.signals import stop_request
with stop_request() as request:
  print('ready', flush=True)
  # PyDLL keeps the lock of the interpreter for this long.
  ctypes.CDLL(None).sleep(60)
"""


def test_a_signal_is_seen_where_python_is_not_running():
  program = COMPUTES.format(root=str(ROOT))
  with subprocess.Popen(
    [sys.executable, '-c', program], stdout=subprocess.PIPE
  ) as process:
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == START_AGAIN
