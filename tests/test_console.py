import io
import math

import pytest

from train.console import (
  Console,
  format_count,
  format_duration,
  format_evaluation,
  format_norm,
  format_significant,
  format_train,
  summary_table,
)

TRAIN = {
  'step': 120,
  'loss': 3.4121,
  'grad_norm': 0.6123,
  'learning_rate': 3e-4,
  'tokens_per_second': 412_345.6,
  'tokens_per_second_per_device': 51_543.2,
  'mfu': 0.4117,
}
EVALUATION = {
  'step': 100,
  'loss': 3.31,
  'perplexity': 27.3852,
  'bits_per_byte': 1.2341,
  'improved': True,
}


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0, '0'),
    (950, '950'),
    (0.1234, '0.123'),
    (999.4, '999'),
    (999.6, '1.00k'),
    (51_543.2, '51.5k'),
    (412_345, '412k'),
    (999_499, '999k'),
    (999_999, '1.00M'),
    (1_234_567_890, '1.23B'),
    (6.5e12, '6.50T'),
    (math.nan, 'nan'),
  ],
)
def test_format_count(value, text):
  assert format_count(value) == text


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0.0, '0.00s'),
    (0.417, '0.42s'),
    (0.999, '1.0s'),
    (1.24, '1.2s'),
    (9.97, '10s'),
    (12.3, '12s'),
    (59.6, '1m 00s'),
    (75, '1m 15s'),
    (599.6, '10m'),
    (26 * 60 + 10, '26m'),
    (3_599, '1h 00m'),
    (3 * 3_600 + 5 * 60, '3h 05m'),
    (24 * 3_600 - 1, '1d 00h'),
    (52 * 3_600, '2d 04h'),
    (math.inf, '?'),
    (math.nan, '?'),
  ],
)
def test_format_duration(seconds, text):
  assert format_duration(seconds) == text


@pytest.mark.parametrize(
  ('value', 'digits', 'text'),
  [
    (12_345.6, 4, '12,350'),
    (26.184, 4, '26.18'),
    (0.0012345, 3, '0.00123'),
    (9.9996, 4, '10.00'),
    (-1.25, 2, '-1.2'),
    (1.97e14, 4, '1.970e+14'),
    (2e-6, 2, '2.0e-06'),
    (0, 3, '0'),
    (math.inf, 3, 'inf'),
  ],
)
def test_format_significant(value, digits, text):
  assert format_significant(value, digits) == text


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0.6123, '0.61'),
    (12.4, '12.40'),
    (321_000.0, '3.2e+05'),
    (0.0, '0.00'),
    (0.00012, '1.2e-04'),
    (math.nan, 'nan'),
  ],
)
def test_format_norm(value, text):
  assert format_norm(value) == text


def test_train_line():
  assert format_train(TRAIN, 5_000, 26 * 60) == (
    'step  120/5000  loss 3.412  gnorm 0.61  lr 3.0e-04'
    '  412k tok/s (51.5k/device)  MFU 41.2%  ETA 26m'
  )


def test_what_is_unknown_is_left_out_of_the_train_line():
  line = format_train(TRAIN | {'mfu': None, 'loss': math.nan}, 5_000, None)
  assert line == (
    'step  120/5000  loss nan  gnorm 0.61  lr 3.0e-04'
    '  412k tok/s (51.5k/device)'
  )


def test_an_mfu_of_zero_is_not_unknown():
  assert 'MFU 0.0%' in format_train(TRAIN | {'mfu': 0.0}, 5_000, None)


def test_evaluation_line():
  assert format_evaluation(EVALUATION, 5_000) == (
    'step  100/5000  validation loss 3.310  perplexity 27.39'
    '  bits/byte 1.234  best so far'
  )
  worse = format_evaluation(EVALUATION | {'improved': False}, 5_000)
  assert worse.endswith('bits/byte 1.234')


def test_summary_table_aligns_the_values():
  rows = [('devices', '8 x cpu'), ('mesh', 'data 2')]
  assert summary_table(rows) == '  devices  8 x cpu\n  mesh     data 2'
  assert summary_table([]) == ''


def test_elsewhere_than_on_a_terminal_there_are_plain_lines_only():
  stream = io.StringIO()
  now = [0.0]
  console = Console(5_000, 0, stream, clock=lambda: now[0])
  console.line('hello')
  console.advance(100)
  console.train_line(TRAIN | {'step': 100})
  now[0] = 10.0
  console.train_line(TRAIN | {'step': 200})
  console.evaluation_line(EVALUATION)
  console.close()
  console.close()
  lines = stream.getvalue().split('\n')
  assert lines[0] == 'hello'
  assert 'ETA' not in lines[1]
  # 100 steps in 10 seconds leave 480 seconds for 4,800 steps.
  assert lines[2].endswith('ETA 8m 00s')
  assert lines[3] == format_evaluation(EVALUATION, 5_000)
  assert lines[4:] == ['']
  assert '\r' not in stream.getvalue()


def test_a_terminal_has_a_bar_below_the_same_lines():
  stream = Terminal()
  now = [0.0]
  console = Console(5_000, 4_000, stream, clock=lambda: now[0])
  console.line('hello')
  console.train_line(TRAIN | {'step': 4_100})
  now[0] = 50.0
  console.train_line(TRAIN | {'step': 4_200})
  console.advance(4_250)
  console.close()
  text = stream.getvalue()
  assert 'hello\n' in text
  assert format_train(TRAIN | {'step': 4_200}, 5_000, 400.0) + '\n' in text
  assert '4000/5000' in text
  assert '85%' in text
  assert '4250/5000' in text
  assert 'loss 3.412, 412k tok/s, ETA 6m 40s' in text
