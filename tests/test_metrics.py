import json
import math
import os
import struct
import subprocess
import sys

import pytest
from etils import epath

from train import metrics
from train.metrics import MetricsWriter, read_metrics, records_until


def ticking():
  now = [1_000.0]

  def clock():
    now[0] += 1.0
    return now[0]

  return clock


def write_run(workdir, start, stop, resume_step, clock=None):
  """One process that trains from step `start` to `stop`."""
  with MetricsWriter(
    workdir,
    tensorboard=False,
    resume_step=resume_step,
    clock=clock or ticking(),
  ) as writer:
    writer.write('session', start, resumed=resume_step is not None)
    for step in range(start + 1, stop + 1):
      writer.write('train', step, loss=10.0 / step)
      if step % 3 == 0:
        writer.write('evaluation', step, loss=11.0 / step, improved=True)
        writer.write('checkpoint', step, seconds=0.5)
        writer.write('event', step, message=f'at {step}')
        writer.write('time', step, total=float(step - start))


def test_records_come_back_as_written_with_their_keys_in_order(tmp_path):
  with MetricsWriter(
    tmp_path / 'new' / 'run',
    tensorboard=False,
    resume_step=None,
    clock=lambda: 12.34567,
  ) as writer:
    writer.write('train', 7, loss=2.5, mfu=None, tokens=3)
    writer.write('session', 7, mesh={'data': 2}, axes=[1, 2], devices='ü')
  first, second = read_metrics(tmp_path / 'new' / 'run')
  assert list(first) == ['kind', 'step', 'time', 'loss', 'mfu', 'tokens']
  assert first == {
    'kind': 'train',
    'step': 7,
    'time': 12.346,
    'loss': 2.5,
    'mfu': None,
    'tokens': 3,
  }
  assert second['mesh'] == {'data': 2}
  assert second['axes'] == [1, 2]
  assert second['devices'] == 'ü'


def test_numbers_that_json_lacks_stay_valid_json_and_come_back(tmp_path):
  with MetricsWriter(tmp_path, tensorboard=False, resume_step=None) as writer:
    writer.write(
      'train', 1, loss=math.nan, norm=math.inf, deep={'low': [-math.inf]}
    )

  def refuse(name):
    raise AssertionError(f'{name} is no JSON')

  text = (tmp_path / 'metrics.jsonl').read_text()
  json.loads(text, parse_constant=refuse)
  (record,) = read_metrics(tmp_path)
  assert math.isnan(record['loss'])
  assert record['norm'] == math.inf
  assert record['deep'] == {'low': [-math.inf]}
  # A restart rewrites the file, and must not lose them either.
  with MetricsWriter(tmp_path, tensorboard=False, resume_step=1):
    pass
  assert (tmp_path / 'metrics.jsonl').read_text() == text


def test_every_record_can_be_read_before_the_writer_closes(tmp_path):
  with MetricsWriter(tmp_path, tensorboard=False, resume_step=None) as writer:
    for step in range(1, 4):
      writer.write('train', step, loss=1.0)
      assert [r['step'] for r in read_metrics(tmp_path)] == list(
        range(1, step + 1)
      )
    writer.close()


def test_a_value_that_is_no_plain_number_leaves_no_half_line(tmp_path):
  with MetricsWriter(tmp_path, tensorboard=False, resume_step=None) as writer:
    writer.write('train', 1, loss=1.0)
    with pytest.raises(TypeError):
      writer.write('train', 2, loss=object())
    writer.write('train', 3, loss=1.0)
  assert [record['step'] for record in read_metrics(tmp_path)] == [1, 3]


def test_a_file_cut_at_any_byte_reads_as_a_prefix_and_can_go_on(tmp_path):
  write_run(tmp_path, 0, 3, None)
  path = tmp_path / 'metrics.jsonl'
  whole, records = path.read_bytes(), read_metrics(tmp_path)
  for cut in range(len(whole) + 1):
    path.write_bytes(whole[:cut])
    kept = read_metrics(tmp_path)
    assert kept == records[: len(kept)]
    # The line end may be missing, the record is whole without it.
    complete = whole[:cut].count(b'\n')
    assert complete <= len(kept) <= complete + 1
    if cut % 10 == 0:
      with MetricsWriter(tmp_path, tensorboard=False, resume_step=3) as writer:
        writer.write('train', 4, loss=0.0)
      assert read_metrics(tmp_path)[:-1] == kept
      assert path.read_bytes().endswith(b'\n')


@pytest.mark.parametrize('bad', ['{"kind": "tra', '[]', '{"step": 1}', ''])
def test_a_bad_line_that_a_crash_cannot_explain_is_an_error(tmp_path, bad):
  write_run(tmp_path, 0, 2, None)
  path = tmp_path / 'metrics.jsonl'
  lines = path.read_text().splitlines()
  path.write_text('\n'.join([lines[0], bad, *lines[2:]]) + '\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl, line 2 '):
    read_metrics(tmp_path)
  path.write_text('\n'.join([*lines, bad]) + '\n')
  with pytest.raises(ValueError, match=f'line {len(lines) + 1} '):
    read_metrics(tmp_path)


