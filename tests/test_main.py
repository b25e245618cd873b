"""The command line: mistakes are one line, and take no time."""

import subprocess
import sys

import pytest
import runs

PROGRAM = [sys.executable, str(runs.ROOT / 'main.py')]
CONFIG = f'--config={runs.ROOT / "configs/tiny.py"}'


def fails(*arguments: str) -> str:
  """Runs main.py and returns the one line that it ends with."""
  done = subprocess.run(
    [*PROGRAM, *arguments],
    env=runs.environment(devices=2),
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 64, done.stdout + done.stderr
  assert done.stdout == ''
  lines = done.stderr.splitlines()
  assert len(lines) == 1, done.stderr
  return lines[0]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      [CONFIG, '--config.optimizer.learnin_rate=1'],
      'no field config.optimizer.learnin_rate. Did you mean '
      'config.optimizer.learning_rate?',
    ),
    ([CONFIG, '--config.embed_dim=8'], 'Did you mean config.model.embed_dim?'),
    ([CONFIG, '--config.optimizer=adam'], 'config.optimizer is a section'),
    ([CONFIG, '--config.steps=many'], '--config.steps=many: invalid literal'),
    ([CONFIG, '--config.steps=1.5'], '--config.steps=1.5'),
    (
      [CONFIG, '--config.model.use_bias=maybe'],
      '--config.model.use_bias=maybe',
    ),
    ([CONFIG, "--config.model={'zzz': 1}"], 'no field config.model.zzz'),
    (['--config=configs/missing.py'], 'no file configs/missing.py'),
    (['--config', 'configs/missing.py'], 'no file configs/missing.py'),
    (['--config.steps=3'], 'FIELD=VALUE needs --config=FILE first'),
    (['--confg=x'], "Unknown command line flag 'confg'"),
    (['trian', CONFIG], "'trian' is no command"),
    (['train'], 'Give a configuration'),
    (['plan', CONFIG], 'Give the machine to plan for: --topology=v5p:4x4x4'),
    (['plan', CONFIG, '--topology=v5p:4x4x5'], 'v5p has no slice 4x4x5'),
    (['ladder', CONFIG], 'Give what the ladder may take, --flops=1e15'),
    (
      ['ladder', CONFIG, '--hours=1', '--tokens_per_parameter=0'],
      '--tokens_per_parameter is 0',
    ),
  ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path):
  flags = [f'--workdir={tmp_path / "run"}']
  assert message in fails(*arguments, *flags)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('override', 'message'),
  [
    ('batch_size=7', 'batch_size = 7 rows cannot be split evenly by'),
    ('optimizer.learning_rate=nan', 'optimizer.learning_rate is nan'),
    ('data.source=csv', 'data.source'),
  ],
)
def test_a_value_that_does_not_fit_is_named(override, message, tmp_path):
  flags = [CONFIG, f'--workdir={tmp_path / "run"}', f'--config.{override}']
  data = f'--config.data.directory={tmp_path / "data"}'
  assert message in fails(*flags, data)
  assert not (tmp_path / 'data').exists()


def test_evaluate_and_sample_of_nothing_say_what_to_do(tmp_path):
  workdir = f'--workdir={tmp_path / "run"}'
  assert 'Train first' in fails('evaluate', CONFIG, workdir)
  assert 'Train first' in fails('sample', CONFIG, workdir)
  assert 'Give a configuration' in fails('sample', workdir)
