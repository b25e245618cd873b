"""What to train on: `config.data` as frozen, checked values."""

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from input_pipeline.curation.config import CurationConfig, curation_config
from input_pipeline.weights import ALWAYS, Schedule, parse_schedule, stretches

if TYPE_CHECKING:
  from ml_collections import ConfigDict

SOURCES = ('tfds', 'text', 'jsonl', 'parquet')
TOKENIZERS = ('bpe', 'file', 'bytes')
# What structures a row, in the order of their ids.
SPECIAL_TOKENS = ('<|pad|>', '<|bos|>', '<|continue|>', '<|eos|>')
# They and the 256 byte values.
MIN_VOCAB_SIZE = 260
# Tables of all ids are made.
MAX_VOCAB_SIZE = 1 << 24
_NAME = re.compile(r'[A-Za-z]\w*', re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
  """`config.data.tokenizer`; configs/base.py explains the fields."""

  kind: str
  vocab_size: int
  train_bytes: int
  path: str | None
  special_tokens: tuple[str, ...] = ()
  copies: int = 0
  dropout: float = 0.0

  def __post_init__(self) -> None:
    _check_special_tokens(self.special_tokens)
    _choice('data.tokenizer.kind', self.kind, TOKENIZERS)
    _check_copies(self)
    if self.kind == 'file' and not self.path:
      raise ValueError(
        "data.tokenizer.kind='file' needs data.tokenizer.path, the path of a"
        ' tokenizer.json'
      )
    if self.kind != 'file' and self.path:
      raise ValueError(
        f'data.tokenizer.path={self.path!r} is read only with'
        f" data.tokenizer.kind='file', but the kind is {self.kind!r}"
      )
    if self.kind == 'bpe':
      _at_least(
        'data.tokenizer.vocab_size',
        self.vocab_size,
        MIN_VOCAB_SIZE + len(self.special_tokens),
      )
      if self.vocab_size > MAX_VOCAB_SIZE:
        raise ValueError(
          f'data.tokenizer.vocab_size={self.vocab_size} is more than'
          f' {MAX_VOCAB_SIZE}'
        )
      _at_least('data.tokenizer.train_bytes', self.train_bytes, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
  """`config.data.engine`; configs/base.py explains the fields."""

  name: str
  runner: str
  options: tuple[str, ...]

  def __post_init__(self) -> None:
    _choice('data.engine.name', self.name, ('local', 'beam'))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """`config.data` and the row length; configs/base.py explains the fields."""

  directory: str
  source: str
  name: str
  split: str
  validation_split: str | None
  tfds_dir: str | None
  files: tuple[str, ...]
  validation_files: tuple[str, ...]
  validation_fraction: float
  text_field: str
  source_field: str | None
  licence_field: str | None
  on_bad_document: str
  max_bad_fraction: float
  tokenizer: TokenizerConfig
  curation: CurationConfig
  engine: EngineConfig
  workers: int | None
  prefetch: int
  sequence_length: int

  def __post_init__(self) -> None:
    _choice('data.source', self.source, SOURCES)
    _choice('data.on_bad_document', self.on_bad_document, ('error', 'skip'))
    if not 0 <= self.max_bad_fraction <= 1:
      raise ValueError(
        f'data.max_bad_fraction={self.max_bad_fraction} must lie in 0 to 1'
      )
    _at_least('sequence_length', self.sequence_length, 2)
    _at_least('data.prefetch', self.prefetch, 1)
    if self.workers is not None:
      _at_least('data.workers', self.workers, 1)
    if not self.directory:
      raise ValueError('data.directory is empty; name a directory')
    if self.source == 'tfds':
      if self.files or self.validation_files:
        raise ValueError(
          f'data.files={self.files} and data.validation_files='
          f"{self.validation_files} are not read with data.source='tfds';"
          " set data.source to 'text', 'jsonl' or 'parquet', or empty them"
        )
    elif not self.files:
      raise ValueError(
        f'data.source={self.source!r} needs data.files, for instance'
        " ('corpus/*.jsonl',)"
      )
    share = self.validation_fraction
    if not 0 <= share <= 1 or (self.holds_out_by_hash and share in (0, 1)):
      raise ValueError(
        f'data.validation_fraction={self.validation_fraction} must lie'
        ' between 0 and 1: it is the share of documents that validation takes'
      )

  @property
  def holds_out_by_hash(self) -> bool:
    """Whether validation documents are chosen by a hash of their id."""
    if self.source == 'tfds':
      return not self.validation_split
    return not self.validation_files

  @property
  def row_length(self) -> int:
    """Tokens of a stored row: the inputs, and the targets one later."""
    return self.sequence_length + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """One dataset of those that a run is trained on.

  Attributes:
    name: in the mixture; '' where there is no mixture.
    schedule: its weight.
    data: what it is made of.
  """

  name: str
  schedule: Schedule
  data: DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
  """All datasets of a run, in the order of their names."""

  parts: tuple[Part, ...]

  @property
  def tokenizer_shares(self) -> list[float]:
    """Shares of the text that a vocabulary is trained on; they sum to 1.

    Each dataset's first weight above 0: what is declared for later steps, or
    added to it while the run goes on, changes no tokenizer.
    """
    first = [
      next((float(w) for _, w in part.schedule.pieces if w), 0.0)
      for part in self.parts
    ]
    return [weight / sum(first) for weight in first]


def training_data(config: 'ConfigDict') -> TrainingData:
  """Reads `config.data`: the datasets of `mixture`, or the one beside it.

  Raises:
    ValueError: for an unknown or missing field, or a value out of range.
  """
  mixture = config.data.mixture.to_dict()
  if not mixture:
    one = Part(name='', schedule=ALWAYS, data=data_config(config))
    return TrainingData(parts=(one,))
  parts = []
  for name, entry in sorted(mixture.items()):
    if not _NAME.fullmatch(name):
      raise ValueError(
        f'data.mixture.{name}: a name consists of letters, digits and _, and'
        ' begins with a letter'
      )
    weights = entry.pop('weights')
    schedule = parse_schedule(weights, f'data.mixture.{name}.weights')
    try:
      data = _data_config(config.data.to_dict() | entry, config.sequence_length)
    except ValueError as error:
      raise ValueError(f'data.mixture.{name}: {error}') from error
    parts.append(Part(name=name, schedule=schedule, data=data))
  stretches([p.schedule for p in parts], [p.name for p in parts])
  return TrainingData(parts=tuple(parts))


def data_config(config: 'ConfigDict') -> DataConfig:
  """Reads `config.data`, less the mixture, and `config.sequence_length`.

  Raises:
    ValueError: for an unknown or missing field, or a value out of range.
  """
  return _data_config(config.data.to_dict(), config.sequence_length)


def _data_config(data: dict[str, Any], sequence_length: int) -> DataConfig:
  data.pop('mixture', None)
  tokenizer = data.pop('tokenizer')
  for name in ('files', 'validation_files'):
    if isinstance(data.get(name), str):
      raise ValueError(
        f'data.{name} is a tuple of globs: write ({data[name]!r},)'
      )
    if name in data:
      data[name] = tuple(data[name])
  data['sequence_length'] = sequence_length
  if 'special_tokens' in tokenizer:
    tokenizer['special_tokens'] = tuple(tokenizer['special_tokens'])
  _check_fields('data.tokenizer', tokenizer, TokenizerConfig)
  data['tokenizer'] = TokenizerConfig(**tokenizer)
  if 'engine' in data:
    data['engine']['options'] = tuple(data['engine']['options'])
    _check_fields('data.engine', data['engine'], EngineConfig)
    data['engine'] = EngineConfig(**data['engine'])
  if 'curation' in data:
    data['curation'] = curation_config(data['curation'])
  _check_fields('data', data, DataConfig)
  return DataConfig(**data)


def _check_fields(prefix: str, given: dict[str, Any], cls: type) -> None:
  known = {field.name for field in dataclasses.fields(cls)}
  if unknown := sorted(set(given) - known):
    raise ValueError(
      f'unknown field {prefix}.{unknown[0]}; known: {", ".join(sorted(known))}'
    )
  if missing := sorted(known - set(given)):
    raise ValueError(f'missing field {prefix}.{missing[0]}')


def _check_copies(config: TokenizerConfig) -> None:
  copies, rate = config.copies, config.dropout
  _at_least('data.tokenizer.copies', copies, 0)
  if not 0 <= rate < 1:
    raise ValueError(f'data.tokenizer.dropout={rate} is no probability below 1')
  if bool(copies) != bool(rate):
    raise ValueError(
      f'data.tokenizer.copies={copies} and data.tokenizer.dropout={rate} go'
      ' together: copies are encoded with dropout, and nothing else is; set'
      ' both (1 and 0.1), or none'
    )
  if copies and config.kind == 'bytes':
    raise ValueError(
      f"data.tokenizer.copies={copies} with data.tokenizer.kind='bytes': bytes"
      " are not merged, so there is nothing to leave out; use 'bpe'"
    )


def _check_special_tokens(tokens: tuple[str, ...]) -> None:
  for n, token in enumerate(tokens):
    if not token or token in tokens[:n] or token in SPECIAL_TOKENS:
      raise ValueError(
        f'data.tokenizer.special_tokens holds {token!r}, which is empty, there'
        f' twice, or one of {", ".join(SPECIAL_TOKENS)}, which every'
        ' tokenizer has; remove it'
      )


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f'{name}={value!r}; choose one of {", ".join(choices)}')


def _at_least(name: str, value: int, minimum: int) -> None:
  if value < minimum:
    raise ValueError(f'{name}={value} is less than {minimum}')
