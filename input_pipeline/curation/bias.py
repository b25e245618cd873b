"""Whether curation treats groups and sources alike."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

# The two-sided 95 % point of the normal distribution.
_Z = 1.959963984540054


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disparity:
  """P(removed | mentions a group) / P(removed), with a 95 % interval.

  All three are None where nothing was removed, or no document mentions the
  group.

  Attributes:
    ratio: the estimate.
    low: of the confidence interval.
    high: of the confidence interval; always finite.
  """

  ratio: float | None
  low: float | None
  high: float | None


def removal_disparity(
  *, documents: int, removed: int, mentioning: int, mentioning_removed: int
) -> Disparity:
  """Compares the removal of documents that mention a group with all removal.

  The group is a part of the total, so both rates of the ratio move together;
  an interval for two separate samples, such as Katz's (1978), is too wide. But
  those who mention the group and those who do not are separate samples. Let p
  and q be their rates of removal and w the share that mentions the group:

    ratio = p / (w p + (1 - w) q) = rho / (w rho + 1 - w),    rho = p / q.

  It grows with rho, so the limits of rho give its limits, for the w of the
  data. Those of rho are by the score method (Koopman 1984, with the estimates
  of Miettinen and Nurminen 1985), which holds for few counts, too, and for
  none: where no removed document mentions the group, low is 0 and high is not.

  Args:
    documents: that came to the stage.
    removed: of them.
    mentioning: documents that mention the group.
    mentioning_removed: documents that mention the group and were removed.
  """
  n, r, m, a = documents, removed, mentioning, mentioning_removed
  assert 0 <= a <= min(r, m), (r, m, a)
  assert r + m - a <= n, (n, r, m, a)
  if not (r and m):
    return Disparity(ratio=None, low=None, high=None)
  if m == n:
    return Disparity(ratio=1.0, low=1.0, high=1.0)

  # The share of the group among removed documents is w times the ratio, from 0
  # to 1: good to search in.
  def score(share: float) -> float:
    rho = share * (n - m) / ((1 - share) * m)
    return _score(rho, a, m, r - a, n - m)

  low = _crossing(score, _Z, 0, a / r) if a else 0
  high = _crossing(score, -_Z, a / r, 1) if a < r else 1
  return Disparity(ratio=a * n / (m * r), low=low * n / m, high=high * n / m)


def _score(rho: float, x: int, m: int, y: int, k: int) -> float:
  """How far x of m and y of k are from a ratio rho of rates, in deviations.

  Miettinen and Nurminen (1985), equation 10; it falls as rho grows.
  """
  b = rho * (m + y) + x + k
  root = math.sqrt(max(b * b - 4 * (m + k) * rho * (x + y), 0))
  q = 2 * (x + y) / (b + root)
  p = rho * q
  variance = p * (1 - p) / m + rho**2 * q * (1 - q) / k
  distance = x / m - rho * y / k
  return distance / math.sqrt(variance) if variance > 0 else distance * math.inf


def _crossing(
  falling: Callable[[float], float], level: float, low: float, high: float
) -> float:
  """Where a falling function crosses a level between two places."""
  for _ in range(60):
    middle = (low + high) / 2
    if falling(middle) > level:
      low = middle
    else:
      high = middle
  return (low + high) / 2


def ratio_within_sources(
  strata: Iterable[tuple[int, int, int, int]],
) -> float | None:
  """Removed documents of a group by those expected from their sources alone.

  A stage that removes more of one source removes more of whom that source
  mentions. This ratio (indirect standardisation) is 1 where a document's source
  alone explains it.

  Args:
    strata: of each source the documents, those removed, those that mention the
      group, and those that do both.

  Returns:
    None where none is expected.
  """
  observed, expected = 0, 0.0
  for documents, removed, mentioning, mentioning_removed in strata:
    observed += mentioning_removed
    expected += mentioning * removed / documents if documents else 0.0
  return observed / expected if expected else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Concentration:
  """The effective number of sources: of how many equal ones data consist.

  Attributes:
    exp_entropy: exp of Shannon's entropy of the shares (Hill number of order
      1); None without any data.
    inverse_simpson: 1 by the sum of squared shares (order 2), which small
      sources count less in; None without any data.
  """

  exp_entropy: float | None
  inverse_simpson: float | None


def concentration(sizes: Sequence[int]) -> Concentration:
  """The effective number of sources that have these sizes (Hill 1973)."""
  total = sum(sizes)
  if not total:
    return Concentration(exp_entropy=None, inverse_simpson=None)
  shares = [size / total for size in sizes if size]
  entropy = -math.fsum(share * math.log(share) for share in shares)
  return Concentration(
    exp_entropy=math.exp(entropy),
    inverse_simpson=total**2 / sum(size**2 for size in sizes),
  )
