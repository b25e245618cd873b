"""Noise on single tokens: deletion, replacement and masking.

Suffixes as in draft.py.
"""

import dataclasses

import numpy as np

from input_pipeline.augmentation.base import Augmentation, check_share
from input_pipeline.augmentation.draft import BODY, Draft
from input_pipeline.random_bits import Draws, chance
from input_pipeline.spans import copy_spans

MASK = '<|mask|>'


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenDropout(Augmentation):
  """Tokens leave the row: random deletion (Wei and Zou 2019, EDA, 1901.11196).

  Each ordinary token goes with probability `rate`, as an input and as a target.
  The rest of the row closes up, and the places that become free are padding at
  its end, so a share of about `rate` of the batch is computed for nothing.
  """

  rate: float

  def __post_init__(self) -> None:
    check_share('token_dropout.rate', self.rate, below_one=True)

  @property
  def active(self) -> bool:
    """Whether it changes anything."""
    return self.rate > 0

  def apply(self, draft: Draft) -> None:
    """Deletes tokens."""
    kept_NR = ~_chosen(draft.draws('token_dropout'), draft, self.rate)
    left_N = kept_NR.sum(1)
    first_N = np.arange(left_N.size) * kept_NR.shape[1]
    for array, empty in (
      (draft.tokens, draft.vocabulary.pad_id),
      (draft.flags, 0),
    ):
      kept = array[kept_NR.reshape(-1)]
      array[:] = empty
      copy_spans(kept, array, np.cumsum(left_N) - left_N, first_N, left_N)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenReplacement(Augmentation):
  """Inputs become random tokens (Chen et al. 2026, arXiv 2606.16246).

  Each ordinary token, as an input and not as a target, is replaced with
  probability `rate` by one drawn uniformly from the ordinary tokens of the
  vocabulary. Alone, 0.15 did best there.
  """

  rate: float

  def __post_init__(self) -> None:
    check_share('token_replacement.rate', self.rate, below_one=True)

  @property
  def active(self) -> bool:
    """Whether it changes anything."""
    return self.rate > 0

  def apply(self, draft: Draft) -> None:
    """Replaces inputs."""
    draws = draft.draws('token_replacement')
    place_K = np.flatnonzero(_chosen(draws, draft, self.rate))
    ordinary_V = draft.vocabulary.ordinary_V
    row_K = place_K // draft.tokens_NR.shape[1]
    column_K = place_K - row_K * draft.tokens_NR.shape[1]
    drawn_K = draws.integers(row_K, column_K, ordinary_V.size)
    draft.inputs_NR.reshape(-1)[place_K] = ordinary_V[drawn_K]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputMasking(Augmentation):
  """Inputs become `<|mask|>` (MEAP, Zhuang et al. 2025, arXiv 2502.07490).

  Each ordinary token, as an input and not as a target, is masked with
  probability `rate`; the loss is that of the next token everywhere.
  """

  rate: float

  def __post_init__(self) -> None:
    check_share('input_masking.rate', self.rate, below_one=True)

  @property
  def active(self) -> bool:
    """Whether it changes anything."""
    return self.rate > 0

  @property
  def special_tokens(self) -> tuple[str, ...]:
    """The mask."""
    return (MASK,)

  def apply(self, draft: Draft) -> None:
    """Masks inputs."""
    chosen_NR = _chosen(draft.draws('input_masking'), draft, self.rate)
    draft.inputs_NR[chosen_NR] = draft.vocabulary.special[MASK]


def _chosen(draws: Draws, draft: Draft, rate: float) -> np.ndarray:
  """Ordinary tokens, each with this probability: bool [N, R]."""
  body_NR = (draft.flags_NR & BODY) != 0
  return (draws.bits(draft.tokens_NR.shape[1]) < chance(rate)) & body_NR
