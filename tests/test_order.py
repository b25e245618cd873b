import numpy as np
import pytest

from input_pipeline.order import permute, row_indices


def whole(size, seed=0, epoch=0):
  return permute(np.arange(size), seed=seed, epoch=epoch, size=size)


@pytest.mark.parametrize('size', [1, 2, 3, 5, 31, 32, 33, 1_000, 4_097])
def test_every_row_once(size):
  for epoch in range(3):
    values = whole(size, epoch=epoch)
    np.testing.assert_array_equal(np.sort(values), np.arange(size))


def test_a_value_does_not_depend_on_its_company():
  all_at_once = whole(1_000, seed=7, epoch=2)
  one = [
    permute(np.array([i]), seed=7, epoch=2, size=1_000)[0] for i in range(50)
  ]
  np.testing.assert_array_equal(one, all_at_once[:50])


def test_seeds_and_epochs_give_unrelated_orders():
  orders = {
    (seed, epoch): whole(1_000, seed, epoch)
    for seed in (0, 1, 2, -1)
    for epoch in (0, 1, 2)
  }
  keys = sorted(orders)
  for i, a in enumerate(keys):
    for b in keys[i + 1 :]:
      # Two random permutations of n values agree in about one place.
      assert (orders[a] == orders[b]).sum() < 10, (a, b)


def test_small_permutations_are_equally_likely():
  counts: dict[tuple[int, ...], int] = {}
  for seed in range(2_400):
    key = tuple(whole(4, seed=seed).tolist())
    counts[key] = counts.get(key, 0) + 1
  # 100 each; the standard deviation is 10.
  assert len(counts) == 24
  assert min(counts.values()) > 50
  assert max(counts.values()) < 150


def test_order_looks_random():
  size, bits = 60_000, 16
  values, places = whole(size, seed=5), np.arange(size)
  of_place = ((places[:, None] >> np.arange(bits)) & 1).astype(float)
  of_value = ((values[:, None] >> np.arange(bits)) & 1).astype(float)
  correlation = np.corrcoef(of_place.T, of_value.T)[:bits, bits:]
  assert np.abs(correlation).max() < 4.5 / np.sqrt(size)
  lag = np.corrcoef(values[1:], values[:-1])[0, 1]
  assert abs(lag) < 4 / np.sqrt(size)
  # A share of 1 - 1/e of all differences occurs in a random permutation.
  differences = np.unique(np.diff(values) % size).size / size
  assert abs(differences - (1 - np.exp(-1))) < 0.01


def indices(step, num_rows=10, batch_size=4, start=0, stop=None, seed=3):
  return row_indices(
    step,
    seed=seed,
    batch_size=batch_size,
    num_rows=num_rows,
    row_start=start,
    row_stop=batch_size if stop is None else stop,
  )


def test_batches_are_epochs_one_after_the_other():
  stream = np.concatenate([indices(step) for step in range(10)])
  for epoch in range(4):
    expected = whole(10, seed=3, epoch=epoch)
    np.testing.assert_array_equal(stream[10 * epoch :][:10], expected)


def test_a_batch_may_hold_several_epochs():
  np.testing.assert_array_equal(
    indices(0, num_rows=3, batch_size=8),
    np.concatenate([whole(3, 3, epoch) for epoch in range(3)])[:8],
  )


@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_hosts_share_one_batch(hosts):
  share = 8 // hosts
  for step in (0, 1, 5_000_000):
    parts = [
      indices(step, batch_size=8, start=h * share, stop=(h + 1) * share)
      for h in range(hosts)
    ]
    np.testing.assert_array_equal(
      np.concatenate(parts), indices(step, batch_size=8)
    )


def test_far_steps_and_many_rows():
  found = indices(10**9, num_rows=10**11 + 3, batch_size=1_024)
  assert found.dtype == np.int64
  assert np.unique(found).size == 1_024
  assert 0 <= found.min() < found.max() < 10**11 + 3
