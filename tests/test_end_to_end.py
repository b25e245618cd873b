"""The whole program, started as a user starts it: main.py in processes."""

import json
import pathlib
import shutil
import signal

import pytest
import runs
from test_security import bombs, spoil

from train.exits import CHECKPOINT_ERROR, DATA_ERROR, START_AGAIN, USAGE_ERROR
from train.redact import REDACTED


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  """Holds the prepared data, and the run `whole`, which nothing disturbed."""
  folder = tmp_path_factory.mktemp('end_to_end')
  prepared = runs.run(folder, runs.command('prepare', folder, 'unused'))
  assert 'Dataset: ' in prepared.stdout
  runs.run(folder, runs.command('train', folder, 'whole'))
  return folder


@pytest.mark.slow
def test_killed_three_times_resumes_bit_for_bit(folder):
  # A profile, of steps after the last kill, changes no number either.
  arguments = runs.command('train', folder, 'killed', log__profile_start=100)
  workdir = folder / 'killed'
  for step in (3, 33, 66):
    status = runs.run_until(arguments, workdir, step, signal.SIGKILL)
    assert status == -signal.SIGKILL
  runs.run(folder, arguments)
  assert len(runs.numbers(workdir)) == runs.TINY['steps']
  assert runs.numbers(workdir) == runs.numbers(folder / 'whole')
  losses = [
    {step: r['loss'] for step, r in runs.records(w, 'evaluation').items()}
    for w in (workdir, folder / 'whole')
  ]
  assert losses[0] == losses[1]
  assert sorted(losses[0]) == [40, 80, 120]
  assert list(workdir.glob('profile/process_0/**/*.xplane.pb'))


@pytest.mark.slow
def test_a_signal_saves_the_step_and_loses_none(folder):
  arguments = runs.command('train', folder, 'stopped', checkpoint__every=1000)
  workdir = folder / 'stopped'
  status = runs.run_until(arguments, workdir, 20, signal.SIGTERM)
  assert status == START_AGAIN
  stopped_at = runs.last_step(workdir)
  assert str(stopped_at) in {
    p.name for p in (workdir / 'checkpoints').iterdir()
  }
  runs.run(folder, arguments)
  assert runs.numbers(workdir) == runs.numbers(folder / 'whole')


@pytest.mark.slow
def test_a_second_run_in_the_workdir_is_refused_and_harms_nothing(folder):
  arguments = runs.command('train', folder, 'shared')
  workdir = folder / 'shared'
  with runs.started(arguments, workdir, 3) as first:
    # Nothing it does can end it meanwhile.
    first.send_signal(signal.SIGSTOP)
    try:
      done = runs.run(folder, arguments, code=USAGE_ERROR)
    finally:
      first.send_signal(signal.SIGCONT)
    assert 'Another run is at work in shared' in done.stderr
    assert f'process {first.pid} on ' in done.stderr
    assert 'Traceback' not in done.stderr
    errors = first.communicate(timeout=300)[1]
  assert first.returncode == 0, errors
  assert runs.numbers(workdir) == runs.numbers(folder / 'whole')


