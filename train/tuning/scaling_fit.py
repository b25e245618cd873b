"""Fits a law of the loss to small runs, and says how sure its forecast is.

The loss is E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, approach 3), or
E + A / N^alpha where N and D move together, so that their terms cannot be told
apart. Its logarithm is fitted, as the log-sum-exp of log E, log A - alpha log N
and so on, by BFGS from a grid of starts, with the Huber loss summed over runs.

Suffixes: R runs, K terms (of N, and of D).
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

# Deviations of log loss up to this count by their square, larger ones by their
# size: an outlier does not pull the law to itself.
_HUBER = 1e-3
FEWEST_SIZES = 5
# Sizes and tokens a parameter are each spread over more than this, or their
# terms are one.
SAME_RATIO = 1.1
# Part of the lowest loss that is irreducible, and exponents, of the starts.
_IRREDUCIBLE = (0.05, 0.3, 0.5, 0.7, 0.85, 0.95)
_EXPONENTS = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2)
# The likeliest of the grid are followed to their minimum.
_FOLLOWED, _FOLLOWED_AGAIN = 24, 1
REPLICATES = 200
# Part of the forecasts that the interval holds, and how wide it may be, as a
# part of the loss, before it says nothing.
COVERAGE, WIDEST = 0.9, 0.2


@dataclasses.dataclass(frozen=True)
class Point:
  """A run that has ended.

  Attributes:
    parameters: of its model.
    tokens: trained on.
    loss: on the validation split, in nats a token.
  """

  parameters: float
  tokens: float
  loss: float


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
  """irreducible + sum of factor / x^exponent, x the parameters, the tokens.

  Attributes:
    irreducible: E.
    factors: A, and B where there is a term of the tokens.
    exponents: alpha, and beta.
  """

  irreducible: float
  factors: tuple[float, ...]
  exponents: tuple[float, ...]

  def loss(self, parameters: float, tokens: float) -> float:
    """In nats a token."""
    sizes = (parameters, tokens)[: len(self.factors)]
    return self.irreducible + sum(
      factor / size**exponent
      for factor, size, exponent in zip(
        self.factors, sizes, self.exponents, strict=True
      )
    )


@dataclasses.dataclass(frozen=True)
class Fit:
  """A law, and others that the same runs might have led to.

  Attributes:
    points: that it was fitted to.
    law: the best.
    noise: standard deviation of log loss around it.
    replicates: laws of the bootstrap.
    noises: that were drawn for each.
  """

  points: tuple[Point, ...]
  law: ScalingLaw
  noise: float
  replicates: tuple[ScalingLaw, ...]
  noises: tuple[float, ...]

  def interval(self, name: str, term: int = 0) -> tuple[float, float]:
    """Of a constant of the law: 'irreducible', 'factors' or 'exponents'."""
    values = [getattr(law, name) for law in self.replicates]
    if name != 'irreducible':
      values = [value[term] for value in values]
    return _middle(values)


@dataclasses.dataclass(frozen=True)
class Forecast:
  """The loss of a run that was not made.

  Attributes:
    parameters: of its model.
    tokens: trained on.
    loss: by the best law, in nats a token.
    low: with `high`, what COVERAGE of such runs should lie in.
    high: see low.
  """

  parameters: float
  tokens: float
  loss: float
  low: float
  high: float

  @property
  def says_nothing(self) -> bool:
    """Whether the interval is too wide to be of use."""
    return not self.high - self.low <= WIDEST * self.loss


def has_two_terms(points: Sequence[Point]) -> bool:
  """Whether tokens a parameter differ, so that both terms can be told."""
  ratios = [point.tokens / point.parameters for point in points]
  return max(ratios) > SAME_RATIO * min(ratios)


def check_points(points: Sequence[Point]) -> None:
  """Refuses runs that cannot tell a law.

  Raises:
    ValueError: there are too few sizes or runs, or a loss is not finite.
  """
  bad = [p for p in points if not (math.isfinite(p.loss) and p.loss > 0)]
  if bad:
    raise ValueError(
      f'The run of {bad[0].parameters:,.0f} parameters ended with a loss of '
      f'{bad[0].loss}: lower optimizer.learning_rate.'
    )
  sizes = {point.parameters for point in points}
  if len(sizes) < FEWEST_SIZES:
    raise ValueError(
      f'{len(sizes)} sizes of models do not tell a law: at least '
      f'{FEWEST_SIZES} are needed.'
    )
  constants = 5 if has_two_terms(points) else 3
  if len(points) <= constants:
    raise ValueError(
      f'{len(points)} runs do not tell a law of {constants} constants: at '
      f'least {constants + 1} are needed.'
    )


def fit(
  points: Sequence[Point], *, seed: int = 0, replicates: int = REPLICATES
) -> Fit:
  """Fits the law, and fits it again to losses with as much noise anew.

  The bootstrap is parametric: a handful of runs cannot be drawn from with
  replacement. What the runs leave open of the size of their noise (chi-squared
  with as many degrees of freedom as there are runs beyond the constants) is
  drawn for each replicate, or intervals of few runs would be far too narrow.

  Args:
    points: the runs.
    seed: of the bootstrap.
    replicates: laws to draw.

  Raises:
    ValueError: the runs cannot tell a law.
  """
  check_points(points)
  problem = _Problem(points)
  best = problem.solve(problem.log_loss_R, problem.starts(), _FOLLOWED)
  fitted_R = problem.predict(best)
  square = float(((problem.log_loss_R - fitted_R) ** 2).sum())
  freedom = len(points) - best.size
  random = np.random.default_rng(seed)
  starts = problem.starts()
  laws, noises = [], []
  for _ in range(replicates):
    noise = math.sqrt(square / random.chisquare(freedom))
    drawn_R = fitted_R + noise * random.standard_normal(len(points))
    found = problem.solve(drawn_R, starts, _FOLLOWED_AGAIN, known=best)
    laws.append(problem.law(found))
    noises.append(noise)
  return Fit(
    points=tuple(points),
    law=problem.law(best),
    noise=math.sqrt(square / freedom),
    replicates=tuple(laws),
    noises=tuple(noises),
  )


def forecast(
  fitted: Fit, *, parameters: float, tokens: float, seed: int = 0
) -> Forecast:
  """The loss of another run: of the laws of the bootstrap, and of its noise.

  Args:
    fitted: of runs with as many tokens a parameter, or with several.
    parameters: of its model.
    tokens: to train on.
    seed: of the run's own noise.
  """
  random = np.random.default_rng([seed, 1])
  drawn = [
    law.loss(parameters, tokens) * math.exp(noise * random.standard_normal())
    for law, noise in zip(fitted.replicates, fitted.noises, strict=True)
  ]
  low, high = _middle(drawn)
  return Forecast(
    parameters=parameters,
    tokens=tokens,
    loss=fitted.law.loss(parameters, tokens),
    low=low,
    high=high,
  )


def band(fitted: Fit, parameters: float, tokens: float) -> tuple[float, float]:
  """Where the law itself lies, without the noise of a run."""
  return _middle([law.loss(parameters, tokens) for law in fitted.replicates])


def _middle(values: Sequence[float]) -> tuple[float, float]:
  tail = (1 - COVERAGE) / 2
  low, high = np.quantile(np.asarray(values), [tail, 1 - tail])
  return float(low), float(high)


class _Problem:
  """The least-deviation problem of some runs, in centred logarithms.

  Its unknowns are log E, then of each term the logarithm of its value at the
  centre of the runs (log A itself moves with alpha), then the logarithms of the
  exponents, which are positive.
  """

  def __init__(self, points: Sequence[Point]):
    two = has_two_terms(points)
    sizes_RK = np.array(
      [[p.parameters, p.tokens][: 1 + two] for p in points], np.float64
    )
    self.log_loss_R = np.log([point.loss for point in points])
    log_RK = np.log(sizes_RK)
    self._centre_K = log_RK.mean(axis=0)
    self._x_RK = log_RK - self._centre_K
    self._terms = sizes_RK.shape[1]

  def predict(self, unknowns: np.ndarray) -> np.ndarray:
    """Log loss of each run [R]."""
    return np.logaddexp.reduce(self._parts(unknowns), axis=1)

  def law(self, unknowns: np.ndarray) -> ScalingLaw:
    """The law with these unknowns."""
    K = self._terms
    values_K, exponents_K = unknowns[1 : 1 + K], np.exp(unknowns[1 + K :])
    factors_K = np.exp(values_K + exponents_K * self._centre_K)
    return ScalingLaw(
      irreducible=math.exp(unknowns[0]),
      factors=tuple(factors_K.tolist()),
      exponents=tuple(exponents_K.tolist()),
    )

  def starts(self) -> np.ndarray:
    """The grid, which is of the size of these losses [S, 1 + 2 K]."""
    lowest = math.exp(self.log_loss_R.min())
    middle = math.exp(self.log_loss_R.mean())
    found = []
    for part, *exponents in itertools.product(
      _IRREDUCIBLE, *[_EXPONENTS] * self._terms
    ):
      rest = (middle - part * lowest) / self._terms
      found.append([part * lowest, *[rest] * self._terms, *exponents])
    return np.log(found)

  def solve(
    self,
    log_loss_R: np.ndarray,
    starts: np.ndarray,
    followed: int,
    known: np.ndarray | None = None,
  ) -> np.ndarray:
    """The unknowns with the least deviation from log losses.

    Args:
      log_loss_R: to fit.
      starts: of the search.
      followed: how many of the starts to follow.
      known: a start that is followed besides.
    """
    order = np.argsort([self._value(s, log_loss_R)[0] for s in starts])
    chosen = list(starts[order[:followed]])
    if known is not None:
      chosen.append(known)
    # Of three or five unknowns BFGS keeps the whole matrix, where L-BFGS keeps
    # what a few steps tell of it.
    results = [
      optimize.minimize(
        self._value,
        start,
        args=(log_loss_R,),
        jac=True,
        method='BFGS',
        options={'maxiter': 500, 'gtol': 1e-6},
      )
      for start in chosen
    ]
    return min(results, key=lambda result: result.fun).x

  def _parts(self, unknowns: np.ndarray) -> np.ndarray:
    """Logarithms of the parts of the loss [R, 1 + K]."""
    K = self._terms
    values_K, exponents_K = unknowns[1 : 1 + K], np.exp(unknowns[1 + K :])
    terms_RK = values_K - exponents_K * self._x_RK
    constant_R1 = np.full((len(terms_RK), 1), unknowns[0])
    return np.concatenate([constant_R1, terms_RK], axis=1)

  def _value(
    self, unknowns: np.ndarray, log_loss_R: np.ndarray
  ) -> tuple[float, np.ndarray]:
    """Sum of Huber losses, and its gradient.

    In units of _HUBER squared, or it is so small that the search stops before
    it has begun; with a mean in place of the sum it would stop earlier still.
    That went wrong in the fit of Hoffmann et al. (Besiroglu et al. 2024).
    """
    parts = self._parts(unknowns)
    logs_R = np.logaddexp.reduce(parts, axis=1)
    off_R = (logs_R - log_loss_R) / _HUBER
    value = float(special.huber(1.0, off_R).sum())
    slope_R = np.clip(off_R, -1, 1) / _HUBER
    shares = np.exp(parts - logs_R[:, None])
    shares_RK = shares[:, 1:]
    gradient = np.concatenate([
      [slope_R @ shares[:, 0]],
      slope_R @ shares_RK,
      -slope_R @ (shares_RK * self._x_RK) * np.exp(unknowns[1 + self._terms :]),
    ])  # fmt: skip
    return value, gradient
