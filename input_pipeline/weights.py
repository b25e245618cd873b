"""Weights of a mixture's datasets, which may change with the step.

A schedule is written as entries, each from a step on:

  '0.7'                      always
  '0: 0.7', '8000: 0.2'      0.7, and 0.2 from step 8000 on
  '9000..10000: 0.2 -> 0'    linearly from 0.2 to 0 between these steps

Step s is the batch that follows s updates. Weights of all datasets at a step
are divided by their sum. They are exact fractions, so that rows can be counted
without rounding; a line is therefore taken in stairs.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from fractions import Fraction

# Stairs of a line, at most.
_STAIRS = 32
# Rows after which equal weights may repeat themselves: the sum of the smallest
# whole numbers in proportion. It bounds the time that a mixture takes to start.
MAX_PERIOD = 100_000

_NUMBER = r'(\d+(?:\.\d*)?|\.\d+)'
_ENTRY = re.compile(
  rf'\s*(?:(\d[\d_]*)\s*(?:\.\.\s*(\d[\d_]*)\s*)?:)?\s*{_NUMBER}'
  rf'\s*(?:->\s*{_NUMBER})?\s*'
)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The weight of one dataset.

  Attributes:
    pieces: pairs of a step and the weight from there on; the first is step 0.
    texts: the entries, as they were written.
  """

  pieces: tuple[tuple[int, Fraction], ...]
  texts: tuple[str, ...] = ()

  def at(self, step: int) -> Fraction:
    """The weight in the batch that follows `step` updates."""
    return next(w for start, w in reversed(self.pieces) if start <= step)


# Of a dataset that stands alone.
ALWAYS = Schedule(((0, Fraction(1)),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
  """Steps of equal weights.

  Attributes:
    step: the first; the next stretch ends it.
    shares: weights of the datasets as the smallest whole numbers.
  """

  step: int
  shares: tuple[int, ...]


def parse_schedule(texts: Sequence[str], field: str) -> Schedule:
  """Reads the entries of a dataset.

  Args:
    texts: entries in the order of their steps.
    field: name of the config field, for messages.

  Raises:
    ValueError: an entry cannot be read, or they are out of order.
  """
  if not texts:
    raise ValueError(f"{field} is empty; write for instance {field}=('1',)")
  pieces: list[tuple[int, Fraction]] = []
  last = -1
  for text in texts:
    entry = _parse_entry(text, field)
    start = entry[0][0]
    if not pieces and start:
      raise ValueError(
        f'{field} begins at step {start} with {text!r}; say what the weight is'
        f" from step 0 on, for instance ('0: 0', {text!r})"
      )
    if start <= last:
      raise ValueError(
        f'{field}: {text!r} begins at step {start}, and the entry before it at'
        f' step {last}; order the entries by their steps'
      )
    # A line ends where the next entry begins.
    pieces = [piece for piece in pieces if piece[0] < start] + entry
    last = start
  return Schedule(tuple(pieces), tuple(texts))


def stretches(
  schedules: Sequence[Schedule], names: Sequence[str]
) -> tuple[Stretch, ...]:
  """Steps of equal weights, one after the other; the last has no end.

  Args:
    schedules: of the datasets.
    names: of the datasets, for messages.

  Raises:
    ValueError: all weights are 0 at some step, or they have so many digits
      that they repeat too late.
  """
  steps = sorted({step for s in schedules for step, _ in s.pieces})
  found: list[Stretch] = []
  for step in steps:
    weights = [schedule.at(step) for schedule in schedules]
    if not any(weights):
      raise ValueError(
        f'data.mixture: the weights of {", ".join(names)} are all 0 at step'
        f' {step}; give one of them a weight'
      )
    unit = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * unit) for weight in weights]
    divisor = math.gcd(*whole)
    shares = tuple(share // divisor for share in whole)
    if sum(shares) > MAX_PERIOD:
      listed = ', '.join(
        f'{name} {float(weight):g}'
        for name, weight in zip(names, weights, strict=True)
      )
      raise ValueError(
        f'data.mixture: the weights at step {step} ({listed}) are {shares} of'
        f' {sum(shares):,} rows; at most {MAX_PERIOD:,} are possible: write'
        ' them with fewer digits'
      )
    if not found or found[-1].shares != shares:
      found.append(Stretch(step=step, shares=shares))
  return tuple(found)


def _parse_entry(text: str, field: str) -> list[tuple[int, Fraction]]:
  match = _ENTRY.fullmatch(text)
  start, stop, first, last = match.groups() if match else (None,) * 4
  if first is None or (stop is None) != (last is None):
    raise ValueError(
      f"{field}: cannot read {text!r}; write '0.7' (always), '8000: 0.7' (from"
      " that step on) or '9000..10000: 0.7 -> 0.2' (linearly)"
    )
  begin = int(start or 0)
  if stop is None or last is None:
    return [(begin, Fraction(first))]
  length = int(stop) - begin
  if length < 1:
    raise ValueError(
      f'{field}: {text!r} goes from step {begin} to step {int(stop)}; the'
      ' second must be the later one'
    )
  return _stairs(begin, length, Fraction(first), Fraction(last))


def _stairs(
  begin: int, length: int, first: Fraction, last: Fraction
) -> list[tuple[int, Fraction]]:
  """Each stair has the weight of the line in its middle, in four digits."""
  high = max(first, last) or Fraction(1)
  unit = Fraction(1, 1_000)
  while high < 1_000 * unit:
    unit /= 10
  while high >= 10_000 * unit:
    unit *= 10
  stairs = min(length, _STAIRS)
  pieces = []
  for stair in range(stairs):
    middle = first + (last - first) * Fraction(2 * stair + 1, 2 * stairs)
    pieces.append(
      (begin + length * stair // stairs, round(middle / unit) * unit)
    )
  return [*pieces, (begin + length, last)]
