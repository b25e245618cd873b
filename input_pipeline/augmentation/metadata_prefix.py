"""Where a document comes from, said before it. Suffixes as in draft.py."""

import dataclasses

import numpy as np

from input_pipeline.augmentation.base import Augmentation, check_share
from input_pipeline.augmentation.draft import Draft

SOURCE = '<|source|>'


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetadataPrefix(Augmentation):
  """A document's source stands before it (MeCo, Gao et al. 2025, 2501.01956).

  A share `rate` of the documents gets `<|source|>`, the tokens of the source's
  name and an empty line between its mark and its text, without loss on them.
  The last `cooldown` of the run's steps have none, so that the model needs
  none: the paper takes 0.1. The prefix takes the places of the document's last
  tokens in that row; where it would take more than half of them, there is none.
  """

  rate: float
  cooldown: float

  def __post_init__(self) -> None:
    check_share('metadata_prefix.rate', self.rate)
    check_share('metadata_prefix.cooldown', self.cooldown)

  @property
  def active(self) -> bool:
    """Whether it changes anything."""
    return self.rate > 0

  @property
  def special_tokens(self) -> tuple[str, ...]:
    """What opens the prefix."""
    return (SOURCE,)

  @property
  def needs_sources(self) -> bool:
    """It writes their names."""
    return True

  def apply(self, draft: Draft) -> None:
    """Writes the prefixes."""
    if draft.progress >= 1 - self.cooldown:
      return
    pieces, vocabulary = draft.pieces, draft.vocabulary
    first_Q = np.flatnonzero(draft.tokens[pieces.start_P] == vocabulary.bos_id)
    assert first_Q.size == len(draft.sources), 'a source for each document'
    prefix_of = {
      source: self._prefix(source, draft) for source in set(draft.sources)
    }
    prefixes = [prefix_of[source] for source in draft.sources]
    width_Q = np.array([prefix.size for prefix in prefixes], np.int64)
    length_Q = pieces.end_P[first_Q] - pieces.body_P[first_Q]
    drawn_Q = draft.draws('metadata_prefix').uniform(
      pieces.row_P[first_Q], draft.column(pieces.start_P[first_Q])
    )
    chosen = np.flatnonzero((drawn_Q < self.rate) & (2 * width_Q <= length_Q))
    if chosen.size:
      place_K = draft.open_header(first_Q[chosen], width_Q[chosen])
      draft.write(place_K, np.concatenate([prefixes[i] for i in chosen]))

  def _prefix(self, source: str, draft: Draft) -> np.ndarray:
    mark = draft.vocabulary.special[SOURCE]
    return np.append(mark, draft.vocabulary.encode(f'{source}\n\n'))
