"""Whether curation treats groups and sources alike."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

# The two-sided 95 % point of the normal distribution.
_Z = 1.959963984540054


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disparity:
  """P(removed | mentions a group) / P(removed).

  Attributes:
    ratio: None: nothing was removed, or no document mentions the group.
    low: of the 95 % confidence interval.
    high: of the 95 % confidence interval; both None where no removed document
      mentions the group, for then the logarithm of the ratio has no estimate.
  """

  ratio: float | None
  low: float | None
  high: float | None


def removal_disparity(
  *, documents: int, removed: int, mentioning: int, mentioning_removed: int
) -> Disparity:
  """Compares the removal of documents that mention a group with all removal.

  The interval is that of the delta method for the logarithm of the ratio. With
  n documents of which r are removed, m mention the group and a do both, all
  drawn together (a multinomial of four cells),

    var log ratio = 1/a - 1/m - 1/r - 1/n + 2 a / (m r).

  The group is a part of the total, so both rates of the ratio move together;
  Katz's interval (1978), for two separate samples, is too wide here.

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
  if not a:
    return Disparity(ratio=0.0, low=None, high=None)
  ratio = a * n / (m * r)
  # In integers, so that what is zero is zero: everything times a m r n.
  scaled = m * r * n - a * r * n - a * m * n - a * m * r + 2 * a * a * n
  margin = _Z * math.sqrt(scaled / (a * m * r * n))
  return Disparity(
    ratio=ratio, low=ratio * math.exp(-margin), high=ratio * math.exp(margin)
  )


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
