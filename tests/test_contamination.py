"""Leaks of evaluation texts are found, however they are written."""

import gzip
import json
import random

import numpy as np
import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from input_pipeline.curation import contamination
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import Contamination
from input_pipeline.stdlib_text import topics

WORDS = [f'word{n}' for n in range(5_000)]
law = settings(max_examples=60, derandomize=True, deadline=None)


def config(*evaluations, ngram=13):
  return Contamination(evaluations=evaluations, ngram=ngram)


def found(documents, evaluations):
  return {
    name: counts.tolist()
    for name, counts in contamination.hits(
      Columns(documents), evaluations
    ).items()
  }


def disguised(words, rng):
  """The same words in another case, punctuation and space."""
  text = ''
  for word in words:
    split = f'{word[:2]}-{word[2:]}'
    word = rng.choice([word, word.upper(), word.title(), split])
    word = rng.choice(['', '"', '(', '¿', '**']) + word
    word += rng.choice(['', ',', '...', '!?', '”', "'", ' --', ' |'])
    text += word + rng.choice([' ', '\n', '\t ', '  ', '\u3000'])
  return text


@pytest.mark.parametrize('seed', range(4))
def test_every_leak_is_found_and_nothing_else(seed):
  rng = random.Random(seed)
  texts = {
    name: [
      ' '.join(rng.choices(WORDS, k=rng.randint(13, 60))) for _ in range(9)
    ]
    for name in ('first', 'second')
  }
  evaluations = contamination.evaluations_of(texts, 13)
  documents, planted = [], []
  for _ in range(120):
    words = rng.choices(WORDS, k=rng.randint(0, 200))
    name = rng.choice([None, 'first', 'second'])
    if name:
      source = rng.choice(texts[name]).split()
      start = rng.randint(0, len(source) - 13)
      place = rng.randint(0, len(words))
      words[place:place] = source[start : start + 13]
    documents.append(disguised(words, rng))
    planted.append(name)
  counts = found(documents, evaluations)
  for name in texts:
    assert [c > 0 for c in counts[name]] == [p == name for p in planted]


def test_twelve_words_are_no_hit_and_more_are_counted():
  text = [f'w{n}' for n in range(40)]
  evaluations = contamination.evaluations_of({'a': [' '.join(text)]}, 13)
  documents = [' '.join(text[5 : 5 + n]) for n in (12, 13, 20, 35)]
  documents += [' '.join([*text[:12], 'other', *text[12:24]])]
  assert found(documents, evaluations) == {'a': [0, 1, 8, 23, 0]}


def test_documents_do_not_run_into_each_other():
  text = [f'w{n}' for n in range(13)]
  evaluations = contamination.evaluations_of({'a': [' '.join(text)]}, 13)
  documents = [' '.join(text[:7]), ' '.join(text[7:]), '', ' '.join(text)]
  assert found(documents, evaluations) == {'a': [0, 0, 0, 1]}
  halves = contamination.evaluations_of(
    {'a': [' '.join(text[:7] + text[7:9]), ' '.join(text[9:] * 2)]}, 13
  )
  assert found([' '.join(text)], halves) == {'a': [1]}


def test_shorter_texts_match_as_a_whole_from_eight_words_on():
  texts = ['a b c d e f g', 'k l m n o p q r', 'A, b c d e f g h i -- j?']
  evaluations = contamination.evaluations_of({'short': texts}, 13)
  assert evaluations.texts == {'short': 2}
  assert evaluations.too_short == {'short': 1}
  documents = [
    'x a b c d e f g x', 'z k l m n o p q r z', 'k l m n o p q',
    'a b c d e f g h i j', 'a b c d e f g h i',
  ]  # fmt: skip
  assert found(documents, evaluations) == {'short': [0, 1, 0, 1, 0]}


def test_composed_and_decomposed_letters_are_the_same():
  composed = ' '.join(f'caf\u00e9{n}' for n in range(13))
  decomposed = composed.replace('\u00e9', 'e\u0301')
  for text in (composed, decomposed):
    evaluations = contamination.evaluations_of({'a': [text]}, 13)
    assert found([composed, decomposed], evaluations) == {'a': [1, 1]}


