"""Mixtures of prepared datasets: their stores, batches and documents."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from data_configs import text_config

from input_pipeline.config import Part, TrainingData
from input_pipeline.pipeline import train_batches
from input_pipeline.seen import as_json, as_table, documents_of_step
from input_pipeline.store import TOKENIZER
from input_pipeline.stores import Stores, open_stores, prepare_stores
from input_pipeline.tokenizer import load_tokenizer
from input_pipeline.weights import parse_schedule
from train.data import epochs_by_name, prepared_repetition, repeats

WEIGHTS = {'code': ('0: 1', '4: 3'), 'prose': ('2',)}


def part(tmp_path, name, weights, **changes):
  data = text_config(tmp_path, files=(f'{tmp_path}/{name}/*.txt',), **changes)
  return Part(name=name, schedule=parse_schedule(weights, name), data=data)


@pytest.fixture(scope='module')
def tmp_path(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('mixed')
  for name, documents in (('code', 14), ('prose', 25)):
    (folder / name).mkdir()
    for n in range(documents):
      text = f'{name} {n}: ' + 'naïve 漢字, fox\n' * (n % 4) + 'x' * n
      (folder / name / f'{n}.txt').write_text(text)
  return folder


@pytest.fixture(scope='module')
def data(tmp_path) -> TrainingData:
  parts = [part(tmp_path, name, weights) for name, weights in WEIGHTS.items()]
  return TrainingData(parts=tuple(parts))


@pytest.fixture(scope='module')
def stores(data) -> Stores:
  prepare_stores(data, log=lambda line: None)
  return open_stores(data)


def stream(stores, **changes):
  options = {'seed': 1, 'batch_size': 8, 'repack': False} | changes
  return stores.stream(**options)


def batches(made, start, stop, host=0, hosts=1):
  share = 8 // hosts
  return list(
    train_batches(
      made,
      start_step=start,
      end_step=stop,
      row_start=host * share,
      row_stop=(host + 1) * share,
      prefetch=2,
    )
  )


def test_batches_resume_anywhere_on_any_number_of_hosts(stores):
  whole = batches(stream(stores), 0, 30)
  np.testing.assert_array_equal(batches(stream(stores), 11, 30), whole[11:])
  parts = [batches(stream(stores), 0, 30, h, 4) for h in range(4)]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_weights_that_change_later_leave_the_batches_before(stores):
  later = dataclasses.replace(
    stores,
    schedules=(
      parse_schedule((*WEIGHTS['code'], '20: 0'), 'code'),
      stores.schedules[1],
    ),
  )
  whole, changed = batches(stream(stores), 0, 30), batches(stream(later), 0, 30)
  np.testing.assert_array_equal(whole[:20], changed[:20])
  assert not np.array_equal(whole[20:], changed[20:])
  for step in range(20, 30):
    assert set(stream(later).places_of_step(step, 0, 8).part_N) == {1}


@pytest.mark.parametrize('repack', [False, True])
def test_documents_stand_where_they_are_said_to(stores, tmp_path, repack):
  made = stream(stores, repack=repack)
  tokenizer = load_tokenizer(stores.first.directory / TOKENIZER)
  named = set()
  for step in (0, 3, 4, 29):
    places = made.places_of_step(step, 0, 8)
    rows_NR, filled = made.read(places), np.zeros(8, int)
    for seen in documents_of_step(made, step, row_start=0, row_stop=8):
      text = (tmp_path / f'{seen.document}').read_text()
      tokens = [*tokenizer.encode(text), tokenizer.eos_id]
      mark = tokenizer.continue_id if seen.offset else tokenizer.bos_id
      expected = [mark, *tokens[seen.offset :][: seen.length - 1]]
      found = rows_NR[seen.row, seen.column :][: seen.length]
      assert found.tolist() == expected
      assert seen.dataset == stores.names[places.part_N[seen.row]]
      assert seen.document.startswith(f'{seen.dataset}/')
      assert seen.epoch == places.epoch_N[seen.row]
      filled[seen.row] += seen.length
      named.add(seen.dataset)
    np.testing.assert_array_equal(
      filled, (rows_NR != tokenizer.pad_id).sum(axis=1)
    )
  assert named == set(WEIGHTS)


def test_documents_are_printed_as_a_table_or_as_json(stores):
  found = list(documents_of_step(stream(stores), 3, row_start=2, row_stop=4))
  assert {seen.row for seen in found} == {2, 3}
  lines = [json.loads(line) for line in as_json(found).splitlines()]
  assert lines == [dataclasses.asdict(seen) for seen in found]
  header, *table = as_table(found).splitlines()
  assert header.split() == list(lines[0])
  assert [line.split() for line in table] == [
    [str(value) for value in line.values()] for line in lines
  ]
  alone = [dataclasses.replace(seen, dataset='') for seen in found]
  assert 'dataset' not in as_table(alone)


def test_epochs_are_counted_and_too_many_are_named(stores):
  made = stream(stores)
  rows = {
    n: len(s.rows('train'))
    for n, s in zip(stores.names, stores.stores, strict=True)
  }
  # Up to step 4 code gives a third, then three fifths; 8 rows a step.
  code = (32 / 3 + 56 * 8 * 3 / 5) / rows['code']
  prose = (32 * 2 / 3 + 56 * 8 * 2 / 5) / rows['prose']
  found = epochs_by_name(made)(60)
  assert found['epoch/code'] == pytest.approx(code, abs=1 / rows['code'])
  assert found['epoch/prose'] == pytest.approx(prose, abs=1 / rows['prose'])
  assert found['epoch'] == pytest.approx(480 / sum(rows.values()))
  assert code > 4 > prose
  (warning,) = repeats(made, 60)
  assert warning.startswith(
    f'Dataset code will be read {found["epoch/code"]:.1f} times by step 60'
  )
  assert repeats(made, 2) == []


def test_a_plan_knows_how_often_prepared_data_is_read(stores, data, tmp_path):
  run = {'seed': 1, 'batch_size': 8, 'repack': False, 'steps': 60}
  found = prepared_repetition(data, **run)
  assert [part.name for part in found] == list(stores.names)
  np.testing.assert_array_equal(
    [part.epochs for part in found], stream(stores).epochs(60)
  )
  length = stores.first.manifest.sequence_length
  assert [part.unique for part in found] == [
    length * len(store.rows('train')) for store in stores.stores
  ]
  # What the run reads is what its steps take.
  read = sum(part.unique * part.epochs for part in found)
  assert read == pytest.approx(60 * 8 * length)
  elsewhere = dataclasses.replace(
    data,
    parts=tuple(
      dataclasses.replace(
        part, data=dataclasses.replace(part.data, directory=f'{tmp_path}/none')
      )
      for part in data.parts
    ),
  )
  assert prepared_repetition(elsewhere, **run) == ()


def test_the_fingerprint_covers_every_dataset(stores, tmp_path):
  alone = Stores(
    names=('',), schedules=stores.schedules[:1], stores=stores.stores[:1]
  )
  assert alone.fingerprint == stores.first.manifest.fingerprint
  renamed = dataclasses.replace(stores, names=('code', 'text'))
  swapped = dataclasses.replace(stores, stores=stores.stores[::-1])
  found = {s.fingerprint for s in (alone, stores, renamed, swapped)}
  assert len(found) == 4


def test_different_tokenizers_cannot_be_mixed(tmp_path, data):
  tokenizer = dataclasses.replace(
    data.parts[0].data.tokenizer, special_tokens=('<|x|>',)
  )
  other = part(tmp_path, 'prose', ('1',), tokenizer=tokenizer)
  alone = TrainingData(parts=(other,))
  prepare_stores(alone, log=lambda line: None)
  mixed = TrainingData(parts=(data.parts[0], other))
  with pytest.raises(ValueError, match=r"different tokenizers.*kind='file'"):
    open_stores(mixed)
