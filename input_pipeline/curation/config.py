"""`config.data.curation` as frozen, checked values.

configs/curation.py explains every field.
"""

import dataclasses
import math
import types
import typing
from typing import Annotated, Any

# What a number must lie within, both ends included.
Fraction = Annotated[float, 0.0, 1.0]
Amount = Annotated[float, 0.0, math.inf]
Count = Annotated[int, 0, math.inf]

_UNIONS = (types.UnionType, typing.Union)

PROFILES = ('none', 'prose', 'code', 'docs')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalise:
  """`normalise`."""

  enabled: bool
  repair_mojibake: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language:
  """`language`."""

  enabled: bool
  keep: tuple[str, ...]
  min_probability: Fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class GopherQuality:
  """`gopher_quality`."""

  enabled: bool
  min_words: Count
  max_words: Count
  min_mean_word_length: Amount
  max_mean_word_length: Amount
  max_symbol_ratio: Amount
  max_bullet_lines: Fraction
  max_ellipsis_lines: Fraction
  min_alphabetic_words: Fraction
  min_stop_words: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class GopherRepetition:
  """`gopher_repetition`."""

  enabled: bool
  max_duplicate_lines: Fraction
  max_duplicate_paragraphs: Fraction
  max_duplicate_line_characters: Fraction
  max_duplicate_paragraph_characters: Fraction
  max_top_2gram: Fraction
  max_top_3gram: Fraction
  max_top_4gram: Fraction
  max_duplicate_5grams: Fraction
  max_duplicate_6grams: Fraction
  max_duplicate_7grams: Fraction
  max_duplicate_8grams: Fraction
  max_duplicate_9grams: Fraction
  max_duplicate_10grams: Fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class C4:
  """`c4`."""

  enabled: bool
  end_punctuation: bool
  min_words_per_line: Count
  max_word_length: Count
  remove_policy_lines: bool
  min_sentences: Count
  no_curly_brackets: bool
  no_lorem_ipsum: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefinedWeb:
  """`refinedweb`."""

  enabled: bool
  max_uppercase: Fraction
  max_navigation_words: Count
  max_removed_words: Fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineWeb:
  """`fineweb`."""

  enabled: bool
  min_punctuated_lines: Fraction
  max_short_lines: Fraction
  short_line_length: Count
  max_duplicate_line_characters: Fraction
  max_lines_per_word: Amount


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeQuality:
  """`code_quality`."""

  enabled: bool
  max_mean_line_length: Amount
  max_line_length: Count
  min_alphanumeric: Fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Privacy:
  """`privacy`."""

  enabled: bool
  emails: bool
  ip_addresses: bool
  phones: bool
  secrets: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
  """The stages that a kind of text goes through."""

  normalise: Normalise
  language: Language
  gopher_quality: GopherQuality
  gopher_repetition: GopherRepetition
  c4: C4
  refinedweb: RefinedWeb
  fineweb: FineWeb
  code_quality: CodeQuality
  privacy: Privacy
  repeated_lines: Count | None
  near_duplicates: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityModel:
  """`quality_model`."""

  trusted_files: tuple[str, ...]
  raw_documents: Count
  keep_fraction: Amount | None
  keep_bytes: Count | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
  """`near_duplicates`."""

  similarity: Amount
  ngram: Count
  permutations: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contamination:
  """`contamination`."""

  evaluations: tuple[str, ...]
  ngram: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurationConfig:
  """`data.curation`."""

  profile: str
  source_profiles: tuple[str, ...]
  source_priority: tuple[str, ...]
  prose: Profile
  code: Profile
  docs: Profile
  quality_model: QualityModel
  near_duplicates: NearDuplicates
  contamination: Contamination
  term_groups: tuple[str, ...]

  def __post_init__(self) -> None:
    _check_profile('profile', self.profile)
    named = pairs('source_profiles', self.source_profiles)
    for source, name in named.items():
      _check_profile('source_profiles', name, f' for {source!r}')

  def profile_name(self, source: str) -> str:
    """Which profile a source has."""
    chosen = pairs('source_profiles', self.source_profiles)
    return chosen.get(source, self.profile)

  def profile_named(self, name: str) -> Profile | None:
    """The stages of a profile; None for 'none'."""
    return None if name == 'none' else getattr(self, name)

  def profile_of(self, source: str) -> Profile | None:
    """The stages for a source; None: none."""
    return self.profile_named(self.profile_name(source))

  def profiles(self) -> dict[str, Profile]:
    """The profiles that some source has, by name."""
    chosen = pairs('source_profiles', self.source_profiles).values()
    names = [n for n in PROFILES if n in {self.profile, *chosen}]
    return {name: getattr(self, name) for name in names if name != 'none'}


def curation_config(fields: dict[str, Any]) -> CurationConfig:
  """Reads the section, given as a nested dict.

  Raises:
    ValueError: names the field that is unknown, missing or out of range.
  """
  return _build(CurationConfig, fields, 'data.curation')


def pairs(field: str, entries: tuple[str, ...]) -> dict[str, str]:
  """('a=b', 'c=d') as {'a': 'b', 'c': 'd'}.

  Raises:
    ValueError: an entry has another form, or a name stands twice.
  """
  found: dict[str, str] = {}
  for entry in entries:
    name, equals, value = entry.partition('=')
    if not (name and equals and value):
      raise ValueError(
        f"data.curation.{field} holds {entry!r}; an entry is 'name=value'"
      )
    if name in found:
      raise ValueError(f'data.curation.{field} names {name!r} twice')
    found[name] = value
  return found


def _build(cls: Any, fields: dict[str, Any], prefix: str) -> Any:
  hints = typing.get_type_hints(cls, include_extras=True)
  if unknown := sorted(set(fields) - set(hints)):
    raise ValueError(f'unknown field {prefix}.{unknown[0]}')
  if missing := sorted(set(hints) - set(fields)):
    raise ValueError(f'missing field {prefix}.{missing[0]}')
  values = {}
  for name, kind in hints.items():
    value = fields[name]
    if typing.get_origin(kind) in _UNIONS and value is not None:
      kind = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(kind):
      value = _build(kind, value, f'{prefix}.{name}')
    elif typing.get_origin(kind) is Annotated:
      _check_range(f'{prefix}.{name}', value, *kind.__metadata__)
    elif typing.get_origin(kind) is tuple:
      if isinstance(value, str):
        raise ValueError(
          f'{prefix}.{name} is a tuple of strings: write ({value!r},)'
        )
      value = tuple(value)
    values[name] = value
  _check_order(values, prefix)
  return cls(**values)


def _check_profile(field: str, name: str, where: str = '') -> None:
  if name not in PROFILES:
    raise ValueError(
      f'data.curation.{field}: there is no profile {name!r}{where}; choose one'
      f' of {", ".join(PROFILES)}'
    )


def _check_range(field: str, value: Any, low: float, high: float) -> None:
  if not low <= value <= high:
    bounds = f'{low:g} or more' if high == math.inf else f'{low:g} to {high:g}'
    raise ValueError(f'{field} is {value}; it must be {bounds}')


def _check_order(values: dict[str, Any], prefix: str) -> None:
  """Refuses a min_... above its max_...: nothing would be kept."""
  for name, low in values.items():
    upper = f'max_{name.removeprefix("min_")}'
    if name.startswith('min_') and low > values.get(upper, low):
      raise ValueError(
        f'{prefix}.{name} = {low} is above {prefix}.{upper} = '
        f'{values[upper]}, so no document would be kept'
      )
