"""The best learning rate of each width, and what its drift costs."""

import json
import math

import cases
import pytest

from configs.check import to_dict
from train.config import train_config
from train.tuning import lr_transfer
from train.tuning.lr_transfer import Sweep, Transfer, measure, rates_around
from train.tuning.rate_sweep import losses, made_up_rows

RATES = tuple(2.0**i for i in range(-10, -3))


def parabola(best, bend=0.05, loss=2.0):
  return tuple(loss + bend * (math.log2(r) - best) ** 2 for r in RATES)


def transfer(*best):
  return Transfer(
    parametrization='spectral',
    optimizer='muon',
    about='100 steps',
    sweeps=tuple(
      Sweep(width=64 * 2**i, rates=RATES, losses=parabola(b, loss=2.0 - i / 10))
      for i, b in enumerate(best)
    ),
  )


@pytest.mark.parametrize('best', [-7.0, -6.7, -8.4])
def test_the_best_rate_is_that_of_a_parabola(best):
  found = Sweep(width=64, rates=RATES, losses=parabola(best)).optimum
  assert found.octave == pytest.approx(best)
  assert found.loss == pytest.approx(2.0)
  assert found.rate == pytest.approx(2**best)
  assert not found.edge


@pytest.mark.parametrize(('best', 'edge'), [(-12.0, 'below'), (-2.0, 'above')])
def test_a_best_rate_at_the_end_says_so(best, edge):
  found = Sweep(width=64, rates=RATES, losses=parabola(best)).optimum
  assert found.edge == edge
  assert found.rate in (RATES[0], RATES[-1])
  assert 'at least' in lr_transfer.verdict(transfer(-7.0, best))


def test_beside_a_run_that_diverged_the_best_rate_is_one_that_was_tried():
  values = (3.0, 2.5, 2.2, 2.0, math.inf, math.inf, math.inf)
  found = Sweep(width=64, rates=RATES, losses=values).optimum
  assert found.octave == -7


def test_drift_and_cost(tmp_path):
  found = transfer(-6.0, -6.5, -7.0)
  assert found.drift == pytest.approx(1.0)
  # A parabola's value one octave from its lowest point.
  assert found.cost == pytest.approx(0.05)
  text = lr_transfer.text_of(found)
  assert 'moves by 1.0 octaves' in text
  assert 'width 256 loses 0.050 nats' in text
  page, numbers = lr_transfer.write_page(found, tmp_path)
  assert page.read_text().count('<path class="curve"') == 3
  assert json.loads(numbers.read_text())['drift'] == pytest.approx(1.0)


@pytest.mark.slow
def test_a_sweep_is_that_of_each_rate_alone():
  config = to_dict(
    cases.tiny_config(**{'steps': 6, 'model.num_layers': 1, 'batch_size': 4})
  )
  rows = made_up_rows(train_config(config))
  rates = [0.001, 0.01, 0.1]
  together = losses(config, rates, rows)
  assert len(set(together)) == 3
  assert losses(config, rates[1:2], rows) == pytest.approx(together[1:2], 1e-5)


def test_what_cannot_be_is_refused_before_anything_is_trained(monkeypatch):
  config = to_dict(cases.tiny_config())
  rows = made_up_rows(train_config(config))
  monkeypatch.setattr(lr_transfer, 'losses', None)
  for arguments, message in (
    ({'widths': (32, 36), 'octaves': 2}, 'Width 36'),
    ({'widths': (32, 64), 'octaves': 0}, '--octaves is 0'),
  ):
    with pytest.raises(ValueError, match=message):
      measure(config, rows, **arguments, said=print)
  monkeypatch.setattr(lr_transfer, 'losses', lambda *_: [math.nan] * 3)
  with pytest.raises(ValueError, match='Every run of width 32 diverged'):
    measure(config, rows, widths=(32, 64), octaves=1, said=print)
  assert rates_around(0.5, 1) == [0.25, 0.5, 1.0]


LEARNED = {
  'steps': 120, 'sequence_length': 64, 'loss.chunk': 64,
  'model.vocab_size': 256, 'model.embed_dim': 64, 'model.num_layers': 1,
  'model.num_heads': 2, 'model.num_kv_heads': 2, 'model.mlp_dim': 128,
  'model.tie_embeddings': False, 'optimizer.schedule': 'linear',
  'optimizer.final_fraction': 0.0, 'optimizer.warmup_steps': 12,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'optimizer', 'rate', 'moves'),
  [
    ('spectral', 'muon', 0.02, False),
    ('standard', 'muon', 0.02, True),
    ('completep', 'adamw', 0.004, False),
    ('standard', 'adamw', 0.004, True),
  ],
)
def test_the_best_rate_stays_where_it_is_meant_to(name, optimizer, rate, moves):
  fields = {
    'model.parametrization': name, 'optimizer.name': optimizer,
    'optimizer.learning_rate': rate,
  }  # fmt: skip
  config = to_dict(cases.tiny_config(**LEARNED | fields))
  rows = made_up_rows(train_config(config))
  found = measure(config, rows, widths=(64, 128, 256), octaves=3, said=print)
  print(lr_transfer.text_of(found))
  assert not found.open_ended
  assert (found.drift > 1) == moves
