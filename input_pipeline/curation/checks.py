"""Finds mistakes in `data.curation` before hours are spent on reading."""

from collections.abc import Iterable

from input_pipeline.curation import banding, contamination, quality_model
from input_pipeline.curation.config import CurationConfig, pairs
from input_pipeline.curation.language import check_languages
from input_pipeline.curation.mentions import parse_groups
from input_pipeline.file_source import matching_files

_FIELD = 'data.curation'
# Sources that a message lists.
_SHOWN = 20


def check(config: CurationConfig) -> None:
  """Refuses what cannot be run, of all that a source's profile turns on.

  Raises:
    ValueError: names the field.
  """
  parse_groups(config.term_groups)
  for name, profile in config.profiles().items():
    if profile.language.enabled:
      field = f'{_FIELD}.{name}.language.keep'
      check_languages(profile.language.keep, field)
    if profile.repeated_lines is not None and profile.repeated_lines < 1:
      raise ValueError(
        f'{_FIELD}.{name}.repeated_lines={profile.repeated_lines}: a line that'
        ' may be removed has 1 word or more; None removes no lines'
      )
  if any(profile.near_duplicates for profile in config.profiles().values()):
    near = config.near_duplicates
    banding.check(near.similarity, near.ngram, near.permutations)
  contamination.check(config.contamination)
  for pattern in pairs(
    'contamination.evaluations', config.contamination.evaluations
  ).values():
    matching_files((pattern,), f'{_FIELD}.contamination.evaluations')
  quality_model.check(config.quality_model)
  trusted = config.quality_model.trusted_files
  matching_files(trusted, f'{_FIELD}.quality_model.trusted_files')


def check_sources(config: CurationConfig, sources: Iterable[str]) -> None:
  """Refuses names of sources that no document has.

  Args:
    config: names sources.
    sources: of all documents.

  Raises:
    ValueError: names the field, and says which sources there are.
  """
  known = sorted(set(sources))
  named = {
    'source_profiles': pairs('source_profiles', config.source_profiles),
    'source_priority': config.source_priority,
  }
  for field, names in named.items():
    if absent := [name for name in names if name not in known]:
      shown = ', '.join(known[:_SHOWN])
      if len(known) > _SHOWN:
        shown += f' and {len(known) - _SHOWN:,} more'
      raise ValueError(
        f'{_FIELD}.{field} names {absent[0]!r}, the source of no document;'
        f' the sources are {shown} (data.source_field chooses what a source is)'
      )
