"""Mistakes in data.curation are found before anything is read."""

import json
import sys

import pytest
from data_configs import curation, prepared, text_config

from input_pipeline.beam_engine import BeamEngine
from input_pipeline.curation.checks import check, check_sources
from input_pipeline.prepare import prepare


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('profile', 'porse', r"curation\.profile: .*'porse'; .* none, prose, code"),
    (
      'source_profiles', ('web=porse',),
      r"source_profiles: there is no profile 'porse' for 'web'; choose",
    ),
    ('source_profiles', ('web',), r"source_profiles holds 'web'"),
  ],
)  # fmt: skip
def test_a_profile_has_a_known_name(field, value, message):
  with pytest.raises(ValueError, match=message):
    curation(**{field: value})


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('term_groups', ('women',), r"term_groups holds 'women'"),
    ('term_groups', ('women=she,,her',), r"women='she,,her' holds an empty"),
    (
      'prose.language.keep', ('english',),
      r"curation\.prose\.language\.keep holds 'english'.* en,",
    ),
    ('prose.repeated_lines', 0, r'curation\.prose\.repeated_lines=0'),
    ('near_duplicates.similarity', 1.5, r'near_duplicates\.similarity=1\.5'),
    ('near_duplicates.ngram', 0, r'near_duplicates\.ngram=0'),
    ('near_duplicates.permutations', 0, r'permutations=0 must be positive'),
    ('contamination.ngram', 1, r'contamination\.ngram=1'),
    ('contamination.evaluations', ('x.txt',), r"evaluations holds 'x\.txt'"),
    (
      'contamination.evaluations', ('q=absent/*.txt',),
      r"contamination\.evaluations: nothing matches 'absent/\*\.txt'",
    ),
    (
      'quality_model.trusted_files', ('absent/*.txt',),
      r"quality_model\.trusted_files: nothing matches 'absent/\*\.txt'",
    ),
    ('quality_model.keep_fraction', 0.5, r'trusted_files names nothing'),
    ('quality_model.keep_fraction', 1.5, r'keep_fraction=1\.5'),
  ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(field, value, message):
  check(curation(profile='prose'))
  with pytest.raises(ValueError, match=message):
    check(curation(**{'profile': 'prose', field: value}))


def test_what_no_source_uses_is_not_checked():
  check(curation(**{'near_duplicates.similarity': 1.5}))
  check(curation(**{'profile': 'code', 'prose.language.keep': ('english',)}))


def test_a_mistake_is_found_before_anything_is_read(tmp_path):
  lines = []
  chosen = curation(profile='prose', term_groups=('women',))
  with pytest.raises(ValueError, match='term_groups'):
    prepare(text_config(tmp_path, curation=chosen), log=lines.append)
  assert lines == []


def corpus(tmp_path, **changes):
  for folder in ('web', 'books'):
    (tmp_path / folder).mkdir(exist_ok=True)
    records = [{'text': f'{folder} {n}', 'kind': folder[0]} for n in range(9)]
    text = ''.join(json.dumps(record) + '\n' for record in records)
    (tmp_path / folder / 'a.jsonl').write_text(text)
  return text_config(
    tmp_path,
    source='jsonl',
    files=(f'{tmp_path}/web/*.jsonl', f'{tmp_path}/books/*.jsonl'),
    **changes,
  )


@pytest.mark.parametrize(
  ('field', 'value'),
  [('source_profiles', ('wbe=none',)), ('source_priority', ('web', 'wbe'))],
)
def test_a_source_that_is_named_must_exist(tmp_path, field, value):
  chosen = curation(**{field: value})
  with pytest.raises(
    ValueError, match=rf"curation\.{field} names 'wbe'.* are books, web \("
  ):
    prepared(corpus(tmp_path, curation=chosen))
  right = tuple(entry.replace('wbe', 'books') for entry in value)
  prepared(corpus(tmp_path, curation=curation(**{field: right})))


def test_sources_are_those_of_the_field(tmp_path):
  chosen = curation(source_priority=('b', 'w'))
  prepared(corpus(tmp_path, curation=chosen, source_field='kind'))
  with pytest.raises(ValueError, match=r"names 'b'.* are books, web \("):
    prepared(corpus(tmp_path, curation=chosen))


def test_a_message_lists_some_of_many_sources():
  chosen = curation(source_priority=('x',))
  with pytest.raises(ValueError, match=r's00, s01,.* s19 and 10 more \('):
    check_sources(chosen, [f's{n:02d}' for n in range(30)])


def test_what_removed_everything_is_named(tmp_path):
  chosen = curation(profile='prose')
  with pytest.raises(
    ValueError, match=r'no document: \d+ read, of which \d+ language/oth'
  ) as caught:
    prepared(corpus(tmp_path, curation=chosen))
  assert str(caught.value).endswith('; neither does the other split')


def test_beam_says_what_it_lacks(monkeypatch):
  wrong = BeamEngine('FooRunner', ())
  with pytest.raises(
    ValueError, match=r"data\.engine\.runner='FooRunner'.*FnApiRunner"
  ):
    list(wrong.map(str, ['task']))
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  with pytest.raises(ValueError, match=r"install the extra 'beam'"):
    list(wrong.map(str, ['task']))
