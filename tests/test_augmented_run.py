"""A run with every augmentation on, started as a user starts it."""

import json
import signal

import pytest
import runs
from test_augmented_batches import ON, TOKENS

FIELDS = {f'augmentation.{name}': value for name, value in ON.items()} | {
  'data.source': 'text',
  'data.files': ('corpus/*.txt',),
  'data.validation_fraction': 0.2,
  'data.tokenizer.kind': 'bytes',
  'data.tokenizer.special_tokens': TOKENS,
  'evaluation.every': 20,
  'steps': 40,
  'optimizer.warmup_steps': 4,
}


@pytest.mark.slow
def test_killed_and_resumed_with_everything_on_it_is_the_same_run(tmp_path):
  (tmp_path / 'corpus').mkdir()
  for n in range(60):
    text = f'{n} is a number. ' * (3 + n % 20)
    (tmp_path / 'corpus' / f'{n}.txt').write_text(text)
  whole = runs.command('train', tmp_path, 'whole', **FIELDS)
  runs.run(tmp_path, whole)
  killed = runs.command('train', tmp_path, 'killed', **FIELDS)
  runs.run_until(killed, tmp_path / 'killed', 16, signal.SIGKILL)
  runs.run(tmp_path, killed)
  assert len(runs.numbers(tmp_path / 'killed')) == 40
  assert runs.numbers(tmp_path / 'killed') == runs.numbers(tmp_path / 'whole')
  # Fewer tokens count than stand in the rows, and the metrics say how many.
  trained = runs.records(tmp_path / 'whole', 'train')
  counted = [record['tokens'] for record in trained.values()]
  assert 0.3 * 4 * 32 < sum(counted) / len(counted) < 0.9 * 4 * 32
  # Validation reads plain rows: the same documents, all of their tokens.
  done = runs.run(
    tmp_path, runs.command('evaluate', tmp_path, 'whole', **FIELDS)
  )
  evaluated = runs.records(tmp_path / 'whole', 'evaluation')
  assert {r['tokens'] for r in evaluated.values()} == {
    json.loads(done.stdout)['tokens']
  }


def test_a_missing_token_stops_the_run_before_it_prepares(tmp_path):
  missing = FIELDS | {'data.tokenizer.special_tokens': TOKENS[1:]}
  command = runs.command('prepare', tmp_path, 'run', **missing)
  done = runs.run(tmp_path, command, code=64)
  assert 'augmentation.input_masking needs <|mask|>' in done.stderr
  assert not list(tmp_path.iterdir())
