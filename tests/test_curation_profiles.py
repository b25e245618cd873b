"""Profiles of curation keep their kind of text and refuse senseless bounds."""

import pathlib
import sysconfig
from pydoc_data import topics

import pytest

from configs.curation import get_curation
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import PROFILES, curation_config
from input_pipeline.curation.stages import STAGES

CONFIG = curation_config(get_curation().to_dict())


def kept(profile, texts):
  """Fraction of texts that a profile keeps."""
  remaining = list(texts)
  for name, found in STAGES.items():
    chosen = getattr(getattr(CONFIG, profile), name)
    if chosen.enabled:
      outcome = found.apply(Columns(remaining), chosen)
      after = outcome.texts or remaining
      stays = outcome.rule_D < 0
      remaining = [t for t, s in zip(after, stays, strict=True) if s]
  return len(remaining) / len(texts)


def test_a_profile_keeps_its_own_kind():
  library = pathlib.Path(sysconfig.get_path('stdlib'))
  files = [p.read_text('utf-8') for p in sorted(library.glob('*.py'))[:60]]
  code = [text for text in files if text.strip()]
  assert kept('code', code) > 0.95
  assert kept('prose', code) < 0.3
  prose = [text for text in topics.topics.values() if len(text) > 1_000]
  assert kept('docs', prose) > 0.9
  assert kept('prose', prose) > 0.4


@pytest.mark.parametrize(
  ('section', 'field', 'value', 'message'),
  [
    ('language', 'min_probability', 65.0, r'is 65.0; it must be 0 to 1'),
    ('gopher_quality', 'min_words', -1, 'is -1; it must be 0 or more'),
    ('gopher_repetition', 'max_top_2gram', 20.0, 'must be 0 to 1'),
    ('fineweb', 'max_short_lines', float('nan'), 'must be 0 to 1'),
    ('gopher_quality', 'min_words', 200_000, 'above .*max_words = 100000'),
  ],
)
def test_a_number_must_be_in_its_range(section, field, value, message):
  for profile in PROFILES[1:]:
    fields = get_curation()
    fields[profile][section][field] = value
    with pytest.raises(ValueError, match=message) as caught:
      curation_config(fields.to_dict())
    name = f'data.curation.{profile}.{section}.{field}'
    assert str(caught.value).startswith(name)
