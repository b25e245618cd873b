"""Mixture of denoisers: span corruption and prefix language modelling.

Suffixes as in draft.py; k is the number of spans of a piece.
"""

import dataclasses

import numpy as np

from input_pipeline.augmentation.base import (
  Augmentation,
  check_at_least,
  check_share,
)
from input_pipeline.augmentation.draft import (
  BODY,
  COUNTS,
  VISIBLE,
  Draft,
)
from input_pipeline.random_bits import Draws
from input_pipeline.spans import ranges

R_MODE = '<|ul2_r|>'
X_MODE = '<|ul2_x|>'
S_MODE = '<|ul2_s|>'
# Mean length of a span and share of the tokens that spans hold: table 1 of
# Tay et al. 2022. One pair is drawn for each piece.
_R_SPANS = ((3, 0.15), (8, 0.15))
_X_SPANS = ((3, 0.5), (8, 0.5), (64, 0.15), (64, 0.5))


@dataclasses.dataclass(frozen=True, kw_only=True)
class UL2(Augmentation):
  """R-, X- and S-denoisers (UL2, Tay et al. 2022, 2205.05131), decoder-only.

  A share `r_rate` of the pieces becomes, with sentinels s0, s1, ...,
    <|ul2_r|> text s0 text s1 text   s0 span s1 span
  where a sentinel stands for a span that has moved behind the text. The first
  part is a prefix: its tokens all see each other, and nothing of it counts in
  the loss; sentinels and spans of the second part count. `x_rate` does the same
  with longer or more spans. `s_rate` keeps the text as it is, and makes a
  prefix of its beginning: a target of one token to half of the piece, a quarter
  on average.

  Each of k equal stretches of the text has one span, of uniform length and at a
  uniform place. (T5 cuts the text at random instead, with the same means.)
  Marks take the places of the piece's last tokens. A piece has at most
  `sentinels` spans.
  """

  r_rate: float
  x_rate: float
  s_rate: float
  sentinels: int

  def __post_init__(self) -> None:
    for name in ('r_rate', 'x_rate', 's_rate'):
      check_share(f'ul2.{name}', getattr(self, name))
    check_at_least('ul2.sentinels', self.sentinels, 1)

  @property
  def active(self) -> bool:
    """Whether it changes anything."""
    return self.piece_share > 0

  @property
  def piece_share(self) -> float:
    """Share of the pieces that it takes."""
    return self.r_rate + self.x_rate + self.s_rate

  @property
  def special_tokens(self) -> tuple[str, ...]:
    """Modes in use, and sentinels."""
    modes = {R_MODE: self.r_rate, X_MODE: self.x_rate, S_MODE: self.s_rate}
    sentinels = self._sentinels if self.r_rate + self.x_rate else ()
    return (*(mode for mode, rate in modes.items() if rate), *sentinels)

  @property
  def needs_isolation(self) -> bool:
    """A prefix is seen by its piece, which must therefore be a segment."""
    return True

  @property
  def _sentinels(self) -> tuple[str, ...]:
    return tuple(f'<|span_{i}|>' for i in range(self.sentinels))

  def apply(self, draft: Draft) -> None:
    """Rewrites pieces."""
    self._corrupt(draft, self.r_rate, R_MODE, _R_SPANS)
    self._corrupt(draft, self.x_rate, X_MODE, _X_SPANS)
    self._make_prefixes(draft)

  def _make_prefixes(self, draft: Draft) -> None:
    pieces = draft.pieces
    chosen_Q = draft.take(self.s_rate)
    length_Q = pieces.end_P[chosen_Q] - pieces.body_P[chosen_Q]
    chosen_Q = chosen_Q[length_Q > 2]
    if not chosen_Q.size:
      return
    mark_Q = draft.open_header(chosen_Q, np.ones_like(chosen_Q))
    draft.write(mark_Q, draft.vocabulary.special[S_MODE])
    end_Q = pieces.end_P[chosen_Q]
    target_Q = 1 + draft.draws('ul2 prefix').integers(
      pieces.row_P[chosen_Q],
      draft.column(pieces.start_P[chosen_Q]),
      (end_Q - pieces.body_P[chosen_Q]) // 2,
    )
    _show(draft, pieces.start_P[chosen_Q], end_Q - target_Q)

  def _corrupt(
    self,
    draft: Draft,
    rate: float,
    mode: str,
    kinds: tuple[tuple[int, float], ...],
  ) -> None:
    pieces = draft.pieces
    chosen_Q = draft.take(rate)
    if not chosen_Q.size:
      return
    draws = draft.draws(mode)
    row_Q = pieces.row_P[chosen_Q]
    column_Q = draft.column(pieces.start_P[chosen_Q])
    mean, share = np.array(kinds).T
    kind_Q = draws.integers(row_Q, column_Q, len(kinds))
    room_Q = pieces.end_P[chosen_Q] - pieces.body_P[chosen_Q] - 1
    # Of n places, one is the mode's and two are each span's marks, so that
    # size = n - 1 - 2 k tokens stay; and k = size share / mean.
    density_Q = (share / mean)[kind_Q]
    count_Q = np.floor(room_Q * density_Q / (1 + 2 * density_Q) + 0.5)
    count_Q = np.clip(count_Q, 1, self.sentinels).astype(np.int64)
    size_Q = room_Q - 2 * count_Q
    fits = np.flatnonzero(size_Q >= 2 * count_Q)
    if not fits.size:
      return
    chosen_Q, count_Q, size_Q = chosen_Q[fits], count_Q[fits], size_Q[fits]
    start_S, length_S = _spans(
      draws, row_Q[fits], column_Q[fits], count_Q, size_Q, share[kind_Q[fits]]
    )
    self._move(draft, chosen_Q, count_Q, size_Q, start_S, length_S, mode)

  def _move(
    self,
    draft: Draft,
    chosen_Q: np.ndarray,
    count_Q: np.ndarray,
    size_Q: np.ndarray,
    start_S: np.ndarray,
    length_S: np.ndarray,
    mode: str,
  ) -> None:
    """Moves the spans of each piece behind the rest of its text.

    Args:
      draft: the rows.
      chosen_Q: the pieces.
      count_Q: spans of each.
      size_Q: tokens of each, spans included, that stay.
      start_S: of the spans, from the start of the body.
      length_S: of the spans.
      mode: what marks the pieces.
    """
    pieces, special = draft.pieces, draft.vocabulary.special
    body_Q = pieces.body_P[chosen_Q]
    first_Q = np.cumsum(count_Q) - count_Q
    number_S = ranges(np.zeros_like(count_Q), count_Q)
    # Tokens of earlier spans of the same piece.
    before_S = np.cumsum(length_S) - length_S
    before_S -= np.repeat(before_S[first_Q], count_Q)
    moved_Q = np.add.reduceat(length_S, first_Q)
    body_S = np.repeat(body_Q, count_Q)
    after_S = np.roll(start_S + length_S, 1)
    after_S[first_Q] = 0
    last_Q = first_Q + count_Q - 1
    tail_Q = (start_S + length_S)[last_Q]
    # Text: what stands between spans, each time followed by a sentinel.
    text_S = body_S + 1 + after_S - before_S + number_S
    sentinel_S = text_S + start_S - after_S
    tail_to_Q = sentinel_S[last_Q] + 1
    prefix_end_Q = tail_to_Q + size_Q - tail_Q
    # Spans, each time after its sentinel.
    again_S = np.repeat(prefix_end_Q, count_Q) + before_S + number_S
    draft.copy(
      np.concatenate([body_S + after_S, body_Q + tail_Q, body_S + start_S]),
      np.concatenate([text_S, tail_to_Q, again_S + 1]),
      np.concatenate([start_S - after_S, size_Q - tail_Q, length_S]),
    )
    assert (prefix_end_Q + moved_Q + count_Q == pieces.end_P[chosen_Q]).all(), (
      'a piece keeps its places'
    )
    ids = np.array([special[token] for token in self._sentinels])
    draft.write(body_Q, special[mode])
    draft.write(sentinel_S, ids[number_S])
    draft.write(again_S, ids[number_S])
    draft.flags[again_S] = COUNTS
    _show(draft, pieces.start_P[chosen_Q], prefix_end_Q)


