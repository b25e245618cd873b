"""Axes of charts: where values lie, and which of them get a label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
  """Maps the values from `low` to `high` to 0 to 1; `log`: by logarithm."""

  low: float
  high: float
  log: bool

  def fraction(self, value: float) -> float:
    """Returns where the value lies; beyond 0 and 1 if it is outside."""
    if not self.log:
      return (value - self.low) / (self.high - self.low)
    value = max(value, self.low)
    return math.log(value / self.low) / math.log(self.high / self.low)

  def ticks(self, count: int) -> list[tuple[float, str]]:
    """Returns about `count` round values and their labels."""
    values = log_ticks(self.low, self.high) if self.log else []
    if len(values) >= 2:
      return [(value, tick_labels([value])[0]) for value in values]
    values = nice_ticks(self.low, self.high, count)
    return list(zip(values, tick_labels(values), strict=True))


def nice_ticks(low: float, high: float, count: int) -> list[float]:
  """Returns about `count` multiples of 1, 2 or 5 times a power of ten."""
  assert low < high, (low, high)
  rough = (high - low) / count
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  # Rounding turns 0.30000000000000004 into 0.3.
  return [float(f'{i * step:.12g}') for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
  """Returns the powers of ten from low to high, with 2 and 5 if few."""
  assert 0 < low < high, (low, high)
  first = math.floor(math.log10(low))
  last = math.ceil(math.log10(high))
  spread = math.log10(high / low)
  factors = (1, 2, 5) if spread < 2.5 else (1,)
  stride = 1 + int(spread // 7)
  ticks = [
    float(f'{factor}e{exponent}')
    for exponent in range(first, last + 1, stride)
    for factor in factors
  ]
  return [tick for tick in ticks if low <= tick <= high]


def tick_labels(ticks: Sequence[float]) -> list[str]:
  """Returns the ticks as text, with one unit and as many decimals for all."""
  largest = max((abs(tick) for tick in ticks), default=0.0)
  scale, suffix = 1.0, ''
  if 0 < largest < 1e-3:
    exponent = math.floor(math.log10(largest) + 1e-9)
    scale, suffix = 10.0**exponent, f'e{exponent}'
  else:
    for unit, name in ((1e3, 'k'), (1e6, 'M'), (1e9, 'B'), (1e12, 'T')):
      if largest >= 10 * unit or (unit > 1e3 and largest >= unit):
        scale, suffix = unit, name
  scaled = [tick / scale for tick in ticks]
  decimals = next(
    digits
    for digits in range(8)
    if digits == 7
    or all(abs(round(x, digits) - x) <= 1e-9 * max(1, abs(x)) for x in scaled)
  )
  return [f'{x:,.{decimals}f}{suffix}' if x else '0' for x in scaled]
