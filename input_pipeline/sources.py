"""Where documents come from, in parts that are read independently."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

from input_pipeline import file_source, tfds_source
from input_pipeline.config import DataConfig
from input_pipeline.documents import (
  TRAIN,
  VALIDATION,
  Document,
  Documents,
  Unreadable,
)
from input_pipeline.file_source import File

# A part is what one task reads: enough to be worth a process, and little
# enough that one that is read again costs little.
PART_BYTES = 64 << 20
PART_FILES = 5_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """Some files, or a range of examples.

  Attributes:
    split: which of the two options named it, 'train' or 'validation'.
    files: to read; empty for TFDS.
    start: number of the first example of TFDS.
    stop: number of the last and one.
  """

  split: str
  files: tuple[File, ...] = ()
  start: int = 0
  stop: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """A kind of source.

  Attributes:
    parts: of a split, in order; the same ones on every machine.
    read: the documents of a part.
  """

  parts: Callable[[DataConfig, str], list[Part]]
  read: Callable[[DataConfig, Part], Documents]


def parts(config: DataConfig) -> list[Part]:
  """All that is to be read, validation first.

  Raises:
    ValueError: when no file matches, or the dataset does not exist.
  """
  find = SOURCES[config.source].parts
  if config.holds_out_by_hash:
    return find(config, TRAIN)
  return [p for split in (VALIDATION, TRAIN) for p in find(config, split)]


def read_part(
  config: DataConfig, part: Part
) -> Iterator[tuple[str, Document | Unreadable]]:
  """Yields ('train' or 'validation', document) for all of a part.

  Raises:
    DataError: when a file is broken.
    ValueError: when the text field does not exist.
  """
  for document in SOURCES[config.source].read(config, part):
    split = part.split
    if config.holds_out_by_hash and isinstance(document, Document):
      held_out = is_held_out(document.id, config.validation_fraction)
      split = VALIDATION if held_out else TRAIN
    yield split, document


def is_held_out(identifier: str, fraction: float) -> bool:
  """Whether the document of this id belongs to validation.

  It depends on the id alone, so it stays when other documents come and go.
  """
  digest = hashlib.blake2b(identifier.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'big') < fraction * 2**64


def _file_parts(config: DataConfig, split: str) -> list[Part]:
  """Consecutive files, up to so many bytes together."""
  found: list[Part] = []
  together: list[File] = []
  size = 0
  for file in file_source.files_of(config, split):
    together.append(file)
    size += file.path.stat().length
    if size >= PART_BYTES or len(together) == PART_FILES:
      found.append(Part(split=split, files=tuple(together)))
      together, size = [], 0
  if together:
    found.append(Part(split=split, files=tuple(together)))
  return found


def _read_files(
  read: Callable[[DataConfig, File], Documents],
) -> Callable[[DataConfig, Part], Documents]:
  def documents(config: DataConfig, part: Part) -> Documents:
    for file in part.files:
      yield from read(config, file)

  return documents


def _tfds_parts(config: DataConfig, split: str) -> list[Part]:
  name = config.split if split == TRAIN else config.validation_split
  assert name
  return [
    Part(split=split, start=start, stop=stop)
    for start, stop in tfds_source.ranges(config, name, PART_BYTES)
  ]


def _read_tfds(config: DataConfig, part: Part) -> Documents:
  name = config.split if part.split == TRAIN else config.validation_split
  assert name
  for identifier, example in tfds_source.examples(
    config, name, part.start, part.stop
  ):
    where = f'{config.name} {identifier}'
    source = config.name
    if not config.source_field and 'source' in example:
      source = tfds_source.text(example['source'])
    yield file_source.document(config, example, identifier, source, where)


def _files(read: Callable[[DataConfig, File], Documents]) -> Source:
  return Source(parts=_file_parts, read=_read_files(read))


SOURCES: dict[str, Source] = {
  'tfds': Source(parts=_tfds_parts, read=_read_tfds),
  'text': _files(file_source.read_text),
  'jsonl': _files(file_source.read_jsonl),
  'parquet': _files(file_source.read_parquet),
}