def test_damaged_data_ends_in_its_status_before_a_step(folder):
  shutil.copytree(folder / 'data', folder / 'spoiled')
  (rows,) = (folder / 'spoiled').rglob('train-*.rows')
  data = bytearray(rows.read_bytes())
  data[len(data) // 2] ^= 1
  rows.write_bytes(data)
  check = runs.command('prepare', folder, 'unused', '--verify')
  assert 'GB are as prepared' in runs.run(folder, check).stdout
  spoiled = runs.command(
    'prepare', folder, 'unused', '--verify', data__directory='spoiled'
  )
  done = runs.run(folder, spoiled, code=DATA_ERROR)
  assert f'{rows.name} is not what was prepared' in done.stderr
  rows.write_bytes(data[:-2])
  arguments = runs.command('train', folder, 'bad', data__directory='spoiled')
  done = runs.run(folder, arguments, code=DATA_ERROR)
  assert f'{rows.name} has {len(data) - 2} bytes' in done.stderr
  assert 'Traceback' not in done.stderr
  assert not (folder / 'bad' / 'metrics.jsonl').exists()


def flip_a_bit(step):
  data = max(
    (step / 'state' / 'd').iterdir(), key=lambda path: path.stat().st_size
  )
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 16
  data.write_bytes(content)


@pytest.mark.slow
def test_checkpoints_are_listed_and_checked(folder):
  shutil.copytree(folder / 'whole', folder / 'listed')
  steps = folder / 'listed' / 'checkpoints'
  listed = [runs.sys.executable, str(runs.ROOT / 'main.py'), 'checkpoints',
            '--workdir=listed']  # fmt: skip
  lines = runs.run(folder, [*listed, '--verify']).stdout.splitlines()
  saved = sorted(int(path.name) for path in steps.iterdir())
  assert len(lines) == len(saved)
  for step, line in zip(saved, lines, strict=True):
    assert line.startswith(f'step {step:>9,}')
    assert 'MB  good' in line
  assert sum('best so far' in line for line in lines) == 1
  flip_a_bit(steps / str(saved[-1]))
  assert 'not verified' in runs.run(folder, listed).stdout
  done = runs.run(folder, [*listed, '--verify'], code=74)
  assert 'is damaged' in done.stdout.splitlines()[-1] or (
    'cannot be read' in done.stdout.splitlines()[-1]
  )


@pytest.mark.slow
def test_a_run_reads_no_program_and_tells_no_secret(folder):
  secret = {'data__engine__options': "('--password=hunter2',)"}
  arguments = runs.command('train', folder, 'guarded', **secret)
  first = runs.run(folder, arguments)
  workdir, canary = folder / 'guarded', folder / 'canary'
  assert REDACTED in (workdir / 'run.json').read_text()
  step = workdir / 'checkpoints' / str(runs.TINY['steps'])
  for each in (workdir, step, step / 'state'):
    spoil(each, canary)
  for kind, bomb in bombs(canary).items():
    (workdir / f'config.{kind}').write_bytes(bomb)
    (step / f'state.{kind}').write_bytes(bomb)
  # In the workdir, where Python might look for modules.
  shutil.copytree(folder / 'data', workdir / 'data')
  again = runs.run(workdir, [*arguments[:2], 'train', '--workdir=.'])
  assert not canary.exists()
  for output in (first, again):
    assert 'hunter2' not in output.stdout + output.stderr
  written = [path for path in workdir.rglob('*') if path.is_file()]
  assert workdir / 'report.html' in written
  assert not [path for path in written if b'hunter2' in path.read_bytes()]
  assert REDACTED in (workdir / 'config.json').read_text()

  # A program in place of an array is damage.
  array = max((step / 'state' / 'd').iterdir(), key=lambda p: p.stat().st_size)
  array.write_bytes(bombs(canary)['pickle'])
  check = [*arguments[:2], 'checkpoints', '--workdir=guarded', '--verify']
  runs.run(folder, check, code=CHECKPOINT_ERROR)
  assert not canary.exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_nothing_else_changes(folder):
  arguments = runs.command('train', folder, 'damaged')
  workdir = folder / 'damaged'
  runs.run_until(arguments, workdir, 53, signal.SIGKILL)
  steps = workdir / 'checkpoints'
  newest = max(int(p.name) for p in steps.iterdir() if p.name.isdecimal())
  flip_a_bit(steps / str(newest))
  done = runs.run(folder, arguments)
  assert f'checkpoints/{newest} ' in done.stderr
  assert (workdir / 'quarantine' / str(newest)).is_dir()
  assert runs.numbers(workdir) == runs.numbers(folder / 'whole')


def test_a_finished_run_is_left_as_it_is(folder):
  before = runs.numbers(folder / 'whole')
  done = runs.run(folder, runs.command('train', folder, 'whole'))
  assert 'Done at step 120' in done.stderr
  assert runs.numbers(folder / 'whole') == before


@pytest.mark.slow
def test_numbers_that_break_down_end_the_run(folder):
  arguments = runs.command(
    'train', folder, 'broken', optimizer__learning_rate=1e30
  )
  done = runs.run(folder, arguments, code=65)
  message = done.stderr.splitlines()[-1]
  assert message.startswith('main.py: Step ')
  assert (
    'Its update was not made. The run ends: 3 bad steps in a row' in message
  )
  broken = int(message.split()[2])
  assert runs.last_step(folder / 'broken') < broken <= 5
  skipped = runs.records(folder / 'broken', 'event')
  assert [broken - 2, broken - 1, broken] == list(skipped)
  assert 'not made. 2 in a row' in skipped[broken - 1]['message']


@pytest.mark.slow
def test_early_stopping_keeps_the_best(folder):
  arguments = runs.command(
    'train',
    folder,
    'early',
    early_stopping__patience=1,
    early_stopping__min_delta=100,
  )
  done = runs.run(folder, arguments)
  assert 'Stopped early at step 80' in done.stderr
  best = runs.records(folder / 'early', 'evaluation')[40]
  result = runs.run(folder, [*arguments[:2], 'evaluate', arguments[4]])
  assert json.loads(result.stdout)['step'] == 40
  assert json.loads(result.stdout)['loss'] == pytest.approx(best['loss'])
  again = runs.run(folder, arguments)
  assert 'Done at step 80' in again.stderr


def test_training_learns(folder):
  evaluations = runs.records(folder / 'whole', 'evaluation')
  assert evaluations[120]['loss'] < evaluations[40]['loss']


@pytest.mark.slow
def test_resumes_on_another_mesh_with_the_same_losses(folder):
  arguments = runs.command('train', folder, 'moved')
  elsewhere = runs.command('train', folder, 'moved', mesh__data=2, mesh__fsdp=2)
  workdir = folder / 'moved'
  runs.run_until(arguments, workdir, 9, signal.SIGTERM)
  moved_at = runs.last_step(workdir)
  runs.run_until(elsewhere, workdir, moved_at + 20, signal.SIGTERM, devices=4)
  assert runs.records(workdir, 'session')[moved_at]['devices'] == '4 x cpu'
  expected, found = runs.numbers(folder / 'whole'), runs.numbers(workdir)
  for step in range(moved_at + 1, moved_at + 21):
    # bfloat16 sums in another order on another mesh.
    assert found[step][0] == pytest.approx(expected[step][0], abs=5e-3)
    assert found[step][1] == pytest.approx(expected[step][1], rel=5e-2)


def test_a_changed_configuration_is_refused_and_named(folder):
  changed = runs.command('train', folder, 'whole', optimizer__learning_rate=0.5)
  done = runs.run(folder, changed, code=64)
  assert 'optimizer.learning_rate: 0.002 -> 0.5' in done.stderr
  assert 'Traceback' not in done.stderr


def test_evaluate_agrees_with_the_run(folder):
  done = runs.run(folder, runs.command('evaluate', folder, 'whole'))
  result = json.loads(done.stdout)
  best = min(
    runs.records(folder / 'whole', 'evaluation').values(),
    key=lambda record: record['loss'],
  )
  assert result['step'] == best['step']
  assert result['loss'] == pytest.approx(best['loss'], abs=1e-6)
  assert result['bits_per_byte'] == pytest.approx(best['bits_per_byte'])


def test_sample_and_report_need_only_the_workdir(folder):
  workdir = '--workdir=whole'
  program = [runs.sys.executable, str(runs.ROOT / 'main.py')]
  prompts = folder / 'prompts.txt'
  prompts.write_text('import\nclass A:\n')
  arguments = [
    *program, 'sample', workdir, '--prompt=def f(', '--max_tokens=8',
    f'--prompts_file={prompts}', '--seed=1',
  ]  # fmt: skip
  first, second = runs.run(folder, arguments), runs.run(folder, arguments)
  assert first.stdout == second.stdout
  assert '--- sample 3 of 3' in first.stdout
  for prompt in ('def f(', 'import', 'class A:'):
    assert f'\n{prompt}' in first.stdout
  runs.run(folder, [*program, 'report', workdir])
  page = (folder / 'whole' / 'report.html').read_text()
  assert 'def f(' in page
  assert 'stdlib_text' in page


def test_the_workdir_explains_the_run(folder):
  workdir = folder / 'whole'
  config = json.loads((workdir / 'config.json').read_text())
  assert config['model']['embed_dim'] == 32
  run = json.loads((workdir / 'run.json').read_text())
  assert run['versions']['jax']
  assert (workdir / 'tokenizer.json').exists()
  assert list((workdir / 'tensorboard').iterdir())
  session = runs.records(workdir, 'session')[0]
  assert len(session['dataset']['fingerprint']) >= 16
