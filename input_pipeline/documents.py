"""What a source yields: documents, and what stands for unreadable ones."""

import dataclasses
from collections.abc import Iterator

TRAIN, VALIDATION = 'train', 'validation'


@dataclasses.dataclass(frozen=True)
class Document:
  """A text, and where it comes from.

  Attributes:
    id: stable and, within a source, unique: what decides about validation.
    text: valid Unicode, without lone surrogates.
    source: the part of the data that it belongs to, for curation and counts.
    licence: as the data states it; empty where it does not.
  """

  id: str
  text: str
  source: str
  licence: str = ''


@dataclasses.dataclass(frozen=True)
class Unreadable:
  """Stands for a document that cannot be read.

  Attributes:
    reason: names the file and the line, and says what is wrong.
  """

  reason: str


Documents = Iterator[Document | Unreadable]