def _spans(
  draws: Draws,
  row_Q: np.ndarray,
  column_Q: np.ndarray,
  count_Q: np.ndarray,
  size_Q: np.ndarray,
  share_Q: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws one span in each of `count` equal stretches of `size` tokens.

  Returns:
    Start, from the start of the text, and length of each span, int64 [S].
  """
  number_S = ranges(np.zeros_like(count_Q), count_Q)
  row_S, column_S, count_S, size_S, share_S = (
    np.repeat(a, count_Q) for a in (row_Q, column_Q, count_Q, size_Q, share_Q)
  )
  low_S = number_S * size_S // count_S
  stretch_S = (number_S + 1) * size_S // count_S - low_S
  # Uniform in 1 to 2 m - 1, with mean m; at least one token stays.
  longest_S = np.floor(2 * share_S * stretch_S).astype(np.int64) - 1
  longest_S = np.clip(longest_S, 1, stretch_S - 1)
  length_S = 1 + draws.integers(row_S, column_S, longest_S, 1 + 2 * number_S)
  start_S = low_S + draws.integers(
    row_S, column_S, stretch_S - length_S + 1, 2 + 2 * number_S
  )
  return start_S, length_S


def _show(draft: Draft, start_Q: np.ndarray, stop_Q: np.ndarray) -> None:
  """Makes prefixes: visible to their piece, and not counted."""
  for start, stop in zip(start_Q.tolist(), stop_Q.tolist(), strict=True):
    flags = draft.flags[start:stop]
    flags &= BODY
    flags |= VISIBLE
