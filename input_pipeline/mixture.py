"""Which dataset stands at a place of the stream, as a pure function.

The places of the stream are those of batch 0, of batch 1, and so on. A dataset
of weight w is due w rows a place, and gets its next row between the place from
which it is due more than it has, and the place where it is due one whole row:
so it is never a row ahead or behind. Of those that may have the place, the one
whose time runs out first gets it: R. Tijdeman, "The chairman assignment
problem", Discrete Mathematics 32 (1980).

Weights are fractions, so the order repeats: in a stretch of equal weights there
is a head, which starts from what the stretch before left over, and then a cycle
that leaves everything as it found it. Any place is looked up there at once.

Suffixes: N places, C places of a head and a cycle, P datasets.
"""

import dataclasses
import functools
import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from input_pipeline.weights import Schedule, stretches


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stretch:
  """Places of equal weights.

  Attributes:
    start: first place.
    shares_P: rows that each dataset gives in a cycle.
    given_P: rows that each has given before.
    part_C: dataset at the places of the head and then of one cycle.
    rank_C: how many rows it gave before, in the head and the cycle.
  """

  start: int
  shares_P: np.ndarray
  given_P: np.ndarray
  part_C: np.ndarray
  rank_C: np.ndarray

  def look_up(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Datasets at places, and how many rows each gave before."""
    period = int(self.shares_P.sum())
    place_N = np.arange(start - self.start, stop - self.start)
    cycle_N = np.maximum(place_N // period - 1, 0)
    index_N = place_N - cycle_N * period
    part_N = self.part_C[index_N]
    rank_N = (
      self.given_P[part_N]
      + self.rank_C[index_N]
      + cycle_N * self.shares_P[part_N]
    )
    return part_N, rank_N

  def given_before(self, place: int) -> np.ndarray:
    """Rows that each dataset has given before a place, int64 [P]."""
    period = int(self.shares_P.sum())
    cycle = max((place - self.start) // period - 1, 0)
    rest_C = self.part_C[: place - self.start - cycle * period]
    counts_P = np.bincount(rest_C, minlength=self.shares_P.size)
    return self.given_P + cycle * self.shares_P + counts_P


class Mixture:
  """Places of the stream -> datasets.

  Args:
    names: of the datasets.
    schedules: of their weights.
    batch_size: rows of the global batch, which turns steps into places.

  Raises:
    ValueError: the weights are not possible.
  """

  def __init__(
    self,
    names: Sequence[str],
    schedules: Sequence[Schedule],
    *,
    batch_size: int,
  ) -> None:
    self.names = tuple(names)
    found = stretches(schedules, names)
    ends = [s.step * batch_size for s in found[1:]]
    due = [Fraction(0)] * len(names)
    given_P = np.zeros(len(names), np.int64)
    self._stretches: list[_Stretch] = []
    for stretch, end in zip(found, [*ends, None], strict=True):
      start, period = stretch.step * batch_size, sum(stretch.shares)
      behind = tuple(
        d - int(given) for d, given in zip(due, given_P, strict=True)
      )
      part_C, rank_C = _head_and_cycle(stretch.shares, behind)
      made = _Stretch(
        start=start,
        shares_P=np.array(stretch.shares, np.int64),
        given_P=given_P,
        part_C=part_C,
        rank_C=rank_C,
      )
      self._stretches.append(made)
      if end is not None:
        given_P = made.given_before(end)
        due = [
          d + Fraction(share * (end - start), period)
          for d, share in zip(due, stretch.shares, strict=True)
        ]

  def look_up(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """What stands at places [start, stop) of the stream.

    Returns:
      part_N, the datasets, and rank_N, how many rows that dataset gave before;
      int64 [stop - start].
    """
    bounds = [s.start for s in self._stretches[1:]]
    first = int(np.searchsorted(bounds, start, side='right'))
    last = int(np.searchsorted(bounds, stop, side='left'))
    found = [
      stretch.look_up(max(start, stretch.start), min(stop, end))
      for stretch, end in zip(
        self._stretches[first : last + 1],
        [*bounds[first:last], stop],
        strict=True,
      )
    ]
    part_N, rank_N = (np.concatenate(both) for both in zip(*found, strict=True))
    return part_N, rank_N

  def given_before(self, place: int) -> np.ndarray:
    """Rows that each dataset has given before a place, int64 [P]."""
    stretch = next(s for s in reversed(self._stretches) if s.start <= place)
    return stretch.given_before(place)


@functools.lru_cache(maxsize=256)
def _head_and_cycle(
  shares: tuple[int, ...], behind: tuple[Fraction, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """The datasets of a head and of a cycle, and how many rows each gave before.

  Args:
    shares: rows that each dataset gives in a cycle; their sum is the period.
    behind: what each was due before, less what it has given.
  """
  # Of the head more rows are offered than fit; it leaves the last ones over.
  head = _in_turn(shares, behind, [0] * len(shares), [s + 4 for s in shares])
  given = np.bincount(head, minlength=len(shares))
  # Each gives just its share from here on, and the next cycle is as this one.
  cycle = _in_turn(shares, behind, given, shares)
  part_C = np.concatenate([head, cycle])
  rank_C = np.empty_like(part_C)
  for part in range(len(shares)):
    places = np.flatnonzero(part_C == part)
    rank_C[places] = np.arange(places.size)
  return part_C, rank_C


def _in_turn(
  shares: Sequence[int],
  behind: Sequence[Fraction],
  given: Sequence[int] | np.ndarray,
  offered: Sequence[int],
) -> np.ndarray:
  """The datasets of one period, int64 [sum(shares)].

  Args:
    shares: rows that each dataset is due in a period.
    behind: rows that each was due at place 0.
    given: rows that each has given since; they say which place is the first.
    offered: rows that each may give.
  """
  period, first = sum(shares), sum(given)
  rows = [
    _rows(part, share, period, behind[part], given[part], offered[part])
    for part, share in enumerate(shares)
    if share
  ]
  ordered = sorted(itertools.chain(*rows))
  waiting: list[tuple[int, int]] = []
  chosen, taken = [], 0
  for place in range(first, first + period):
    # Where no dataset may, the one that may next does.
    while taken < len(ordered) and (ordered[taken][0] <= place or not waiting):
      heapq.heappush(waiting, ordered[taken][1:])
      taken += 1
    chosen.append(heapq.heappop(waiting)[1])
  return np.array(chosen, np.int64)


def _rows(
  part: int, share: int, period: int, behind: Fraction, given: int, offered: int
) -> Iterator[tuple[int, int, int]]:
  """For each row: its first place, the places gone when it is late, and part.

  With n places gone, a dataset is due behind + n share / period rows.
  """
  row_N = np.arange(given, given + offered) * period
  may_N = (row_N - math.ceil(behind * period)) // share
  late_N = -((math.floor(behind * period) - row_N - period) // share)
  return zip(
    may_N.tolist(), late_N.tolist(), itertools.repeat(part), strict=False
  )
