import math
import random

import pytest

from train.report import write_report
from train.report_axes import Axis, log_ticks, nice_ticks, tick_labels
from train.report_charts import smooth, thin
from train.report_page import hide_secrets
from train.report_run import tokens_seen


def test_secrets_are_hidden_and_their_like_are_not():
  shown = {
    'tokenizer': {'path': 'a.json', 'vocab_size': 9},
    'tokens': 'x',
    'tokens_per_step': 5,
    'bytes_per_token': 4.3,
    'keyboard': 'us',
    'monkeys_seen': 3,
    'use_secret': False,
    'api_key': None,
    'password': '',
  }
  assert hide_secrets(shown) == shown
  hidden = {
    'api_key': 'a',
    'apiKey': 'a',
    'hub_token': 'a',
    'hubToken': 'a',
    'HF_TOKEN': 'a',
    'token': ['a'],
    'keys': {'cloud': 'a'},
    'client-secret': 'a',
    'passwords': [1],
    'db_password': 1234,
    'aws_credentials': {'id': 'a'},
  }
  assert set(hide_secrets({'x': [hidden]})['x'][0].values()) == {'(hidden)'}
  url = 'see postgresql://me:pass@host/db and gs://bucket/a:b'
  assert hide_secrets({'storage': [url]})['storage'] == [
    'see postgresql://me:(hidden)@host/db and gs://bucket/a:b'
  ]


@pytest.mark.parametrize(
  ('low', 'high', 'ticks'),
  [
    (0, 10, [0, 2, 4, 6, 8, 10]),
    (2.9, 11.2, [4, 6, 8, 10]),
    (0, 3e-4, [0, 1e-4, 2e-4, 3e-4]),
    (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    (7.31, 7.34, [7.31, 7.32, 7.33, 7.34]),
  ],
)
def test_nice_ticks(low, high, ticks):
  assert nice_ticks(low, high, 5) == ticks


def test_log_ticks():
  assert log_ticks(0.3, 3.5) == [0.5, 1, 2]
  assert log_ticks(0.005, 20_000) == [10.0**e for e in range(-2, 5)]


@pytest.mark.parametrize(
  ('ticks', 'labels'),
  [
    ([0, 2, 4], ['0', '2', '4']),
    ([0, 0.5, 1], ['0', '0.5', '1.0']),
    ([0, 1e-4, 2e-4], ['0', '1e-4', '2e-4']),
    ([0, 500, 1000], ['0', '500', '1,000']),
    ([0, 5_000, 10_000], ['0', '5k', '10k']),
    ([1e6, 1.5e6], ['1.0M', '1.5M']),
  ],
)
def test_tick_labels(ticks, labels):
  assert tick_labels(ticks) == labels


def test_a_log_axis_with_few_round_numbers_still_has_labels():
  assert len(Axis(2.4, 4.1, log=True).ticks(5)) >= 2
  assert Axis(1, 100, log=True).fraction(10) == pytest.approx(0.5)


def test_thinning_keeps_ends_peaks_order_and_gaps():
  noise = random.Random(0)
  points = [(step, noise.random()) for step in range(5_000)]
  points[1_234] = (1_234, 50.0)
  points[3_000] = (3_000, math.nan)
  kept = thin(points, 100)
  assert 90 <= len(kept) <= 100
  assert kept[0] == points[0]
  assert kept[-1] == points[-1]
  assert points[1_234] in kept
  assert sum(math.isnan(value) for _, value in kept) == 1
  steps = [step for step, _ in kept]
  assert steps == sorted(set(steps))
  assert thin(points[:100], 100) == points[:100]


def test_smoothing_keeps_lines_and_reduces_noise():
  line = [(step, 3.0 - 0.001 * step) for step in range(600)]
  for (_, got), (_, want) in zip(smooth(line), line, strict=True):
    assert got == pytest.approx(want)
  noise = random.Random(0)
  rough = [(step, noise.gauss(0, 1)) for step in range(600)]
  spread = sum(value**2 for _, value in smooth(rough)[20:-20]) / 560
  assert spread < 0.25
  assert smooth([(0, math.nan), (1, 2.0)]) == [(1, 2.0)]


def test_tokens_count_each_record_for_the_steps_since_the_one_before():
  records = [
    {'kind': 'train', 'step': 10, 'tokens': 100},
    {'kind': 'evaluation', 'step': 10, 'tokens': 7},
    {'kind': 'train', 'step': 15, 'tokens': 200},
  ]
  assert tokens_seen(records) == 10 * 100 + 5 * 200


def test_unreadable_files_are_errors_that_name_them(tmp_path):
  with pytest.raises(ValueError, match=r'metrics\.jsonl.*main\.py'):
    write_report(tmp_path)
  (tmp_path / 'metrics.jsonl').write_text('')
  assert 'No loss' in write_report(tmp_path).read_text()
  for text in ('{"steps": ', '[1]'):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match=r'config\.json'):
      write_report(tmp_path)
