"""Batches that a run does not read, against a list of all of them."""

import itertools

import numpy as np

from input_pipeline.left_out import batch_number, leave_out


def test_the_batches_of_the_steps_are_those_that_are_left():
  random = np.random.default_rng(3)
  for _ in range(200):
    windows, gone = (), set()
    for first, count in zip(
      random.integers(0, 60, 4), random.integers(1, 15, 4), strict=True
    ):
      windows = leave_out(windows, int(first), int(first + count - 1))
      gone |= set(range(first, first + count))
    left = [number for number in range(200) if number not in gone]
    found = [batch_number(step, windows) for step in range(100)]
    assert found == left[:100], windows
    assert list(windows) == sorted(windows)
    # Disjoint, and with something between them.
    for (first, count), (other, _) in itertools.pairwise(windows):
      assert first + count < other
