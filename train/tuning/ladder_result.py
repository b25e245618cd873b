"""What came of a ladder."""

import dataclasses
from typing import Any

from train.console import format_count
from train.tuning.ladder import Rung
from train.tuning.scaling_fit import COVERAGE, WIDEST, Fit, Forecast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
  """A rung that was trained.

  Attributes:
    rung: as it was planned.
    loss: on the validation split after the last step, in nats a token.
    epochs: how often it read its data.
    seconds: that its last process took.
  """

  rung: Rung
  loss: float
  epochs: float
  seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """All rungs, the law, and the loss that it forecasts.

  Attributes:
    name: of the ladder's folder.
    done: the rungs, the cheapest first.
    fitted: the law.
    forecast: of the run that the ladder is for.
    target_flops: of that run.
    remarks: what to know before one relies on it.
  """

  name: str
  done: tuple[Done, ...]
  fitted: Fit
  forecast: Forecast
  target_flops: float
  remarks: tuple[str, ...]

  @property
  def reach(self) -> float:
    """FLOPs of the run over those of the largest rung."""
    return self.target_flops / max(d.rung.flops for d in self.done)

  @property
  def refusal(self) -> str:
    """Why the forecast is of no use."""
    found = self.forecast
    return (
      f'The ladder does not tell the loss of {found.parameters:,.0f} '
      f'parameters: the {COVERAGE:.0%} interval, {found.low:.3f} to '
      f'{found.high:.3f}, is {(found.high - found.low) / found.loss:.0%} of '
      f'the loss of {found.loss:.3f}, and more than {WIDEST:.0%} says nothing. '
      f'The run takes {self.reach:,.1f} times the FLOPs of the largest rung, '
      f'and rungs lie {self.fitted.noise:.2%} off the law: give the ladder '
      'more, or more --sizes.'
    )

  def law_text(self) -> str:
    """The formula."""
    law = self.fitted.law
    terms = [
      f'{format_count(factor)} / {name}^{exponent:.3f}'
      for name, factor, exponent in zip(
        'ND', law.factors, law.exponents, strict=False
      )
    ]
    return f'{law.irreducible:.3f} + ' + ' + '.join(terms)

  def as_json(self) -> dict[str, Any]:
    """Without the laws of the bootstrap."""
    fitted = self.fitted
    terms = range(len(fitted.law.factors))
    return {
      'runs': [
        {
          'name': d.rung.name,
          'parameters': d.rung.parameters,
          'tokens': d.rung.tokens,
          'loss': d.loss,
          'law': fitted.law.loss(d.rung.parameters, d.rung.tokens),
          'epochs': d.epochs,
          'seconds': d.seconds,
        }
        for d in self.done
      ],
      'law': dataclasses.asdict(fitted.law),
      'intervals': {
        'irreducible': fitted.interval('irreducible'),
        'exponents': [fitted.interval('exponents', k) for k in terms],
      },
      'noise': fitted.noise,
      'forecast': dataclasses.asdict(self.forecast)
      | {'coverage': COVERAGE, 'says_nothing': self.forecast.says_nothing},
      'reach': self.reach,
      'remarks': list(self.remarks),
    }
