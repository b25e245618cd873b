"""Who gets which place of the stream, and which rows stand there."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import order
from input_pipeline.mixture import Mixture
from input_pipeline.stream import Stream
from input_pipeline.weights import MAX_PERIOD, parse_schedule, stretches

FEW = settings(derandomize=True, max_examples=30, deadline=None)
DECIMALS = st.integers(0, 999).map(lambda n: f'{n / 1_000:.3f}')


def schedules(*datasets):
  return [parse_schedule(texts, 'weights') for texts in datasets]


def mixture(*datasets, batch_size=1):
  names = [f'd{n}' for n in range(len(datasets))]
  return Mixture(names, schedules(*datasets), batch_size=batch_size)


def due(datasets, stop, batch_size):
  """Rows that each dataset is due after 1 to `stop` places, [stop, P]."""
  found = schedules(*datasets)
  due_P, lines = [Fraction(0)] * len(found), []
  for place in range(stop):
    weights = [s.at(place // batch_size) for s in found]
    due_P = [d + w / sum(weights) for d, w in zip(due_P, weights, strict=True)]
    lines.append([float(d) for d in due_P])
  return np.array(lines)


def furthest_off(datasets, stop, batch_size=1):
  part_N, _ = mixture(*datasets, batch_size=batch_size).look_up(0, stop)
  given_NP = np.cumsum(part_N[:, None] == np.arange(len(datasets)), axis=0)
  return np.abs(given_NP - due(datasets, stop, batch_size)).max()


@FEW
@given(
  st.lists(
    DECIMALS | st.integers(0, 9).map(str), min_size=1, max_size=6
  ).filter(lambda weights: any(map(float, weights)))
)
def test_no_dataset_is_ever_a_row_off(weights):
  assert furthest_off([(w,) for w in weights], 1_000) < 1 - 1e-9


def test_small_weights_are_not_rounded():
  weights = [(w,) for w in ('0.5', '0.3', '0.15', '0.04', '0.0077', '0.0023')]
  assert furthest_off(weights, 5_000) < 1
  part_N, _ = mixture(*weights).look_up(0, 3 * 10_000)
  np.testing.assert_array_equal(
    np.bincount(part_N), [15_000, 9_000, 4_500, 1_200, 231, 69]
  )


@st.composite
def changing(draw, datasets):
  steps = sorted(draw(st.sets(st.integers(1, 50), max_size=4)))
  rows = [
    draw(st.lists(st.integers(0, 9), min_size=datasets, max_size=datasets))
    for _ in [0, *steps]
  ]
  rows = [row if any(row) else [1] * datasets for row in rows]
  return [
    tuple(
      f'{step}: {row[n]}' for step, row in zip([0, *steps], rows, strict=True)
    )
    for n in range(datasets)
  ]


@FEW
@given(st.integers(2, 3).flatmap(changing), st.integers(1, 9))
def test_nor_where_weights_change(datasets, batch_size):
  assert furthest_off(datasets, 60 * batch_size, batch_size) < 1 + 1e-9


@FEW
@given(changing(6), st.integers(1, 9))
def test_errors_of_changes_do_not_add_up(datasets, batch_size):
  # Four datasets may all be due when they become the only ones.
  assert furthest_off(datasets, 60 * batch_size, batch_size) < 2


@FEW
@given(changing(3), st.integers(1, 9))
def test_a_dataset_of_weight_0_gives_nothing(datasets, batch_size):
  found = schedules(*datasets)
  part_N, _ = mixture(*datasets, batch_size=batch_size).look_up(
    0, 60 * batch_size
  )
  for place, part in enumerate(part_N.tolist()):
    assert found[part].at(place // batch_size) > 0


@FEW
@given(changing(3), st.integers(1, 9), st.integers(0, 400), st.integers(0, 90))
def test_any_places_are_looked_up_at_once(datasets, batch_size, start, count):
  made = mixture(*datasets, batch_size=batch_size)
  part_N, rank_N = made.look_up(0, 500)
  found = made.look_up(start, start + count)
  np.testing.assert_array_equal(
    found, [part_N[start:][:count], rank_N[start:][:count]]
  )
  for part in range(3):
    # Each row of a dataset once, in turn.
    ranks = rank_N[part_N == part]
    np.testing.assert_array_equal(ranks, np.arange(ranks.size))
  np.testing.assert_array_equal(
    made.given_before(start), np.bincount(part_N[:start], minlength=3)
  )


def test_far_places_are_as_exact_as_near_ones():
  made = mixture(('0.7', '1000: 0.2'), ('0.2',), ('0.1', '1000: 0.3'))
  far = 5_000_000 * 1_024
  given_P = made.given_before(far)
  assert given_P.sum() == far
  for given_rows, first, later in zip(
    given_P.tolist(), (7, 2, 1), (2, 2, 3), strict=True
  ):
    assert abs(given_rows - 100 * first - (far - 1_000) * later / 7) < 1
  part_N, rank_N = made.look_up(far, far + 64)
  for part in range(3):
    ranks = rank_N[part_N == part]
    np.testing.assert_array_equal(ranks, given_P[part] + np.arange(ranks.size))


@FEW
@given(changing(3), st.integers(51, 60), st.integers(0, 9))
def test_a_later_entry_leaves_what_came_before(datasets, step, weight):
  changed = [(*datasets[0], f'{step}: {weight + 1}'), *datasets[1:]]
  before = mixture(*datasets, batch_size=7)
  after = mixture(*changed, batch_size=7)
  np.testing.assert_array_equal(
    before.look_up(0, 7 * step), after.look_up(0, 7 * step)
  )


@FEW
@given(changing(3), st.integers(51, 60), st.integers(0, 3))
def test_a_dataset_may_join_later(datasets, step, index):
  joined = list(datasets)
  joined.insert(index, ('0', f'{step}: 2'))
  before_N, rank_N = mixture(*datasets, batch_size=7).look_up(0, 7 * step)
  after_N, same_N = mixture(*joined, batch_size=7).look_up(0, 7 * step)
  np.testing.assert_array_equal(before_N + (before_N >= index), after_N)
  np.testing.assert_array_equal(rank_N, same_N)


def test_a_line_is_followed_in_stairs():
  datasets = ('0: 0.2', '100..900: 0.2 -> 0'), ('0: 0.8', '100..900: 0.8 -> 1')
  falling = schedules(*datasets)[0]
  assert falling.at(99) == Fraction(1, 5)
  assert falling.at(900) == 0
  for step in range(100, 900):
    assert abs(falling.at(step) - (900 - step) / 4_000) < 0.2 / 32
  assert furthest_off(datasets, 4_000, batch_size=4) < 1
  given_P = mixture(*datasets, batch_size=4).given_before(4_000)
  # 100 steps of 0.2, then half of that for 800.
  assert abs(given_P[0] - 4 * (20 + 80)) < 1


def test_a_line_may_be_cut_off():
  whole = schedules(('0..100: 0 -> 1',))[0]
  cut = schedules(('0..100: 0 -> 1', '50: 0.25'))[0]
  assert all(cut.at(step) == whole.at(step) for step in range(50))
  assert cut.at(50) == cut.at(10**9) == Fraction(1, 4)
  assert cut.pieces[-1][0] == 50


@pytest.mark.parametrize(
  ('texts', 'message'),
  [
    ((), r"weights is empty; write for instance weights=\('1',\)"),
    (('much',), r"weights: cannot read 'much'; write '0\.7' \(always\)"),
    (('-1',), 'cannot read'),
    (('5: 1 -> 2',), 'cannot read'),
    (('0..5: 1',), 'cannot read'),
    (('5: 1',), r"begins at step 5 with '5: 1'; say .*\('0: 0', '5: 1'\)"),
    (
      ('1', '0: 2'),
      "'0: 2' begins at step 0, and the entry before it at step 0",
    ),
    (('1', '9: 2', '8: 1'), 'order the entries by their steps'),
    (
      ('1', '9..9: 1 -> 2'),
      'from step 9 to step 9; the second must be the later',
    ),
  ],
)
def test_a_schedule_that_cannot_be_read_is_named(texts, message):
  with pytest.raises(ValueError, match=message):
    parse_schedule(texts, 'weights')


def test_impossible_weights_are_named():
  with pytest.raises(ValueError, match='weights of a, b are all 0 at step 9'):
    stretches(schedules(('1', '9: 0'), ('0',)), 'ab')
  fine = 1 / MAX_PERIOD
  stretches(schedules((f'{fine:.5f}',), (f'{1 - fine:.5f}',)), 'ab')
  with pytest.raises(ValueError, match=r'\(1, 100000\) of 100,001 rows'):
    stretches(schedules((f'{fine:.5f}',), ('1',)), 'ab')


class Numbers:
  """Rows that hold their dataset and their index."""

  row_length, dtype = 2, np.dtype('<u2')

  def __init__(self, size, dataset=0):
    self.dataset, self.epoch_rows = dataset, (size,)

  def read(self, indices_N, epoch_N=None):
    del epoch_N
    rows = [np.full_like(indices_N, self.dataset), indices_N]
    return np.stack(rows, axis=1).astype(self.dtype)


def stream(*datasets, sizes=(50, 50, 30), seed=3, batch_size=8):
  return Stream(
    [Numbers(size, n) for n, size in enumerate(sizes[: len(datasets)])],
    seed=seed,
    batch_size=batch_size,
    names=[f'd{n}' for n in range(len(datasets))],
    schedules=schedules(*datasets),
  )


def test_one_dataset_is_read_as_without_a_mixture():
  alone = Stream([Numbers(50)], seed=3, batch_size=8)
  for step in (0, 6, 5_000_000):
    places = alone.places_of_step(step, 2, 8)
    expected = order.row_indices(
      step, seed=3, batch_size=8, num_rows=50, row_start=2, row_stop=8
    )
    np.testing.assert_array_equal(places.row_N, expected)
    np.testing.assert_array_equal(
      places.epoch_N, (8 * step + np.arange(2, 8)) // 50
    )
    np.testing.assert_array_equal(alone.read(places)[:, 1], expected)


MIXED = (('0.5', '20: 0.1'), ('0.3',), ('0.2', '9..30: 0.2 -> 0.6'))


@pytest.mark.parametrize('hosts', [1, 2, 4, 8])
def test_hosts_share_one_mixed_batch(hosts):
  share = 8 // hosts
  mixed = stream(*MIXED)
  for step in (0, 9, 20, 21, 5_000_000):
    whole = mixed.read(mixed.places_of_step(step, 0, 8))
    parts = [
      mixed.read(mixed.places_of_step(step, h * share, (h + 1) * share))
      for h in range(hosts)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_each_dataset_has_its_epochs():
  mixed = stream(*MIXED)
  steps = [mixed.places_of_step(step, 0, 8) for step in range(60)]
  part_N, row_N, epoch_N = (
    np.concatenate([getattr(p, field) for p in steps])
    for field in ('part_N', 'row_N', 'epoch_N')
  )
  for part, size in enumerate((50, 50, 30)):
    rows, epochs = row_N[part_N == part], epoch_N[part_N == part]
    np.testing.assert_array_equal(epochs, np.arange(rows.size) // size)
    for epoch in range(rows.size // size):
      assert set(rows[epochs == epoch]) == set(range(size))
    read = mixed.epochs(60)[part]
    assert read == rows.size / size
  first, second = (row_N[(part_N == n) & (epoch_N == 0)] for n in (0, 1))
  assert (first == second).sum() < 10
  assert (mixed.read(steps[7])[:, 0] == steps[7].part_N).all()
  assert (mixed.read(steps[7])[:, 1] == steps[7].row_N).all()


def test_batches_may_be_long():
  long = stream(('0.9',), ('0.1',), sizes=(7_000, 900), batch_size=10_000)
  short = stream(('0.9',), ('0.1',), sizes=(7_000, 900), batch_size=1_000)
  found = long.places_of_step(1, 0, 10_000)
  parts = [short.places_of_step(step, 0, 1_000) for step in range(10, 20)]
  for field in ('part_N', 'row_N', 'epoch_N'):
    np.testing.assert_array_equal(
      getattr(found, field), np.concatenate([getattr(p, field) for p in parts])
    )


def test_datasets_seeds_and_epochs_share_no_order():
  orders = {
    (name, seed, epoch): order.permute(
      np.arange(1_000), seed=seed, epoch=epoch, size=1_000, name=name
    )
    for name in ('', 'a', 'b')
    for seed in (0, 1)
    for epoch in (0, 1)
  }
  found = list(orders.values())
  for n, one in enumerate(found):
    for other in found[n + 1 :]:
      assert (one == other).sum() < 10


def test_the_order_of_older_runs_stays():
  values = order.permute(np.arange(8), seed=0, epoch=0, size=1_000)
  assert values.tolist() == [36, 100, 516, 38, 920, 988, 787, 702]
