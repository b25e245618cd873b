"""`config.data.curation` as frozen, checked values.

configs/curation.py explains every field.
"""

import dataclasses
import typing
from typing import Any

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
  min_probability: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GopherQuality:
  """`gopher_quality`."""

  enabled: bool
  min_words: int
  max_words: int
  min_mean_word_length: float
  max_mean_word_length: float
  max_symbol_ratio: float
  max_bullet_lines: float
  max_ellipsis_lines: float
  min_alphabetic_words: float
  min_stop_words: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class GopherRepetition:
  """`gopher_repetition`."""

  enabled: bool
  max_duplicate_lines: float
  max_duplicate_paragraphs: float
  max_duplicate_line_characters: float
  max_duplicate_paragraph_characters: float
  max_top_2gram: float
  max_top_3gram: float
  max_top_4gram: float
  max_duplicate_5grams: float
  max_duplicate_6grams: float
  max_duplicate_7grams: float
  max_duplicate_8grams: float
  max_duplicate_9grams: float
  max_duplicate_10grams: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class C4:
  """`c4`."""

  enabled: bool
  end_punctuation: bool
  min_words_per_line: int
  max_word_length: int
  remove_policy_lines: bool
  min_sentences: int
  no_curly_brackets: bool
  no_lorem_ipsum: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefinedWeb:
  """`refinedweb`."""

  enabled: bool
  max_uppercase: float
  max_navigation_words: int
  max_removed_words: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineWeb:
  """`fineweb`."""

  enabled: bool
  min_punctuated_lines: float
  max_short_lines: float
  short_line_length: int
  max_duplicate_line_characters: float
  max_lines_per_word: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeQuality:
  """`code_quality`."""

  enabled: bool
  max_mean_line_length: float
  max_line_length: int
  min_alphanumeric: float


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
  repeated_lines: int | None
  near_duplicates: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityModel:
  """`quality_model`."""

  trusted_files: tuple[str, ...]
  raw_documents: int
  keep_fraction: float | None
  keep_bytes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
  """`near_duplicates`."""

  similarity: float
  ngram: int
  permutations: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contamination:
  """`contamination`."""

  evaluations: tuple[str, ...]
  ngram: int


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
  types = typing.get_type_hints(cls)
  if unknown := sorted(set(fields) - set(types)):
    raise ValueError(f'unknown field {prefix}.{unknown[0]}')
  if missing := sorted(set(types) - set(fields)):
    raise ValueError(f'missing field {prefix}.{missing[0]}')
  values = {}
  for name, kind in types.items():
    value = fields[name]
    if dataclasses.is_dataclass(kind):
      value = _build(kind, value, f'{prefix}.{name}')
    elif typing.get_origin(kind) is tuple:
      if isinstance(value, str):
        raise ValueError(
          f'{prefix}.{name} is a tuple of strings: write ({value!r},)'
        )
      value = tuple(value)
    values[name] = value
  return cls(**values)
