"""What is predicted from where: right-to-left rows and targets further ahead.

Suffixes as in draft.py.
"""

import dataclasses
import math

import numpy as np

from input_pipeline.augmentation.base import (
  Augmentation,
  check_at_least,
  check_share,
)
from input_pipeline.augmentation.draft import Draft
from input_pipeline.spans import copy_spans

RIGHT_TO_LEFT = '<|right_to_left|>'


@dataclasses.dataclass(frozen=True, kw_only=True)
class RightToLeft(Augmentation):
  """Text runs backwards (Chen et al. 2026, arXiv 2606.16246).

  The body of a share `rate` of the pieces is reversed behind a mark; a piece
  without the mark runs forwards, as in validation. The mark takes the place of
  the piece's last token. The paper reverses half of the rows.
  """

  rate: float

  def __post_init__(self) -> None:
    check_share('right_to_left.rate', self.rate)

  @property
  def active(self) -> bool:
    """Whether it changes anything."""
    return self.rate > 0

  @property
  def piece_share(self) -> float:
    """Share of the pieces that it takes."""
    return self.rate

  @property
  def special_tokens(self) -> tuple[str, ...]:
    """The mark of the direction."""
    return (RIGHT_TO_LEFT,)

  def apply(self, draft: Draft) -> None:
    """Reverses pieces."""
    pieces = draft.pieces
    chosen_Q = draft.take(self.rate)
    length_Q = pieces.end_P[chosen_Q] - pieces.body_P[chosen_Q]
    chosen_Q = chosen_Q[length_Q > 1]
    mark_Q = draft.open_header(chosen_Q, np.ones_like(chosen_Q))
    draft.write(mark_Q, draft.vocabulary.special[RIGHT_TO_LEFT])
    body_Q, end_Q = pieces.body_P[chosen_Q], pieces.end_P[chosen_Q]
    mirrored = draft.tokens[::-1].copy()
    copy_spans(
      mirrored, draft.tokens, mirrored.size - end_Q, body_Q, end_Q - body_Q
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetOffset(Augmentation):
  """Targets lie i tokens ahead, i > 1 (Chen et al. 2026, arXiv 2606.16246).

  A share `rate` of the rows has an offset i in 2 to `longest`, drawn in
  proportion to e^-(i-1). Each of its pieces bears the mark of i, which takes
  the place of its last token; what stands before the mark is not trained on. A
  piece that fill-in-the-middle or UL2 has taken keeps its next-token targets.
  The paper draws i from 1 to 5 in that proportion, which is a rate of 0.36.
  """

  rate: float
  longest: int

  def __post_init__(self) -> None:
    check_share('target_offset.rate', self.rate)
    check_at_least('target_offset.longest', self.longest, 2)

  @property
  def active(self) -> bool:
    """Whether it changes anything."""
    return self.rate > 0

  @property
  def special_tokens(self) -> tuple[str, ...]:
    """A mark for each offset."""
    return tuple(f'<|offset_{i}|>' for i in range(2, self.longest + 1))

  def apply(self, draft: Draft) -> None:
    """Draws an offset for each row, and marks its pieces."""
    pieces = draft.pieces
    row_N = np.arange(len(draft.tokens_NR))
    draws, zero_N = draft.draws('target_offset'), np.zeros_like(row_N)
    has_N = draws.uniform(row_N, zero_N) < self.rate
    edges = np.cumsum(np.cumprod(np.full(self.longest - 1, 1 / math.e)))
    drawn_N = draws.uniform(row_N, zero_N, 1) * edges[-1]
    offset_N = np.where(has_N, 2 + np.searchsorted(edges, drawn_N, 'right'), 1)
    offset_P = offset_N[pieces.row_P]
    length_P = pieces.end_P - pieces.body_P
    chosen_Q = np.flatnonzero(
      (offset_P > 1) & (pieces.lot_P >= 0) & (length_P > offset_P)
    )
    mark_Q = draft.open_header(chosen_Q, np.ones_like(chosen_Q))
    pieces.offset_P[chosen_Q] = offset_P[chosen_Q]
    pieces.known_P[chosen_Q] = mark_Q
    special = draft.vocabulary.special
    ids = np.array([0, 0, *(special[token] for token in self.special_tokens)])
    draft.write(mark_Q, ids[offset_P[chosen_Q]])
