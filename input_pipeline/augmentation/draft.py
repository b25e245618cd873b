"""Rows while they are augmented: tokens, what is known of them, their pieces.

A piece is what stands between a mark (begin or continue) and the next: the
mark, then a header that augmentations write, then the body, ordinary tokens of
the document, then its end token if the document ends there. Every augmentation
keeps a piece in its places: what it inserts pushes the body to the right, and
the end of the body that no longer fits is cut off. So no row grows and no piece
disturbs another.

Suffixes: N rows, R tokens of a row, T = R - 1 positions, P pieces, Q chosen
pieces, S spans, K places. A place is a flat index into [N, R].
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from input_pipeline.random_bits import Draws
from input_pipeline.spans import copy_spans, ranges

# Bits of the flags. The first two go to the step (train/rows.py).
COUNTS = 1  # the token counts in the loss where it is a target
VISIBLE = 2  # its whole piece sees the token, not only what comes later
BODY = 4  # an ordinary token of the document

# The names and arrays of a batch.
Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
  """Ids that augmentations work with.

  Attributes:
    pad_id: fills the end of rows.
    bos_id: opens a document.
    continue_id: opens a later piece of a document.
    eos_id: ends a document.
    special: ids of the reserved tokens, by their text.
    ordinary_V: ids that text can have.
    encode: tokens of a text.
  """

  pad_id: int
  bos_id: int
  continue_id: int
  eos_id: int
  special: dict[str, int]
  ordinary_V: np.ndarray
  encode: Callable[[str], np.ndarray]


@dataclasses.dataclass
class Pieces:
  """The pieces of some rows, in the order of their places.

  Attributes:
    row_P: row of each.
    start_P: place of the mark.
    body_P: first place of the body.
    end_P: one past the last place of the body.
    stop_P: one past the last place of the piece.
    lot_P: uniform in [0, 1); decides what happens to a piece, see `take`.
    offset_P: how many places ahead the targets lie.
    known_P: the place from which on the offset is known.
  """

  row_P: np.ndarray
  start_P: np.ndarray
  body_P: np.ndarray
  end_P: np.ndarray
  stop_P: np.ndarray
  lot_P: np.ndarray
  offset_P: np.ndarray
  known_P: np.ndarray


class Draft:
  """Rows that augmentations change in place.

  Attributes:
    tokens_NR: the rows.
    flags_NR: uint8, the bits above.
    vocabulary: the ids.
    progress: share of the run that lies behind.
    sources: of the documents that begin in the rows, in their order; empty if
      nothing asks for them.
  """

  def __init__(
    self,
    rows_NR: np.ndarray,
    *,
    vocabulary: Vocabulary,
    seed: int,
    step: int,
    place_N: np.ndarray,
    progress: float,
    sources: Sequence[str],
  ) -> None:
    self.tokens_NR = np.array(rows_NR)
    self.vocabulary = vocabulary
    self.progress = progress
    self.sources = sources
    self._seed = seed
    self._step = step
    self._place_N = place_N
    self._pieces: Pieces | None = None
    self._inputs_NR: np.ndarray | None = None
    opens_NR = self._opens_NR()
    text_NR = ~(opens_NR | (self.tokens_NR == vocabulary.pad_id))
    body_NR = text_NR & (self.tokens_NR != vocabulary.eos_id)
    self.flags_NR = text_NR * np.uint8(COUNTS) | body_NR * np.uint8(BODY)

  @property
  def tokens(self) -> np.ndarray:
    """The tokens by place; a view, to be written to."""
    return self.tokens_NR.reshape(-1)

  @property
  def flags(self) -> np.ndarray:
    """The flags by place; a view, to be written to."""
    return self.flags_NR.reshape(-1)

  @property
  def inputs_NR(self) -> np.ndarray:
    """What the model reads, to be written to; targets stay what they are.

    Whatever moves tokens comes before its first use.
    """
    if self._inputs_NR is None:
      self._inputs_NR = self.tokens_NR.copy()
    return self._inputs_NR

  @property
  def pieces(self) -> Pieces:
    """The pieces; whatever moves them comes before its first use."""
    if self._pieces is None:
      self._pieces = self._find_pieces()
    return self._pieces

  def draws(self, name: str) -> Draws:
    """The random numbers of this name for these rows in this step."""
    return Draws(name, seed=self._seed, step=self._step, place_N=self._place_N)

  def column(self, place_P: np.ndarray) -> np.ndarray:
    """Column of each place."""
    return place_P % self.tokens_NR.shape[1]

  def take(self, share: float) -> np.ndarray:
    """Chooses a share of all pieces that no one has taken before.

    Those who take share one draw a piece, so a piece is taken once at most.

    Returns:
      Indices of the pieces, int64 [Q].
    """
    lot_P = self.pieces.lot_P
    taken_Q = np.flatnonzero((lot_P >= 0) & (lot_P < share))
    lot_P -= share
    return taken_Q

  def open_header(
    self, chosen_Q: np.ndarray, width_Q: np.ndarray
  ) -> np.ndarray:
    """Makes room before the body of some pieces.

    Args:
      chosen_Q: indices of the pieces.
      width_Q: places to free, at most the length of the body each.

    Returns:
      The free places, one piece after the other, for `write`.
    """
    pieces = self.pieces
    body_Q, end_Q = pieces.body_P[chosen_Q], pieces.end_P[chosen_Q]
    assert (width_Q <= end_Q - body_Q).all()
    self.copy(body_Q, body_Q + width_Q, end_Q - body_Q - width_Q)
    pieces.body_P[chosen_Q] += width_Q
    return ranges(body_Q, width_Q)

  def copy(
    self, source_S: np.ndarray, target_S: np.ndarray, length_S: np.ndarray
  ) -> None:
    """Copies spans of tokens to other places, all of them at once."""
    copy_spans(self.tokens.copy(), self.tokens, source_S, target_S, length_S)

  def write(self, place_K: np.ndarray, token: int | np.ndarray) -> None:
    """Writes marks, which are neither body nor counted."""
    self.tokens[place_K] = token
    self.flags[place_K] = 0

  def finish(self) -> Batch:
    """The batch: inputs, targets and flags (uint8), each [N, T]."""
    inputs_NR = self.tokens_NR if self._inputs_NR is None else self._inputs_NR
    targets_NR = np.roll(self.tokens, -1).reshape(self.tokens_NR.shape)
    counts_NR = np.roll(self.flags, -1).reshape(self.tokens_NR.shape) & COUNTS
    if self._pieces is not None:
      self._look_ahead(targets_NR.reshape(-1), counts_NR.reshape(-1))
    flags_NR = counts_NR | (self.flags_NR & VISIBLE)
    return {
      'inputs': np.ascontiguousarray(inputs_NR[:, :-1]),
      'targets': np.ascontiguousarray(targets_NR[:, :-1]),
      'flags': np.ascontiguousarray(flags_NR[:, :-1]),
    }

  def _look_ahead(self, targets: np.ndarray, counts: np.ndarray) -> None:
    """Sets the targets of pieces whose offset is not one."""
    pieces, tokens, flags = self.pieces, self.tokens, self.flags
    for p in np.flatnonzero(pieces.offset_P > 1).tolist():
      known, offset = pieces.known_P[p], pieces.offset_P[p]
      start, stop = pieces.start_P[p], pieces.stop_P[p]
      targets[known : stop - offset] = tokens[known + offset : stop]
      counts[start:stop] = 0
      counts[known : stop - offset] = flags[known + offset : stop] & COUNTS

  def _opens_NR(self) -> np.ndarray:
    return (self.tokens_NR == self.vocabulary.bos_id) | (
      self.tokens_NR == self.vocabulary.continue_id
    )

  def _find_pieces(self) -> Pieces:
    tokens, row_length = self.tokens, self.tokens_NR.shape[1]
    start_P = np.flatnonzero(self._opens_NR())
    row_P = start_P // row_length
    padding_N = (self.tokens_NR == self.vocabulary.pad_id).sum(1)
    stop_P = (row_P + 1) * row_length - padding_N[row_P]
    same_row_P = row_P[1:] == row_P[:-1]
    stop_P[:-1][same_row_P] = start_P[1:][same_row_P]
    ended_P = tokens[stop_P - 1] == self.vocabulary.eos_id
    return Pieces(
      row_P=row_P,
      start_P=start_P,
      body_P=start_P + 1,
      end_P=stop_P - ended_P,
      stop_P=stop_P,
      lot_P=self.draws('lot').uniform(row_P, self.column(start_P)),
      offset_P=np.ones_like(start_P),
      known_P=start_P.copy(),
    )
