"""Random numbers that are functions of their keys."""

import numpy as np
import pytest

from input_pipeline.random_bits import Draws, chance


def draws(name='a', seed=0, step=0, first=0, rows=64):
  place_N = np.arange(first, first + rows)
  return Draws(name, seed=seed, step=step, place_N=place_N)


def test_bits_of_a_place_do_not_depend_on_their_company():
  bits_NC = draws().bits(101)
  assert bits_NC.shape == (64, 101)
  np.testing.assert_array_equal(draws().bits(33), bits_NC[:, :33])
  np.testing.assert_array_equal(
    draws(first=40, rows=7).bits(101), bits_NC[40:47]
  )


def test_bits_are_uniform_and_unrelated():
  bits_NC = draws(rows=128).bits(1_024).astype(float) / 65_536
  counts = np.histogram(bits_NC, 64, (0, 1))[0]
  expected = bits_NC.size / 64
  # Chi-square with 63 degrees of freedom: the deviation is 11.2.
  assert ((counts - expected) ** 2 / expected).sum() < 63 + 4 * 11.2
  for shift in (1, 2, 3, 4):
    for axis in (0, 1):
      rolled_NC = np.roll(bits_NC, shift, axis)
      correlation = np.corrcoef(bits_NC.ravel(), rolled_NC.ravel())[0, 1]
      assert abs(correlation) < 4.5 / np.sqrt(bits_NC.size)


@pytest.mark.parametrize(
  'other', [{'name': 'b'}, {'seed': 1}, {'step': 1}, {'first': 64}]
)
def test_any_other_key_gives_unrelated_numbers(other):
  one, two = draws().bits(512).ravel(), draws(**other).bits(512).ravel()
  correlation = np.corrcoef(one, two)[0, 1]
  assert abs(correlation) < 4.5 / np.sqrt(one.size)


def test_draws_of_rows_and_columns():
  row_P = np.arange(64).repeat(100)
  column_P = np.tile(np.arange(100), 64)
  uniform_P = draws().uniform(row_P, column_P)
  assert 0 <= uniform_P.min() < 0.01 < 0.99 < uniform_P.max() < 1
  assert np.unique(uniform_P).size == uniform_P.size
  assert not np.isin(draws().uniform(row_P, column_P, 1), uniform_P).any()
  values_P = draws().integers(row_P, column_P, 1 + column_P % 5)
  assert (values_P >= 0).all()
  assert (values_P <= column_P % 5).all()
  counts = np.bincount(values_P[column_P % 5 == 4])
  assert counts.size == 5
  assert abs(counts - counts.mean()).max() < 4 * np.sqrt(counts.mean())
  some = draws().uniform(row_P[::-7], column_P[::-7])
  np.testing.assert_array_equal(some, uniform_P[::-7])


@pytest.mark.parametrize('rate', [1e-9, 0.15, 0.5, 1 - 1e-9])
def test_chance_is_the_rate_to_within_a_bit(rate):
  assert abs(int(chance(rate)) / 65_536 - rate) <= 1 / 65_536
  assert 0 < chance(rate) < 65_536
