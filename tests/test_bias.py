import math

import numpy as np
import pytest

from input_pipeline.curation.bias import (
  concentration,
  ratio_within_sources,
  removal_disparity,
)


def disparity(documents, removed, mentioning, both):
  return removal_disparity(
    documents=documents,
    removed=removed,
    mentioning=mentioning,
    mentioning_removed=both,
  )


def test_the_ratio_compares_rates():
  found = disparity(1000, 100, 50, 10)
  assert found.ratio == pytest.approx((10 / 50) / (100 / 1000))
  assert found.low < found.ratio < found.high
  assert (found.low, found.high) == pytest.approx((1.1430, 3.2107), abs=1e-3)


def binomial(n, p):
  return np.array(
    [math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(n + 1)]
  )


def coverage(mentioning, others, p, q):
  """How probable it is that the interval holds the truth, exactly."""
  n = mentioning + others
  truth = p * n / (mentioning * p + others * q)
  total = held = 0.0
  for x, chance_x in enumerate(binomial(mentioning, p)):
    for y, chance_y in enumerate(binomial(others, q)):
      chance = chance_x * chance_y
      if x + y and chance > 1e-7:
        found = disparity(n, x + y, mentioning, x)
        total += chance
        held += chance * (found.low <= truth <= found.high)
  assert total > 0.9
  return held / total


@pytest.mark.parametrize(
  ('mentioning', 'others', 'p', 'q'),
  [
    (20, 60, 0.3, 0.3),
    (20, 60, 0.5, 0.1),
    (8, 90, 0.1, 0.3),
    (70, 10, 0.2, 0.4),
    (40, 40, 0.05, 0.1),
  ],
)
def test_the_interval_covers_the_truth_where_counts_are_small(
  mentioning, others, p, q
):
  assert 0.93 < coverage(mentioning, others, p, q) < 0.985


@pytest.mark.parametrize(
  'probabilities',
  [
    (0.06, 0.14, 0.14, 0.66),  # a fifth mentions the group; ratio 1.5
    (0.3, 0.3, 0.1, 0.3),  # more than half do; ratio 1.25
    (0.01, 0.09, 0.19, 0.71),  # removed half as often
    (0.05, 0.2, 0.15, 0.6),  # alike
  ],
)
def test_the_interval_covers_the_truth_in_95_of_100_samples(probabilities):
  assert sampled(probabilities, ours) == pytest.approx(0.95, abs=0.015)


def test_an_interval_for_separate_samples_would_be_too_wide():
  assert sampled((0.3, 0.3, 0.1, 0.3), katz) > 0.99


def sampled(probabilities, interval):
  """Fraction of samples of four cells whose interval holds the true ratio.

  It is that of the true rates of removal, for the share that the group has in
  the sample.
  """
  rng = np.random.default_rng(0)
  both, only_group, only_removed, neither = probabilities
  p = both / (both + only_group)
  q = only_removed / (only_removed + neither)
  samples = rng.multinomial(2000, probabilities, size=2000).tolist()
  hits = 0
  for a, b, c, d in samples:
    low, high = interval(a + b + c + d, a + c, a + b, a)
    share = (a + b) / 2000
    hits += low <= p / (share * p + (1 - share) * q) <= high
  return hits / len(samples)


def ours(*counts):
  found = disparity(*counts)
  return found.low, found.high


def katz(n, r, m, a):
  """For two separate samples, which a group and the total are not."""
  margin = 1.96 * math.sqrt(1 / a - 1 / m + 1 / r - 1 / n)
  ratio = a * n / (m * r)
  return ratio * math.exp(-margin), ratio * math.exp(margin)


def test_few_removed_documents_say_little():
  # That all three mention the group, or that none does, may be chance.
  every = disparity(3000, 3, 1000, 3)
  assert every.ratio == every.high == 3
  assert 0.9 < every.low < 1.5
  none = disparity(3000, 3, 1000, 0)
  assert none.ratio == none.low == 0
  assert 1.5 < none.high < 2.1
  one = disparity(3000, 1, 1000, 1)
  assert 0.3 < one.low < 0.9


def test_what_all_mention_has_a_ratio_of_exactly_one():
  found = disparity(90, 30, 90, 30)
  assert (found.ratio, found.low, found.high) == (1, 1, 1)


def test_where_all_are_removed_groups_are_alike():
  found = disparity(90, 90, 30, 30)
  assert found.ratio == 1
  assert 0.8 < found.low < 1 < found.high < 1.2


@pytest.mark.parametrize('counts', [(0, 0, 0, 0), (10, 0, 5, 0), (10, 5, 0, 0)])
def test_what_cannot_be_estimated_is_none(counts):
  found = disparity(*counts)
  assert (found.ratio, found.low, found.high) == (None, None, None)


def test_impossible_counts_are_refused():
  for counts in ((10, 5, 5, 6), (10, 8, 8, 2)):
    with pytest.raises(AssertionError):
      disparity(*counts)


def test_a_difference_between_sources_is_not_one_between_groups():
  # Half of one source is removed and a tenth of the other, whoever it mentions.
  strata = [(1000, 500, 800, 400), (1000, 100, 100, 10)]
  assert disparity(*map(sum, zip(*strata, strict=True))).low > 1.4
  assert ratio_within_sources(strata) == pytest.approx(1)
  assert ratio_within_sources([(1000, 100, 100, 20), (0, 0, 0, 0)]) == 2
  assert ratio_within_sources([(10, 0, 5, 0)]) is None


def test_the_effective_number_of_sources():
  equal = concentration([7, 7, 7, 0])
  assert equal.exp_entropy == pytest.approx(3)
  assert equal.inverse_simpson == pytest.approx(3)
  uneven = concentration([90, 5, 5])
  assert uneven.inverse_simpson == pytest.approx(1 / (0.81 + 2 * 0.0025))
  entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.05))
  assert uneven.exp_entropy == pytest.approx(math.exp(entropy))
  assert concentration([]).exp_entropy is None
  assert concentration([0]).inverse_simpson is None
