"""What an augmentation is."""

import abc
import dataclasses

from input_pipeline.augmentation.draft import Draft


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation(abc.ABC):
  """A change of the training rows; its fields are its section of the config.

  An augmentation is one frozen dataclass in one file, and a line of
  `table.AUGMENTATIONS`, under the name of its section.
  """

  @property
  @abc.abstractmethod
  def active(self) -> bool:
    """Whether it changes anything."""

  @property
  def piece_share(self) -> float:
    """Share of the pieces that it takes (`Draft.take`) for itself."""
    return 0.0

  @property
  def special_tokens(self) -> tuple[str, ...]:
    """Tokens that must be reserved while it is active."""
    return ()

  @property
  def needs_isolation(self) -> bool:
    """Whether pieces must not see each other (`isolate_documents`)."""
    return False

  @property
  def needs_sources(self) -> bool:
    """Whether it asks for the sources of documents."""
    return False

  @abc.abstractmethod
  def apply(self, draft: Draft) -> None:
    """Changes the rows in place."""


def check_share(field: str, value: float, *, below_one: bool = False) -> None:
  """Raises ValueError unless `augmentation.<field>` is a share."""
  if not 0 <= value <= 1 or (below_one and value == 1):
    raise ValueError(
      f'augmentation.{field}={value} must lie between 0 and 1'
      + (', and below 1: something must be left' if below_one else '')
    )


def check_at_least(field: str, value: int, minimum: int) -> None:
  """Raises ValueError unless `augmentation.<field>` is at least `minimum`."""
  if value < minimum:
    raise ValueError(f'augmentation.{field}={value} is less than {minimum}')
