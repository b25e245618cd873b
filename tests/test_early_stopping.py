"""Early stopping on literal sequences."""

import dataclasses
import math

import pytest

from train.config import EarlyStoppingConfig
from train.early_stopping import NO_EVALUATION, Best, observe, should_stop

CONFIG = EarlyStoppingConfig(
  enabled=True, metric='loss', patience=2, min_delta=0.0
)


def follow(values, config=CONFIG):
  """The best so far and whether to stop, after each value (step 10, 20...)."""
  best, found = NO_EVALUATION, []
  for index, value in enumerate(values, 1):
    best = observe(best, value, 10 * index, config)
    found.append((best, should_stop(best, config)))
  return found


@pytest.mark.parametrize(
  ('values', 'min_delta', 'stops'),
  [
    ([3, 2, 1, 0, -1], 0.0, [False] * 5),
    ([3, 2, 2, 2], 0.0, [False, False, False, True]),
    ([3, 4, 2, 4, 2], 0.0, [False, False, False, False, True]),
    # Steps of 0.4 never fall by more than 0.5 at once, but two of them do.
    ([3, 2.6, 2.2, 1.8, 1.4], 0.5, [False] * 5),
    ([3, 2.75, 2.5, 2.0], 0.5, [False, False, True, False]),
    ([math.nan, math.nan, 1], 0.0, [False, True, False]),
    ([1, math.nan, math.nan], 0.0, [False, False, True]),
    ([math.inf, 5, math.inf], 0.0, [False, False, False]),
  ],
)
def test_when_to_stop(values, min_delta, stops):
  config = dataclasses.replace(CONFIG, min_delta=min_delta)
  assert [stop for _, stop in follow(values, config)] == stops


def test_the_best_and_the_wait():
  found = [best for best, _ in follow([3.0, 3.5, 2.0, 2.0, math.nan])]
  assert found == [
    Best(3.0, 10, 0),
    Best(3.0, 10, 1),
    Best(2.0, 30, 0),
    Best(2.0, 30, 1),
    Best(2.0, 30, 2),
  ]


def test_what_was_not_measured_is_not_the_best():
  (best, _), (after, _) = follow([math.nan, 7.0])
  assert best == Best(None, None, 1)
  assert after == Best(7.0, 20, 0)


def test_disabled_it_watches_and_never_stops():
  config = dataclasses.replace(CONFIG, enabled=False)
  found = follow([1, 2, 3, 4, 5], config)
  assert not any(stop for _, stop in found)
  assert found[-1][0] == Best(1, 10, 4)
