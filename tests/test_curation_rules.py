"""Each rule of curation just inside and just outside its bound."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.curation import get_curation
from input_pipeline.curation import gopher
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import (
  Profile,
  curation_config,
)
from input_pipeline.curation.stages import STAGES

CONFIG = curation_config(get_curation().to_dict())
law = settings(max_examples=60, derandomize=True, deadline=None)


def options(name, **changes):
  """The defaults of a stage, with every other rule of it out of the way."""
  return dataclasses.replace(getattr(CONFIG.prose, name), **changes)


# Bounds that nothing breaks, so that a case meets one rule alone.
OPEN = {
  'gopher_quality': {
    'min_words': 0, 'max_words': 10**9, 'min_mean_word_length': 0.0,
    'max_mean_word_length': 1e9, 'max_symbol_ratio': 1e9,
    'max_bullet_lines': 1.0, 'max_ellipsis_lines': 1.0,
    'min_alphabetic_words': 0.0, 'min_stop_words': 0,
  },
  'gopher_repetition': {
    field.name: 1e9
    for field in dataclasses.fields(CONFIG.prose.gopher_repetition)
    if field.name != 'enabled'
  },
  'c4': {
    'end_punctuation': False, 'min_words_per_line': 0,
    'max_word_length': 10**9, 'remove_policy_lines': False,
    'min_sentences': 0, 'no_curly_brackets': False, 'no_lorem_ipsum': False,
  },
  'refinedweb': {
    'max_uppercase': 1.0, 'max_navigation_words': 0, 'max_removed_words': 1.0,
  },
  'fineweb': {
    'min_punctuated_lines': 0.0, 'max_short_lines': 1.0,
    'short_line_length': 30, 'max_duplicate_line_characters': 1.0,
    'max_lines_per_word': 1e9,
  },
  'code_quality': {
    'max_mean_line_length': 1e9, 'max_line_length': 10**9,
    'min_alphanumeric': 0.0,
  },
}  # fmt: skip


def verdict(name, text, **changes):
  """The rule that leaves a text out, or None."""
  chosen = options(name, **(OPEN.get(name, {}) | changes))
  rule = STAGES[name].apply(Columns(['', text, 'x']), chosen).rule_D[1]
  return None if rule < 0 else STAGES[name].rules[rule]


def edited(name, text, **changes):
  """A text after a stage."""
  chosen = options(name, **(OPEN.get(name, {}) | changes))
  outcome = STAGES[name].apply(Columns(['', text, 'x']), chosen)
  return text if outcome.texts is None else outcome.texts[1]


def words(count, *, prefix='w'):
  return ' '.join(f'{prefix}{number}' for number in range(count))


def lines(*rows):
  return '\n'.join(rows)


def test_the_table_has_the_sections_of_a_profile():
  sections = [
    field.name
    for field in dataclasses.fields(Profile)
    if dataclasses.is_dataclass(field.type)
  ]
  assert list(STAGES) == sections
  for name, found in STAGES.items():
    assert found.name == name
    assert len(set(found.rules)) == len(found.rules)


# (stage, rule, options, text that stays, text that goes): published bounds
# where the options do not say otherwise.
CASES = [
  ('normalise', 'empty', {}, 'a', ' \n\x00\ufeff\t'),
  ('gopher_quality', 'few_words', {'min_words': 50}, words(50), words(49)),
  (
    'gopher_quality', 'many_words', {'max_words': 100_000},
    words(100_000), words(100_001),
  ),
  (
    'gopher_quality', 'short_words', {'min_mean_word_length': 3.0},
    'ab abc abcd', 'ab abc abc',
  ),
  (
    'gopher_quality', 'long_words', {'max_mean_word_length': 10.0},
    'a' * 9 + ' ' + 'b' * 11, 'a' * 10 + ' ' + 'b' * 11,
  ),
  (
    'gopher_quality', 'hashes', {'max_symbol_ratio': 0.1},
    words(19) + ' #a#', words(19) + ' #a##',
  ),
  (
    'gopher_quality', 'ellipses', {'max_symbol_ratio': 0.1},
    words(19) + ' a...b…', words(19) + ' a...b…c……',
  ),
  (
    'gopher_quality', 'bullet_lines', {'max_bullet_lines': 0.9},
    lines(*['• a', ' - b', '* c'] * 3, 'd', '', '-e', '**f**', *['-'] * 18),
    lines(*['• a', ' - b', '* c'] * 3, '•d', ''),
  ),
  (
    'gopher_quality', 'ellipsis_lines', {'max_ellipsis_lines': 0.3},
    lines('a...', 'b…', 'c ... ', 'd..', 'e', '..', '… f', '. . .', 'g', 'h'),
    lines('a...', 'b…', 'c ... ', '...', *['d', 'e', 'f', 'g', 'h', 'i']),
  ),
  (
    'gopher_quality', 'few_alphabetic_words', {'min_alphabetic_words': 0.8},
    'a 1b 2é3 --x 5', 'a 1b 2é3 4 5',
  ),
  (
    'gopher_quality', 'few_stop_words', {'min_stop_words': 2},
    'The cat with', 'the the THE cat then',
  ),
  (
    'gopher_repetition', 'duplicate_lines', {'max_duplicate_lines': 0.3},
    lines('a', ' a', 'a ', 'a', *'bcdefg', '', ''),
    lines(*'aaaaa', *'bcdef'),
  ),
  (
    'gopher_repetition', 'duplicate_paragraphs',
    {'max_duplicate_paragraphs': 0.3},
    '\n\n'.join(['a\nb'] * 4 + list('cdefgh')),
    '\n\n'.join(['a\nb'] * 5 + list('cdefg')),
  ),
  (
    'gopher_repetition', 'duplicate_line_characters',
    {'max_duplicate_line_characters': 0.2},
    lines('abcd', 'abcd', 'x' * 12), lines('abcd', 'abcd', 'x' * 11),
  ),
  (
    'gopher_repetition', 'duplicate_paragraph_characters',
    {'max_duplicate_paragraph_characters': 0.2},
    '\n\n'.join(['abcd', 'abcd', 'x' * 12]),
    '\n \n'.join(['abcd', 'abcd', 'x' * 11]),
  ),
  (
    'gopher_repetition', 'top_2gram', {'max_top_2gram': 0.2},
    'ab cd ab cd ' + 'x' * 32, 'ab cd ab cd ' + 'x' * 31,
  ),
  (
    'gopher_repetition', 'top_3gram', {'max_top_3gram': 0.18},
    'abc abc def ' * 2 + 'x' * 82, 'abc abc def ' * 2 + 'x' * 81,
  ),
  (
    'gopher_repetition', 'top_4gram', {'max_top_4gram': 0.16},
    'a b c d a b c d ' + 'x' * 42, 'a b c d a b c d ' + 'x' * 41,
  ),
  *(
    (
      'gopher_repetition', f'duplicate_{n}grams',
      {f'max_duplicate_{n}grams': bound},
      # n letters that stood before, of n / bound characters.
      f'{" ".join("abcdefghij"[:n])} ' * 2 + 'x' * inside,
      f'{" ".join("abcdefghij"[:n])} ' * 2 + 'x' * (inside - 1),
    )
    for n, bound, inside in (
      (5, 0.15, 24), (6, 0.14, 31), (7, 0.13, 40), (8, 0.12, 51),
      (9, 0.11, 64), (10, 0.1, 80),
    )
  ),
  ('c4', 'curly_bracket', {'no_curly_brackets': True}, 'a }', 'a { b'),
  (
    'c4', 'lorem_ipsum', {'no_lorem_ipsum': True},
    'lorem  ipsum', 'A Lorem Ipsum dolor',
  ),
  (
    'c4', 'few_sentences', {'min_sentences': 3},
    'One here. Two "there." Three', 'One here. Two e.g. there. three',
  ),
  ('c4', 'empty', {'min_words_per_line': 2}, 'a b', 'a\n\nb'),
  (
    'refinedweb', 'many_words_removed', {'max_removed_words': 0.05},
    lines(words(19), 'lone'), lines(words(18), 'lone'),
  ),
  ('refinedweb', 'empty', {}, 'a b', 'a\n\n12'),
  (
    'fineweb', 'few_punctuated_lines', {'min_punctuated_lines': 0.12},
    lines('a.', 'b”', 'c! ', '', *['d'] * 22), lines('a.', 'b"', *['d,'] * 15),
  ),
  (
    'fineweb', 'short_lines', {'max_short_lines': 0.67},
    lines(*['a' * 30] * 67, *['b' * 31] * 33, '', ''),
    lines(*['a' * 30] * 68, *['b' * 31] * 32),
  ),
  (
    'fineweb', 'duplicate_line_characters',
    {'max_duplicate_line_characters': 0.1},
    lines('ab', 'ab', 'x' * 16), lines('ab', 'ab', 'x' * 15),
  ),
  (
    'fineweb', 'many_lines_per_word', {'max_lines_per_word': 0.3},
    'a b c d\n\ne f g h i\nj', 'a b c d\n\ne f g h i\nj\n',
  ),
  (
    'code_quality', 'long_lines', {'max_mean_line_length': 100.0},
    lines('a' * 99, 'b' * 101, ''), lines('a' * 100, 'b' * 101, ''),
  ),
  (
    'code_quality', 'longest_line', {'max_line_length': 1_000},
    lines('a', 'b' * 1_000), lines('a', 'b' * 1_001),
  ),
  (
    'code_quality', 'few_alphanumeric', {'min_alphanumeric': 0.25},
    'aé1\n' + '-' * 8, 'aé1\n' + '-' * 9,
  ),
]  # fmt: skip


@pytest.mark.parametrize(
  ('name', 'rule', 'changes', 'stays', 'goes'),
  CASES,
  ids=[f'{name}-{rule}' for name, rule, *_ in CASES],
)
def test_a_rule_has_its_bound(name, rule, changes, stays, goes):
  assert verdict(name, stays, **changes) is None
  assert verdict(name, goes, **changes) == rule


def test_every_rule_has_a_case():
  told = {(name, rule) for name, rule, *_ in CASES}
  every = {(n, rule) for n, found in STAGES.items() for rule in found.rules}
  # Those of language stand in test_curation_text.py.
  assert every - told == {
    ('language', 'other_language'),
    ('language', 'uncertain'),
  }


def test_an_ngram_that_occurs_once_is_no_repetition():
  # datatrove 0.10 leaves this out: its most frequent 2-gram is 'hello world'.
  text = 'hello world'
  assert verdict('gopher_repetition', text, max_top_2gram=0.2) is None


def reference_repetition(text, n):
  """Characters of top and of duplicate n-grams by the words of the paper."""
  found = text.split()
  grams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
  counts = {gram: grams.count(gram) for gram in grams}
  top = max(
    ((c, len(''.join(gram))) for gram, c in counts.items() if c > 1),
    default=(0, 0),
  )
  seen, covered = set(), set()
  for place, gram in enumerate(grams):
    if gram in seen:
      covered.update(range(place, place + n))
    seen.add(gram)
  return top[0] * top[1], sum(len(found[i]) for i in covered)


@law
@given(
  st.lists(st.lists(st.sampled_from(['a', 'bb', 'c']), max_size=30), max_size=4)
)
def test_repetition_is_what_the_paper_counts(documents):
  texts = [' '.join(document) for document in documents]
  top, duplicate = gopher._ngram_fractions(Columns(texts))
  for document, text in enumerate(texts):
    total = max(1, sum(map(len, text.split())))
    for n in top:
      expected = reference_repetition(text, n)[0] / total
      assert top[n][document] == expected
    for n in duplicate:
      expected = reference_repetition(text, n)[1] / total
      assert duplicate[n][document] == expected


def test_sorting_packed_keys_is_a_stable_sort():
  low = np.array([5, 3, 5, 4, 3, 5], np.uint64)
  for keys in (low, low << np.uint64(40), low[:1], low[:0]):
    expected = np.argsort(keys, kind='stable')
    np.testing.assert_array_equal(gopher._sorted_order(keys), expected)


C4_LINES = [
  ({'min_words_per_line': 5}, 'a b c d e', 'a b c d'),
  ({'max_word_length': 1_000}, 'w' * 1_000, 'w' * 1_001),
  ({'remove_policy_lines': True}, 'of java script', 'Use JavaScript now'),
  ({'remove_policy_lines': True}, 'a privacy', 'See our Privacy Policy.'),
  ({'end_punctuation': True}, 'It ends.', 'It does not;'),
  ({'end_punctuation': True}, 'It "ends"', 'It goes on...'),
]


@pytest.mark.parametrize(('changes', 'stays', 'goes'), C4_LINES)
def test_c4_removes_lines(changes, stays, goes):
  others = ['First line of five words.', '', '  Last line of six words here.']
  text = lines(others[0], '', stays, '', '', *others[1:])
  assert edited('c4', text, **changes) == text
  text = lines('', others[0], '', goes, '', goes, *others[1:], goes, '')
  assert edited('c4', text, **changes) == lines(*others)


REFINEDWEB_LINES = [
  ('ABC def', 'ABC d'), ('3 apples', '12 345'), ('two words', 'one'),
  ('we like 3 likes', '3.4k Likes'), ('12 comments follow', '1,024 comments'),
  ('you sign in here', 'Sign in to see'), ('read more of', 'Go: Read more...'),
  ('all the items', '3 items in cart'),
]  # fmt: skip


@pytest.mark.parametrize(('stays', 'goes'), REFINEDWEB_LINES)
def test_refinedweb_removes_lines(stays, goes):
  changes = {'max_uppercase': 0.5, 'max_navigation_words': 10}
  text = lines('The first line.', stays, 'The last line.')
  assert edited('refinedweb', text, **changes) == text
  text = lines('The first line.', goes, 'The last line.')
  expected = lines('The first line.', 'The last line.')
  assert edited('refinedweb', text, **changes) == expected


def test_long_lines_may_speak_of_reading_more():
  line = words(9) + ' read more'
  assert edited('refinedweb', f'a b\n{line}', max_navigation_words=10) == (
    f'a b\n{line}'
  )


SENTENCES = st.lists(
  st.sampled_from([
    'The cat sat with the dog and that was to be expected of it.', '', '  ',
    'See our privacy policy', '• one two three four five', 'No.',
    'A line that stood before has to have more words than five.', '{', '...',
    'jane@example.org wrote "Yes!" to all of us.', 'HALF UPPER', '12 likes',
    'é\r\nschÃ¶n und gut', 'lone', '#include <stdio.h>', '1 2 3 4 5 6 7 8',
  ]),
  max_size=12,
).map('\n'.join)  # fmt: skip


@law
@given(st.lists(SENTENCES, max_size=4), st.sampled_from(sorted(STAGES)))
def test_neighbours_do_not_matter(texts, name):
  chosen = dataclasses.replace(
    options(name),
    **{'gopher_quality': {'min_words': 5}}.get(name, {}),
  )
  run = STAGES[name].apply
  together = run(Columns(texts), chosen)
  assert together.rule_D.dtype == np.int8
  assert together.rule_D.shape == (len(texts),)
  for place, text in enumerate(texts):
    alone = run(Columns([text]), chosen)
    assert alone.rule_D[0] == together.rule_D[place]
    told = text if together.texts is None else together.texts[place]
    assert told == (text if alone.texts is None else alone.texts[0])
    for kind, count_D in together.counts.items():
      assert count_D[place] == alone.counts[kind][0]
    for kind, labels in together.labels.items():
      assert labels[place] == alone.labels[kind][0]