def test_a_directory_without_a_run_says_what_to_do(tmp_path):
  with pytest.raises(ValueError, match=r'main\.py .*--workdir'):
    read_metrics(tmp_path)


def without_sessions(records):
  return [
    {key: value for key, value in record.items() if key != 'time'}
    for record in records
    if record['kind'] not in ('session', 'time')
  ]


@pytest.mark.parametrize('crash', [3, 5, 6, 8])
def test_a_resumed_run_leaves_the_records_of_an_uninterrupted_one(
  tmp_path, crash
):
  write_run(tmp_path / 'whole', 0, 9, None)
  write_run(tmp_path / 'parts', 0, crash, None)
  with open(tmp_path / 'parts' / 'metrics.jsonl', 'ab') as file:
    file.write(b'{"kind": "train", "st')
  write_run(tmp_path / 'parts', 3, 9, 3)
  parts = read_metrics(tmp_path / 'parts')
  whole = read_metrics(tmp_path / 'whole')
  assert without_sessions(parts) == without_sessions(whole)
  assert [r['step'] for r in parts if r['kind'] == 'session'] == [0, 3]
  # The time that the first process spent stays, though its steps are redone.
  spent = [r['step'] for r in parts if r['kind'] == 'time']
  assert spent == [step for step in (3, 6) if step <= crash] + [6, 9]


def test_a_run_from_the_beginning_keeps_only_sessions_and_time(tmp_path):
  write_run(tmp_path, 0, 4, None)
  with MetricsWriter(tmp_path, tensorboard=False, resume_step=None):
    pass
  kinds = {record['kind'] for record in read_metrics(tmp_path)}
  assert kinds == {'session', 'time'}


def test_records_of_the_resume_step_itself_stay():
  records = [{'kind': 'train', 'step': step} for step in (0, 4, 5)]
  assert [r['step'] for r in records_until(records, 4)] == [0, 4]


def test_a_crash_while_records_are_dropped_loses_nothing(tmp_path, monkeypatch):
  write_run(tmp_path, 0, 4, None)
  before = (tmp_path / 'metrics.jsonl').read_bytes()

  def crash(source, target):
    raise OSError('power cut')

  monkeypatch.setattr(os, 'replace', crash)
  with pytest.raises(OSError, match='power cut'):
    MetricsWriter(tmp_path, tensorboard=False, resume_step=2)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_an_object_store_gets_whole_files_now_and_then(tmp_path):
  now = [0.0]
  path = epath.Path(tmp_path / 'metrics.jsonl')
  lines = metrics._RemoteLines(path, ['a\n'], lambda: now[0])
  assert path.read_text() == 'a\n'
  lines.append('b\n', urgent=False)
  assert path.read_text() == 'a\n'
  now[0] = metrics.REMOTE_INTERVAL
  lines.append('c\n', urgent=False)
  assert path.read_text() == 'a\nb\nc\n'
  lines.append('d\n', urgent=True)
  assert path.read_text() == 'a\nb\nc\nd\n'
  lines.append('e\n', urgent=False)
  lines.close()
  lines.close()
  assert path.read_text() == 'a\nb\nc\nd\ne\n'


def read_events(directory):
  """Returns (tag, step, value) and the steps from which a purge was asked."""
  from tensorboardX.proto.event_pb2 import Event

  scalars, purges = [], []
  for path in sorted(directory.iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack_from('<Q', data)
      event = Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]
      if event.HasField('session_log'):
        purges.append(event.step)
      for value in event.summary.value:
        scalars.append((value.tag, event.step, value.simple_value))
  return scalars, purges


def test_tensorboard_gets_the_numbers_of_train_and_evaluation(tmp_path):
  with MetricsWriter(tmp_path, tensorboard=True, resume_step=None) as writer:
    writer.write('session', 0, parameters=10)
    writer.write('train', 1, loss=2.5, mfu=None, tokens=64)
    writer.write('evaluation', 1, loss=3.5, improved=True)
    writer.write('checkpoint', 1, seconds=0.5)
  scalars, purges = read_events(tmp_path / 'tensorboard')
  assert scalars == [
    ('train/loss', 1, 2.5),
    ('train/tokens', 1, 64.0),
    ('evaluation/loss', 1, 3.5),
  ]
  assert purges == []


def test_quick_restarts_keep_the_events_and_ask_for_a_purge(tmp_path):
  for start, resume in ((0, None), (4, 4), (6, 6)):
    with MetricsWriter(
      tmp_path, tensorboard=True, resume_step=resume
    ) as writer:
      writer.write('train', start + 1, loss=1.0)
  scalars, purges = read_events(tmp_path / 'tensorboard')
  assert sorted(step for _, step, _ in scalars) == [1, 5, 7]
  # TensorBoard hides this step and what follows.
  assert sorted(purges) == [5, 7]


def test_metrics_console_and_report_need_no_jax_nor_tensorflow():
  code = (
    'import sys, train.metrics, train.console, train.report;'
    'print({"jax", "tensorflow", "ml_collections", "model", "input_pipeline"}'
    ' & set(sys.modules))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == 'set()'
