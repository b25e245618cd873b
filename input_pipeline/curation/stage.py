"""What a stage of curation is: a pure function from texts to an outcome."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from input_pipeline.curation.columns import Columns


class Options(Protocol):
  """A section of a profile, see config.py."""

  @property
  def enabled(self) -> bool:
    """Whether the stage runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What a stage says of a batch of D documents.

  Attributes:
    rule_D: int8; -1 keeps a document, n >= 0 leaves it out by the n-th of the
      stage's rules. Where several rules apply, the first of them counts.
    texts: the D texts after the stage; None: as they came. The text of a
      document that is left out is not read.
    counts: name -> int64 [D]; how often something was found or changed in each
      document, e.g. 'email'.
    labels: name -> D strings; what a document is, e.g. 'language'.
  """

  rule_D: np.ndarray
  texts: list[str] | None = None
  counts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  labels: dict[str, list[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """A stage of a profile.

  Attributes:
    name: of its section in the config and in the data card.
    rules: names of the reasons to leave a document out, in the order in which
      they count.
    apply: the function; the same texts and options give the same outcome on
      any machine, and a document's outcome does not depend on its neighbours.
  """

  name: str
  rules: tuple[str, ...]
  apply: Callable[[Columns, Any], Outcome]
