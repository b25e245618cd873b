"""Normalising texts and finding their language."""

import dataclasses
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from configs.curation import get_curation
from input_pipeline.curation import language
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import curation_config
from input_pipeline.curation.normalise import normalise
from input_pipeline.curation.stages import STAGES

PROSE = curation_config(get_curation().to_dict()).prose
law = settings(max_examples=60, derandomize=True, deadline=None)


def options(name, **changes):
  return dataclasses.replace(getattr(PROSE, name), **changes)


def edited(name, text):
  outcome = STAGES[name].apply(Columns(['', text, 'x']), options(name))
  return text if outcome.texts is None else outcome.texts[1]


TEXT_OF = {
  'en': 'The quick brown fox jumps over the lazy dog, and then it sleeps. ',
  'de': 'Der schnelle braune Fuchs springt über den faulen Hund und schläft. ',
  'fr': 'Le rapide renard brun saute par-dessus le chien paresseux et dort. ',
  'ru': 'Быстрая коричневая лиса прыгает через ленивую собаку и потом спит. ',
}


def test_a_language_is_kept_if_it_is_wanted():
  texts = [text * 20 for text in TEXT_OF.values()]
  chosen = options('language', keep=('de', 'ru'))
  outcome = language.apply(Columns(texts), chosen)
  assert outcome.labels == {'language': list(TEXT_OF)}
  names = [
    None if rule < 0 else language.RULES[rule] for rule in outcome.rule_D
  ]
  assert names == ['other_language', None, 'other_language', None]


def test_a_language_must_be_probable():
  text = TEXT_OF['en'][:40] + TEXT_OF['de'][:30]
  (name,), probability = language.detect([text])
  bound = float(probability[0])
  assert 0.02 < bound < 0.98
  exact = options('language', keep=(name,), min_probability=bound)
  above = dataclasses.replace(exact, min_probability=bound + 1e-6)
  assert language.apply(Columns([text]), exact).rule_D[0] == -1
  rule = language.apply(Columns([text]), above).rule_D[0]
  assert language.RULES[rule] == 'uncertain'


def test_languages_are_those_of_py3langid():
  identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
  texts = ['', ' ', '1 2', 'ÜBER ALLES', 'Добар дан, како сте?', '日本語です。']
  texts += [text[:size] for text in TEXT_OF.values() for size in (5, 20, 60)]
  names, probability_D = language.detect(texts)
  for text, name, probability in zip(
    texts, names, probability_D.tolist(), strict=True
  ):
    expected, confidence = identifier.classify(text)
    assert probability == pytest.approx(confidence, rel=1e-3)
    assert name == expected


def test_a_long_text_is_judged_by_samples_of_all_of_it():
  long = TEXT_OF['de'] * 3 + TEXT_OF['en'] * 500
  (name,), _ = language.detect([long])
  assert name == 'en'
  assert len(language._sample(long)) < 600


def test_an_unknown_language_is_an_error():
  with pytest.raises(ValueError, match=r"'english', which is no.* de,.* en,"):
    language.apply(Columns(['a']), options('language', keep=('english',)))
  with pytest.raises(ValueError, match=r'language\.keep is empty'):
    language.apply(Columns(['a']), options('language', keep=()))


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('a\r\nb\rc\x0cd\x85e\x1cf', 'a\nb\nc\nd\ne\nf'),
    ('a\x00b\ufeffc\x7fd\x9fe\ud800f', 'abcdef'),
    ('\tdef f():  \n\treturn 1\n', '\tdef f():  \n\treturn 1\n'),
    ('e\u0301 \u212b', 'é Å'),
    ('e\x01\u0301', 'é'),
    ('It was schÃ¶n. donâ€™t\nschön', "It was schön. don't\nschön"),
    ('É» déjà çà, 2 × 3 — “ok”', 'É» déjà çà, 2 × 3 — “ok”'),
    ('Â', 'Â'),
  ],
)  # fmt: skip
def test_normalise(text, expected):
  found = edited('normalise', text)
  assert found.replace('’', "'") == expected.replace('’', "'")


def test_normalise_counts():
  texts = ['schÃ¶n\nschÃ¼n\nok', 'a\x00\x01', 'a\r\n', 'b']
  outcome = STAGES['normalise'].apply(Columns(texts), options('normalise'))
  assert outcome.counts['mojibake'].tolist() == [2, 0, 0, 0]
  assert outcome.counts['control_characters'].tolist() == [0, 2, 0, 0]
  off = options('normalise', repair_mojibake=False)
  assert STAGES['normalise'].apply(Columns(texts[:1]), off).texts is None


UNUSUAL = st.text(
  'a\n\r\t\x00\x0c\x85\ufeff\ud800e\u0301Ã©Â\x80€™â\u212b\u0958가'
  '\u1100\u1161', max_size=20
)  # fmt: skip


@law
@given(UNUSUAL, st.booleans())
def test_normalise_twice_is_normalise_once(text, repair):
  once, _, _ = normalise(text, repair_mojibake=repair)
  assert normalise(once, repair_mojibake=repair) == (once, 0, 0)
  assert unicodedata.is_normalized('NFC', once)
  # The guard that decides what to look at misses nothing.
  chosen = options('normalise', repair_mojibake=repair)
  outcome = STAGES['normalise'].apply(Columns([text, 'x']), chosen)
  assert (outcome.texts or [text])[0] == once
