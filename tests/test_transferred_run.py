"""A file that `transfer` wrote, trained as a user would train it."""

import signal
import sys

import pytest
import runs

TUNED = {
  'model.parametrization': 'spectral', 'model.tie_embeddings': False,
  'optimizer.name': 'muon', 'optimizer.hyperball': True,
}  # fmt: skip


@pytest.mark.slow
def test_a_transferred_run_trains_and_resumes_bit_for_bit(tmp_path):
  flags = ['--width=64', '--depth=4', '--batch_size=8', '--tokens=12_800']
  done = runs.run(
    tmp_path, runs.command('transfer', tmp_path, 'large', *flags, **TUNED)
  )
  assert 'optimizer.learning_rate = 0.002828 (was 0.002)' in done.stdout
  file = tmp_path / 'large/transferred.py'
  assert file.exists()

  def train(workdir):
    program = [sys.executable, str(runs.ROOT / 'main.py'), 'train']
    return [*program, f'--config={file}', f'--workdir={workdir}']

  runs.run(tmp_path, train('whole'))
  killed = tmp_path / 'killed'
  runs.run_until(train('killed'), killed, 20, signal.SIGKILL)
  runs.run(tmp_path, train('killed'))
  found = runs.numbers(killed)
  assert len(found) == 50
  assert found == runs.numbers(tmp_path / 'whole')
  # It learns: from a head of zeros the first loss is that of a guess.
  assert found[1][0] == pytest.approx(5.95, abs=0.01)
  assert found[50][0] < 5.5