@law
@given(
  st.lists(st.text('aB c,\u00e9\n', max_size=30), max_size=5),
  st.text('ab C.\u00e9', min_size=1, max_size=40),
)
def test_hits_are_those_of_the_definition(documents, text):
  def words(string):
    plain = (''.join(filter(str.isalnum, w)) for w in string.lower().split())
    return [word for word in plain if word]

  def grams(string):
    split = words(string)
    return [tuple(split[n : n + 3]) for n in range(len(split) - 2)]

  if len(words(text)) < 3:
    with pytest.raises(ValueError, match='3 words or more'):
      contamination.evaluations_of({'a': [text]}, 3)
    return
  evaluations = contamination.evaluations_of({'a': [text]}, 3)
  known = set(grams(text))
  expected = [sum(g in known for g in grams(d)) for d in documents]
  assert found(documents, evaluations) == {'a': expected}


def test_prose_holds_none_of_another_text():
  names = sorted(topics())
  left = [topics()[name] for name in names[::2]]
  code = 'import os\n' * 20
  evaluations = contamination.evaluations_of({'code': [code]}, 13)
  assert sum(found(left, evaluations)['code']) == 0
  evaluations = contamination.evaluations_of({'itself': left}, 13)
  long = [len(text.split()) > 40 for text in left]
  hit = np.array(found(left, evaluations)['itself']) > 0
  assert hit[long].all()


def test_all_strings_of_all_kinds_of_files_count(tmp_path):
  def leak(n):
    return ' '.join(f'leak{n}x{i}' for i in range(13))

  records = [
    {'question': leak(0), 'choices': ['yes', leak(1)], 'answer': 3},
    {'deep': {'er': [{'text': leak(2)}]}, 'no': None},
  ]
  lines = '\n\n'.join(map(json.dumps, records)).encode()
  (tmp_path / 'a.jsonl').write_bytes(lines)
  (tmp_path / 'b.jsonl.gz').write_bytes(gzip.compress(lines))
  (tmp_path / 'c.jsonl.zst').write_bytes(zstandard.compress(lines))
  (tmp_path / 'd.txt').write_text(leak(0) + '\n' + leak(1) + '\n' + leak(2))
  parquet.write_table(
    pyarrow.table({'x': [leak(0), None], 'y': [[leak(1)], [leak(2)]]}),
    tmp_path / 'e.parquet',
  )
  globs = [
    'a.jsonl', 'b.jsonl.gz', 'c.jsonl.zst', 'd.txt', 'e.parquet', '[ae].*',
  ]  # fmt: skip
  evaluations = contamination.load_evaluations(
    config(*(f'{glob[0]}{n}={tmp_path}/{glob}' for n, glob in enumerate(globs)))
  )
  counts = found([leak(0), leak(1), leak(2), 'leak'], evaluations)
  assert len(counts) == 6
  for name, count in counts.items():
    assert count == [1, 1, 1, 0], name


@pytest.mark.parametrize(
  ('file', 'content', 'message'),
  [
    ('a.jsonl', b'{"x": "fine"}\n{"x"', r'a\.jsonl:2: not JSON'),
    ('a.jsonl', b'{"x": "\xff"}', r'a\.jsonl:1: not JSON'),
    (
      'a.jsonl.gz',
      gzip.compress(b'{}\n' * 900, mtime=0)[:-9],
      'cannot be read',
    ),
    ('a.txt', b'\xff\xfe', 'cannot be read'),
    ('a.parquet', b'PAR', 'cannot be read'),
    ('a.csv', b'x', r'ends neither in \.txt'),
    ('a.txt', b'seven words are too few to find', 'none of the 1 texts'),
  ],
)
def test_what_cannot_be_looked_for_is_an_error(
  tmp_path, file, content, message
):
  (tmp_path / file).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    contamination.load_evaluations(config(f'name={tmp_path}/{file}'))


def test_names_without_files_and_single_words_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r'contamination\.evaluations: nothing'):
    contamination.load_evaluations(config(f'gsm8k={tmp_path}/*.jsonl'))
  with pytest.raises(ValueError, match='name=value'):
    contamination.load_evaluations(config('gsm8k'))
  with pytest.raises(ValueError, match=r'contamination\.ngram=1'):
    contamination.load_evaluations(config(ngram=1))


def test_without_evaluations_nothing_is_looked_for():
  assert found(['a'], contamination.load_evaluations(config())) == {}
