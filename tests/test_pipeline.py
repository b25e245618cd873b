import itertools
import subprocess
import sys

import numpy as np
import pytest
from data_configs import text_config, write_corpus

from input_pipeline import order
from input_pipeline.pipeline import train_batches, validation_batches
from input_pipeline.prepare import prepare
from input_pipeline.store import open_store
from input_pipeline.stream import Stream


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  tmp_path = tmp_path_factory.mktemp('pipeline')
  write_corpus(tmp_path)
  return open_store(prepare(text_config(tmp_path), log=lambda line: None))


def batches(store, *, start=0, end=12, batch_size=8, hosts=1, host=0, seed=1):
  share = batch_size // hosts
  return list(
    train_batches(
      Stream([store.rows('train')], seed=seed, batch_size=batch_size),
      start_step=start,
      end_step=end,
      row_start=host * share,
      row_stop=(host + 1) * share,
      prefetch=2,
    )
  )


def test_each_epoch_reads_every_row_once(store):
  rows = store.rows('train')
  every = rows.read(np.arange(len(rows)))
  steps = -(-2 * len(rows) // 8)
  stream = np.concatenate(batches(store, end=steps))
  assert stream.dtype == np.uint16
  for epoch in (0, 1):
    found = stream[epoch * len(rows) :][: len(rows)]
    permutation = order.permute(
      np.arange(len(rows)), seed=1, epoch=epoch, size=len(rows)
    )
    np.testing.assert_array_equal(found, every[permutation])


def test_a_later_start_is_a_skip(store):
  np.testing.assert_array_equal(
    batches(store, start=7, end=12), batches(store, end=12)[7:]
  )


@pytest.mark.parametrize('hosts', [2, 4])
def test_hosts_put_together_read_the_global_batch(store, hosts):
  parts = [batches(store, hosts=hosts, host=h) for h in range(hosts)]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), batches(store))


def test_seed_changes_the_order(store):
  assert not np.array_equal(batches(store, seed=1), batches(store, seed=2))


@pytest.mark.parametrize('batch_size', [4, 24, 1_000])
@pytest.mark.parametrize('hosts', [1, 4])
def test_validation_reads_every_row_once_in_order(store, batch_size, hosts):
  rows = store.rows('validation')
  share = batch_size // hosts
  parts = [
    list(
      validation_batches(
        rows,
        batch_size=batch_size,
        row_start=h * share,
        row_stop=(h + 1) * share,
        pad_id=0,
        prefetch=1,
      )
    )
    for h in range(hosts)
  ]
  assert {len(part) for part in parts} == {-(-len(rows) // batch_size)}
  stream = np.concatenate(np.concatenate(parts, axis=1))
  every = rows.read(np.arange(len(rows)))
  np.testing.assert_array_equal(stream[: len(rows)], every)
  assert (stream[len(rows) :] == 0).all()


def test_an_abandoned_iterator_does_no_harm(store):
  endless = train_batches(
    Stream([store.rows('train')], seed=1, batch_size=8),
    start_step=0,
    end_step=10**12,
    row_start=0,
    row_stop=8,
    prefetch=2,
  )
  first = list(itertools.islice(endless, 3))
  del endless
  np.testing.assert_array_equal(first, batches(store, end=3))


def test_local_preparation_needs_no_tensorflow():
  code = (
    'import sys; import input_pipeline.prepare, input_pipeline.store,'
    ' input_pipeline.tokenizer, input_pipeline.config, input_pipeline.order;'
    " assert not {'tensorflow', 'tensorflow_datasets', 'jax'} & {*sys.modules}"
  )
  subprocess.run([sys.executable, '-c', code], check=True)
