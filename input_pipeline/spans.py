"""Spans of flat arrays: many at once, each with a start and a length.

Suffix: S spans.
"""

import numpy as np

# Spans longer than this on average are copied as slices, which takes a
# microsecond each; shorter ones by an index for each token.
_LONG = 64


def copy_spans(
  old: np.ndarray,
  new: np.ndarray,
  source_S: np.ndarray,
  target_S: np.ndarray,
  length_S: np.ndarray,
) -> None:
  """Copies spans of one flat array to places of another."""
  if length_S.sum() > _LONG * length_S.size:
    spans = zip(
      source_S.tolist(), target_S.tolist(), length_S.tolist(), strict=True
    )
    for source, target, length in spans:
      new[target : target + length] = old[source : source + length]
  else:
    new[ranges(target_S, length_S)] = old[ranges(source_S, length_S)]


def ranges(start_S: np.ndarray, length_S: np.ndarray) -> np.ndarray:
  """start, start + 1, ... of each span, one after the other, int64."""
  before_S = np.cumsum(length_S) - length_S
  return np.repeat(start_S - before_S, length_S) + np.arange(length_S.sum())
