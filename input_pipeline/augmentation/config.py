"""`config.augmentation` as frozen, checked values."""

import dataclasses
from typing import TYPE_CHECKING, Any

from input_pipeline.augmentation.base import Augmentation
from input_pipeline.augmentation.table import AUGMENTATIONS

if TYPE_CHECKING:
  from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
  """How training rows change; configs/augmentation.py explains the fields.

  Attributes:
    repack: documents are packed into rows anew in each epoch.
    active: what changes the rows, in the order in which it applies.
  """

  repack: bool
  active: tuple[Augmentation, ...]

  @property
  def needs_sources(self) -> bool:
    """Whether an augmentation asks for the sources of documents."""
    return any(a.needs_sources for a in self.active)


def augmentation_config(config: 'ConfigDict') -> AugmentationConfig:
  """Reads `config.augmentation`.

  Raises:
    ValueError: a field is unknown, missing or out of range; pieces are given
      out more than once; a special token is not reserved.
  """
  sections = config.augmentation.to_dict()
  repack = sections.pop('repack')
  for name in sections:
    if name not in AUGMENTATIONS:
      raise ValueError(
        f'unknown section augmentation.{name}; known:'
        f' {", ".join(AUGMENTATIONS)}'
      )
  chosen = {
    name: _read(name, cls, sections.get(name, {}))
    for name, cls in AUGMENTATIONS.items()
  }
  active = {name: a for name, a in chosen.items() if a.active}
  _check_pieces(active)
  _check_isolation(active, config.isolate_documents)
  _check_tokens(active, tuple(config.data.tokenizer.special_tokens))
  return AugmentationConfig(repack=repack, active=tuple(active.values()))


def _read(
  name: str, cls: type[Augmentation], section: dict[str, Any]
) -> Augmentation:
  known = {field.name for field in dataclasses.fields(cls)}
  if wrong := sorted(known ^ set(section)):
    problem = 'missing' if wrong[0] in known else 'unknown'
    raise ValueError(
      f'{problem} field augmentation.{name}.{wrong[0]}; fields:'
      f' {", ".join(sorted(known))}'
    )
  return cls(**section)


def _check_pieces(active: dict[str, Augmentation]) -> None:
  shares = {n: a.piece_share for n, a in active.items() if a.piece_share}
  total = sum(shares.values())
  # Shares that are meant to be 1 may add up to a rounding error more.
  if total > 1 + 1e-9:
    parts = ' + '.join(f'{share:g} ({n})' for n, share in shares.items())
    raise ValueError(
      f'augmentation: {parts} = {total:g} of the pieces are given out, and'
      ' there are only 1: each piece is taken once. Lower the rates.'
    )


def _check_isolation(active: dict[str, Augmentation], isolated: bool) -> None:
  for name, augmentation in active.items():
    if augmentation.needs_isolation and not isolated:
      raise ValueError(
        f'augmentation.{name} needs isolate_documents=True: its prefixes are'
        ' seen by their own document only. Set it, or switch'
        f' augmentation.{name} off.'
      )


def _check_tokens(
  active: dict[str, Augmentation], reserved: tuple[str, ...]
) -> None:
  wanted = [token for a in active.values() for token in a.special_tokens]
  missing = [token for token in wanted if token not in reserved]
  if not missing:
    return
  lacking = {
    name: [token for token in a.special_tokens if token in missing]
    for name, a in active.items()
  }
  reasons = '; '.join(
    f'augmentation.{name} needs {", ".join(tokens)}'
    for name, tokens in lacking.items()
    if tokens
  )
  raise ValueError(
    f'{reasons}: not reserved in the vocabulary. Set'
    f' data.tokenizer.special_tokens = {(*reserved, *missing)} (the data is'
    ' then prepared anew).'
  )
