"""What a law was fitted to, and how far a run lies outside of it."""

import dataclasses
import math

from train.console import format_count

Range = tuple[float, float]
ANY: Range = (0.0, math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
  """Runs that a law was fitted to: lowest and highest, ANY where none is named.

  Attributes:
    parameters: as the law counts them.
    tokens: trained on.
    ratio: tokens a parameter.
    flops: of the whole training.
  """

  parameters: Range = ANY
  tokens: Range = ANY
  ratio: Range = ANY
  flops: Range = ANY

  def outside(
    self, *, parameters: float, tokens: float, flops: float
  ) -> tuple[str, ...]:
    """In what a run lies outside, a phrase each; empty where it is inside."""
    return tuple(
      _phrase(value, low, high, unit)
      for value, (low, high), unit in (
        (parameters, self.parameters, 'parameters'),
        (tokens, self.tokens, 'tokens'),
        (tokens / parameters, self.ratio, 'tokens a parameter'),
        (flops, self.flops, 'FLOPs'),
      )
      if not low <= value <= high
    )

  def below(self, *, parameters: float, tokens: float) -> bool:
    """Whether a run is smaller than all of them."""
    return parameters < self.parameters[0] or tokens < self.tokens[0]


def _phrase(value: float, low: float, high: float, unit: str) -> str:
  side = (
    f'from {format_count(low)}'
    if value < low
    else f'up to {format_count(high)}'
  )
  return f'{format_count(value)} {unit}, fitted {side}'
