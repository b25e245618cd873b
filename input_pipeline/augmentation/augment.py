"""Augments the rows of a step: a pure function of (seed, step, place, row).

Suffixes as in draft.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from input_pipeline.augmentation.base import Augmentation
from input_pipeline.augmentation.config import AugmentationConfig
from input_pipeline.augmentation.draft import Batch, Draft, Vocabulary
from input_pipeline.store import TOKENIZER, Store
from input_pipeline.store_manifest import TokenizerManifest
from input_pipeline.tokenizer import load_tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
  """What a run does to its training rows; made by `make_augment`.

  Attributes:
    augmentations: in the order in which they apply.
    vocabulary: the ids.
    seed: of the run.
    steps: of the run.
  """

  augmentations: tuple[Augmentation, ...]
  vocabulary: Vocabulary
  seed: int
  steps: int

  @property
  def needs_sources(self) -> bool:
    """Whether an augmentation asks for the sources of documents."""
    return any(a.needs_sources for a in self.augmentations)

  def dtypes(self, rows: np.dtype) -> dict[str, np.dtype]:
    """Types of what it returns for rows of this type."""
    return {'inputs': rows, 'targets': rows, 'flags': np.dtype(np.uint8)}

  def __call__(
    self,
    rows_NR: np.ndarray,
    *,
    step: int,
    place_N: np.ndarray,
    sources: Sequence[str] = (),
  ) -> Batch:
    """Augments rows.

    Args:
      rows_NR: as the store has them; they stay as they are.
      step: of the batch.
      place_N: place of each row in the global batch.
      sources: of the documents that begin in the rows, in their order.

    Returns:
      'inputs' and 'targets', of the type of the rows, and 'flags', uint8 (see
      draft.py), each [N, R - 1].
    """
    draft = Draft(
      rows_NR,
      vocabulary=self.vocabulary,
      seed=self.seed,
      step=step,
      place_N=place_N,
      progress=step / self.steps,
      sources=sources,
    )
    for augmentation in self.augmentations:
      augmentation.apply(draft)
    return draft.finish()


def make_augment(
  config: AugmentationConfig, store: Store, *, seed: int, steps: int
) -> Augment | None:
  """What a run does to the rows of a store; None: nothing.

  Raises:
    ValueError: the store lacks a special token.
  """
  if not config.active:
    return None
  tokenizer = store.manifest.tokenizer
  for augmentation in config.active:
    for token in augmentation.special_tokens:
      if token not in tokenizer.special_tokens:
        raise ValueError(
          f'{type(augmentation).__name__} needs {token}, which the tokenizer'
          f' of {store.directory} does not reserve; name it in'
          ' data.tokenizer.special_tokens'
        )
  encode = load_tokenizer(
    store.directory / TOKENIZER, encoder=tokenizer.encoder
  ).encode
  return Augment(
    augmentations=config.active,
    vocabulary=make_vocabulary(tokenizer, encode),
    seed=seed,
    steps=steps,
  )


def make_vocabulary(
  tokenizer: TokenizerManifest, encode: Callable[[str], np.ndarray]
) -> Vocabulary:
  """The ids of a store's tokenizer; what it encodes is remembered."""
  marks = (
    tokenizer.pad_id, tokenizer.bos_id, tokenizer.continue_id, tokenizer.eos_id,
  )  # fmt: skip
  special = dict(tokenizer.special_tokens)
  return Vocabulary(
    pad_id=tokenizer.pad_id,
    bos_id=tokenizer.bos_id,
    continue_id=tokenizer.continue_id,
    eos_id=tokenizer.eos_id,
    special=special,
    ordinary_V=np.setdiff1d(
      np.arange(tokenizer.vocab_size), [*marks, *special.values()]
    ),
    encode=functools.lru_cache(maxsize=100_000)(encode),
  )
