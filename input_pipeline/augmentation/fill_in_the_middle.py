"""Fill-in-the-middle. Suffixes as in draft.py."""

import dataclasses

import numpy as np

from input_pipeline.augmentation.base import Augmentation, check_share
from input_pipeline.augmentation.draft import Draft

PREFIX = '<|fim_prefix|>'
SUFFIX = '<|fim_suffix|>'
MIDDLE = '<|fim_middle|>'


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillInTheMiddle(Augmentation):
  """The middle of a piece moves to its end (Bavarian et al. 2022, 2207.14255).

  A share `rate` of the pieces is cut at two uniform places, token by token, and
  becomes, with `P`, `S` and `M` for the marks,
    P prefix S suffix M middle     (PSM), or
    P S suffix M prefix middle     (SPM), a share `spm` of them.
  The text of all parts counts in the loss, the marks do not: where a cut falls
  is chance. The three marks take the places of the piece's last three tokens.
  The paper finds rates up to 0.9 harmless and uses half PSM, half SPM.
  """

  rate: float
  spm: float

  def __post_init__(self) -> None:
    check_share('fill_in_the_middle.rate', self.rate)
    check_share('fill_in_the_middle.spm', self.spm)

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
    """Marks of the three parts."""
    return (PREFIX, SUFFIX, MIDDLE)

  def apply(self, draft: Draft) -> None:
    """Moves the middle of some pieces."""
    pieces, special = draft.pieces, draft.vocabulary.special
    chosen_Q = draft.take(self.rate)
    size_Q = pieces.end_P[chosen_Q] - pieces.body_P[chosen_Q] - 3
    chosen_Q, size_Q = chosen_Q[size_Q > 0], size_Q[size_Q > 0]
    row_Q, body_Q = pieces.row_P[chosen_Q], pieces.body_P[chosen_Q]
    column_Q = draft.column(pieces.start_P[chosen_Q])
    draws = draft.draws('fill_in_the_middle')
    cuts_2Q = np.sort(
      [draws.integers(row_Q, column_Q, size_Q + 1, draw) for draw in (0, 1)],
      axis=0,
    )
    prefix_Q, middle_Q = cuts_2Q[0], cuts_2Q[1] - cuts_2Q[0]
    suffix_Q = size_Q - cuts_2Q[1]
    spm_Q = draws.uniform(row_Q, column_Q, 2) < self.spm
    # PSM has the prefix between its mark and the next, SPM before the middle.
    suffix_mark_Q = body_Q + 1 + np.where(spm_Q, 0, prefix_Q)
    middle_mark_Q = suffix_mark_Q + 1 + suffix_Q
    to_prefix_Q = np.where(spm_Q, middle_mark_Q, body_Q) + 1
    to_middle_Q = middle_mark_Q + 1 + np.where(spm_Q, prefix_Q, 0)
    draft.copy(
      np.concatenate([body_Q, body_Q + cuts_2Q[1], body_Q + prefix_Q]),
      np.concatenate([to_prefix_Q, suffix_mark_Q + 1, to_middle_Q]),
      np.concatenate([prefix_Q, suffix_Q, middle_Q]),
    )
    draft.write(body_Q, special[PREFIX])
    draft.write(suffix_mark_Q, special[SUFFIX])
    draft.write(middle_mark_Q, special[MIDDLE])
