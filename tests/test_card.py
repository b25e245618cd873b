import copy
import dataclasses
import html.parser
import json
import random
import re

import numpy as np
import pytest

from input_pipeline.curation import card_charts, card_html, card_page
from input_pipeline.curation.card import (
  SHOWN_CHARACTERS,
  CardFacts,
  Contamination,
  ContaminationExample,
  DuplicateExample,
  TokenCount,
  data_card,
  to_json,
)
from input_pipeline.curation.statistics import Tally, merged

GROUPS = {'women': ('she', 'her'), 'men': ('he', 'his')}
HOSTILE = '</pre><script>alert(1)</script><img src=x onerror=a>&amp;"\'\0\x1b'
STAGES = ('exact_duplicates', 'normalise', 'language', 'code_quality')

FACTS = CardFacts(
  dataset='small',
  fingerprint='ab12cd34',
  options={'curation': {'profile': 'prose', 'keep': ['en'], 'cut': None}},
  versions={'python': '3.11.7', 'numpy': '2.3.1'},
  licence=None,
  stages=STAGES,
  unread={'empty': 1234, 'unreadable': 0},
  privacy_kinds=('email', 'secret'),
  cluster_sizes={2: 17, 3: 5, 4: 3, 150: 1},
  duplicate_examples=(
    DuplicateExample(
      removed_id='a',
      kept_id='b',
      similarity=0.8349999,
      removed_text='removed mail@x.org',
      kept_text='kept mail@x.org',
    ),
  ),
  minhash_lines=('similarity found', '0.8 92 %'),
  contamination=(
    Contamination(
      evaluation='gsm8k',
      documents=41,
      examples=(
        ContaminationExample(id='c', source='web', text='hit mail@x.org'),
      ),
    ),
  ),
  tokens={
    'web': TokenCount(bytes=123_456, tokens=30_864),
    'none': TokenCount(bytes=0, tokens=0),
  },
)


def run_stages(rows, source_names=('web', 'code')):
  """A tally of rows (id, source number, text, removed by which stage)."""
  tally = Tally(GROUPS)
  left = [(i, source_names[s], t, by) for i, s, t, by in rows]
  tally.lengths('before', [r[1] for r in left], [r[2] for r in left])
  for number, stage in enumerate(STAGES):
    mine = [
      row
      for row in left
      if (stage != 'language' or row[1] == source_names[0])
      and (stage != 'code_quality' or row[1] == source_names[1])
    ]
    edit = stage == 'normalise'
    removed = [row[3] == number and not edit for row in mine]
    tally.stage(
      stage,
      () if edit else ('never', 'chosen'),
      ids=[row[0] for row in mine],
      sources=[row[1] for row in mine],
      texts=[row[2] for row in mine],
      texts_after=[row[2].replace('é', 'e') for row in mine] if edit else None,
      rule_D=np.where(removed, 1, -1).astype(np.int8),
    )
    gone = {row[0] for row, out in zip(mine, removed, strict=True) if out}
    left = [
      (i, s, t.replace('é', 'e') if edit else t, by)
      for i, s, t, by in left
      if i not in gone
    ]
  tally.lengths('after', [r[1] for r in left], [r[2] for r in left])
  for _, source, text, _ in left:
    tally.label('language', 'en', source, 1, len(text))
    tally.count('email', source, 3)
    tally.count('mojibake', source, 1)
  return tally


def rows_of(count, seed=0):
  rng = random.Random(seed)
  words = ('she', 'his', 'data', 'é', 'mail@x.org', 'lorem ipsum')
  return [
    (
      f'd{i}',
      int(rng.random() < 0.3),
      ' '.join(rng.choices(words, k=rng.randrange(1, 90))),
      rng.choice((-1, -1, 0, 2, 3)),
    )
    for i in range(count)
  ]


TALLY = run_stages(rows_of(700))


def redact(text):
  return text.replace('mail@x.org', '<mail>')


def card_of(tally=TALLY, facts=FACTS):
  return data_card(tally, facts, redact=redact)


class Page(html.parser.HTMLParser):
  """What a reader, and a browser, find in a page."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.attributes, self.texts, self.documents = (
      set(),
      set(),
      [],
      [],
    )
    self._skip = self._pre = False
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes |= {name for name, _ in attrs}
    classes = (dict(attrs).get('class') or '').split()
    self._skip = tag == 'style' or 'tick' in classes
    self._pre = tag == 'pre'
    if label := dict(attrs).get('aria-label'):
      self.texts.append(label)
    if self._pre:
      self.documents.append('')

  def handle_endtag(self, tag):
    self._skip = self._pre = False

  def handle_data(self, data):
    if self._pre:
      self.documents[-1] += data
    elif not self._skip:
      self.texts.append(data)


def leaves(value):
  if isinstance(value, dict):
    return [leaf for item in value.values() for leaf in leaves(item)]
  if isinstance(value, list):
    return [leaf for item in value for leaf in leaves(item)]
  return [value]


def test_every_number_on_the_page_stands_in_the_card():
  card = card_of()
  written = set()
  for leaf in leaves(card):
    if isinstance(leaf, int):
      for write in ('count', 'short', 'size', 'power', 'signed'):
        written.add(getattr(card_html, write)(leaf))
    if isinstance(leaf, int | float):
      written |= {card_html.percent(leaf), card_html.decimal(leaf)}
    written.add(str(leaf))
  number = re.compile(r'\d[\d,.]*\d|\d')
  known = {n for text in written for n in number.findall(text)}
  shown = [
    n
    for text in Page(card_page.render(card)).texts
    for n in number.findall(text)
  ]
  assert len(shown) > 300
  # The words say that 1 is alike, 2 is twice, and of what the interval is.
  assert set(shown) - known <= {'0', '1', '2', '95'}


def test_the_page_shows_the_main_numbers():
  card = card_of()
  texts = Page(card_page.render(card)).texts
  assert '700' in ' '.join(texts)
  for record in card['removed_by_rule']:
    at = texts.index(record['rule'])
    assert f'{record["documents"]:,}' in texts[at:]
  row = next(r for r in card['disparity'] if r['removed'])
  interval = f'{row["ratio"]:.2f} ({row["low"]:.2f} to {row["high"]:.2f})'
  assert interval in texts
  assert '4.00' in texts
  assert 'Documents not counted here: 1,234 empty.' in texts


def test_equal_tallies_give_equal_bytes():
  rows = rows_of(60, seed=1)
  whole = card_of(run_stages(rows))
  parts = [run_stages(rows[start : start + 7]) for start in range(0, 60, 7)]
  random.Random(0).shuffle(parts)
  card = card_of(merged(GROUPS, parts))
  assert to_json(card) == to_json(whole)
  assert card_page.render(card) == card_page.render(whole)
  # The page needs what is in the file, and nothing else.
  assert card_page.render(json.loads(to_json(card))) == card_page.render(whole)


def keys(value):
  if isinstance(value, dict):
    return set(value) | {k for item in value.values() for k in keys(item)}
  if isinstance(value, list):
    return {k for item in value for k in keys(item)}
  return set()


def test_names_of_data_are_values_and_not_keys():
  tally = run_stages(rows_of(20), ('A source', 'B'))
  facts = dataclasses.replace(FACTS, versions={'tensorflow-cpu': '2'})
  assert all(
    re.fullmatch('[a-z][a-z0-9_]*', key) for key in keys(card_of(tally, facts))
  )


def test_what_is_left_adds_up():
  card = card_of()
  assert [s['stage'] for s in card['remaining']] == ['read', *STAGES]
  for step in card['remaining']:
    for unit in ('documents', 'bytes'):
      assert step[unit] == sum(s[unit] for s in step['sources'])
  removed = sum(r['documents'] for r in card['removed_by_rule'])
  totals = card['totals']
  assert totals['documents_before'] - removed == totals['documents_after']
  assert totals['documents_before'] == 700
  sums = card['concentration']['sources']
  for when in ('before', 'after'):
    for unit in ('documents', 'bytes'):
      total = totals[f'{unit}_{when}']
      assert sum(s[f'{unit}_{when}'] for s in sums) == total
      assert sum(b[f'{unit}_{when}'] for b in card['lengths']) == total
  # Code has no language stage and passes it whole.
  by_stage = {s['stage']: s['sources'] for s in card['remaining']}
  assert by_stage['language'][0] == by_stage['normalise'][0]
  assert by_stage['code_quality'][0] != by_stage['language'][0]


@pytest.mark.parametrize(
  ('table', 'key'),
  [
    ('funnel', ('normalise', 'web', 'documents_in')),
    ('funnel', ('normalise', 'web', 'documents_out')),
    ('funnel', ('language', 'web', 'documents_removed')),
    ('funnel', ('normalise', 'web', 'bytes_in')),
    ('funnel', ('normalise', 'web', 'bytes_edited')),
    ('funnel', ('code_quality', 'code', 'bytes_out')),
    ('funnel', ('language', 'web', 'bytes_removed')),
    ('removed', ('language', 'chosen', 'web', 'documents')),
    ('removed', ('language', 'chosen', 'web', 'bytes')),
    ('lengths', ('before', 'web', 5, 'documents')),
    ('lengths', ('after', 'code', 5, 'bytes')),
  ],
)
def test_a_lost_document_is_noticed(table, key):
  tally = Tally.from_json(TALLY.to_json())
  card_of(tally)
  assert getattr(tally.tables, table)[key]
  getattr(tally.tables, table)[key] += 1
  with pytest.raises(AssertionError):
    card_of(tally)


def test_a_lost_stage_is_noticed():
  tally = Tally.from_json(TALLY.to_json())
  for key in [k for k in tally.tables.funnel if k[0] == 'language']:
    del tally.tables.funnel[key]
  with pytest.raises(AssertionError, match='left the last stage'):
    card_of(tally)
  facts = dataclasses.replace(FACTS, stages=STAGES[:-1])
  with pytest.raises(AssertionError, match=r"\['code_quality'\]"):
    card_of(facts=facts)


def test_text_of_documents_cannot_act():
  rows = [
    (f'{HOSTILE}{i}', i % 2, f'{HOSTILE} she', 2 + i % 2) for i in range(6)
  ]
  tally = run_stages(rows, (f'web{HOSTILE}', f'code{HOSTILE}'))
  tally.label(HOSTILE, HOSTILE, f'web{HOSTILE}', 1, 1)
  tally.count(HOSTILE, f'web{HOSTILE}', 1)
  facts = dataclasses.replace(
    FACTS,
    dataset=HOSTILE,
    licence=HOSTILE,
    minhash_lines=(HOSTILE,),
    options={HOSTILE: HOSTILE},
    duplicate_examples=(
      DuplicateExample(
        removed_id=HOSTILE,
        kept_id=HOSTILE,
        similarity=1.0,
        removed_text=HOSTILE,
        kept_text=HOSTILE,
      ),
    ),
  )
  page = Page(card_page.render(card_of(tally, facts)))
  plain = Page(card_page.render(card_of()))
  assert page.tags <= plain.tags
  assert page.attributes <= plain.attributes
  assert not page.tags & {'script', 'img', 'link', 'a', 'iframe'}
  # A reader sees the text as it is, but for what no page can show.
  seen = HOSTILE.replace('\0', '\ufffd').replace('\x1b', '\ufffd')
  assert page.documents.count(seen) == 3
  assert page.documents.count(f'{seen} she') == 6


def test_the_page_asks_nobody_for_anything():
  page = card_page.render(card_of())
  assert "default-src 'none'" in page
  for word in (
    'http:',
    'https:',
    'url(',
    '@import',
    'src=',
    'href=',
    '<script',
  ):
    assert word not in page


def test_examples_are_redacted_before_they_are_cut():
  text = 'x' * (SHOWN_CHARACTERS - 4) + 'mail@x.org and more' + 'y' * 200
  tally = run_stages([('1', 0, text, 2), ('2', 0, 'mail@x.org', -1)])
  card = card_of(tally)
  (shown,) = [
    e['text'] for r in card['removed_examples'] for e in r['examples']
  ]
  assert shown == 'x' * (SHOWN_CHARACTERS - 4) + '<mai'
  assert 'mail@' not in to_json(card).decode()
  assert card['examples_redacted']
  assert 'was replaced in the texts' in card_page.render(card)
  raw = data_card(tally, FACTS, redact=None)
  assert 'mail@' in to_json(raw).decode()
  assert 'they may hold personal data' in card_page.render(raw)


def test_what_was_not_measured_is_said():
  facts = dataclasses.replace(
    FACTS,
    privacy_kinds=None,
    cluster_sizes=None,
    contamination=None,
    tokens=None,
  )
  tally = Tally({})
  card = card_of(tally, facts)
  everything = card_of(facts=dataclasses.replace(FACTS, licence='MIT'))
  surplus = card['not_measured'][: -len(everything['not_measured'])]
  words = ['groups', 'evaluation', 'Near-dup', 'Personal', 'Languages']
  words += ['Licences', 'Tokens']
  for word, text in zip(words, surplus, strict=True):
    assert word in text
  page = card_page.render(card)
  for text in surplus:
    assert text in page
  for title in ('Are groups treated alike?', 'Evaluation texts', 'Bytes per'):
    assert title not in page
    assert title in card_page.render(everything)


def test_clusters_are_binned_and_none_is_lost():
  found = card_of()['duplicates']
  assert (found['clusters'], found['documents'], found['largest']) == (
    26,
    2 * 17 + 3 * 5 + 4 * 3 + 150,
    150,
  )
  assert [tuple(b.values()) for b in found['sizes']] == [
    (2, 2, 17, 34),
    (3, 4, 8, 27),
    (129, 256, 1, 150),
  ]
  assert found['examples'][0]['similarity'] == 0.835


def test_no_estimate_is_no_number():
  tally = run_stages([('1', 0, 'she', -1), ('2', 0, 'data', 0)])
  card = card_of(tally)
  women, men = (
    next(r for r in card['disparity'] if r['group'] == group)
    for group in ('women', 'men')
  )
  assert (women['ratio'], women['low'], women['high']) == (0, 0, 1.31524)
  assert (men['ratio'], men['low'], men['high']) == (None, None, None)
  texts = Page(card_page.render(card)).texts
  assert '0.00 (0.00 to 1.32)' in texts
  assert 'no mention' in texts


def test_many_sources_share_the_last_colour():
  tally = Tally({})
  names = [f's{i:02}' for i in range(12)]
  texts = ['x' * (100 - i) for i in range(12)]
  for when in ('before', 'after'):
    tally.lengths(when, names, texts)
  page = card_page.render(card_of(tally))
  assert 'other sources' in page
  assert '--p7' in page
  assert 'var(--p8)' not in page


def test_bars_share_a_scale():
  svg = card_charts.bars(
    [
      card_charts.Bar(name='a', parts=[(0, 30, ''), (1, 10, '')], value='40'),
      card_charts.Bar(name='b', parts=[(0, 20, ''), (1, 0, '')], value='20'),
    ]
  )
  rects = re.findall(r'x="([\d.]+)%" width="([\d.]+)%"', svg)
  assert rects == [
    ('0.000', '75.000'),
    ('75.000', '25.000'),
    ('0.000', '50.000'),
  ]


def test_ratios_lie_around_one_in_a_forest():
  def interval(ratio, low, high):
    return card_charts.Interval(
      name='g', ratio=ratio, low=low, high=high, value=''
    )

  svg = card_charts.forest(
    [
      ('s', [interval(1.0, 0.5, 2.0), interval(2.0, 1.5, 3.0)]),
      ('t', [interval(0.5, 0.4, 0.9), interval(0.0, 0.0, 0.8)]),
      ('u', [interval(None, None, None), interval(100.0, 50.0, 200.0)]),
    ]
  )
  dots = re.findall(r'circle class="(\w+)"[^>]* cx="([\d.]+)%"', svg)
  assert [style for style, _ in dots] == [
    'same',
    'more',
    'less',
    'less',
    'more',
  ]
  one, two, half, zero, far = (float(x) for _, x in dots)
  assert one == 50
  assert two - one == pytest.approx(one - half)
  assert (zero, far) == (0, 100)


@pytest.mark.parametrize(
  ('write', 'value', 'text'),
  [
    (card_html.short, 12_345, '12,345'),
    (card_html.short, 999_499, '999,499'),
    (card_html.short, 999_500, '1.00 million'),
    (card_html.short, 12_345_678_901, '12.3 billion'),
    (card_html.size, 999, '999 B'),
    (card_html.size, 999_500, '1.00 MB'),
    (card_html.size, 123_456_789_012, '123 GB'),
    (card_html.power, 512, '512 B'),
    (card_html.power, 4096, '4 KiB'),
    (card_html.power, 1 << 31, '2 GiB'),
    (card_html.percent, None, '–'),
    (card_html.percent, 0.0, '0 %'),
    (card_html.percent, 1.0, '100 %'),
    (card_html.percent, 0.9996, '99.96 %'),
    (card_html.percent, 0.999999, '99.9999 %'),
    (card_html.percent, 0.5, '50.0 %'),
    (card_html.percent, 0.000123, '0.012 %'),
    (card_html.round_count, 20_000, '20k'),
    (card_html.round_count, 2_500_000, '2.5M'),
    (card_html.round_size, 400_000, '400 kB'),
  ],
)
def test_numbers_are_written_short(write, value, text):
  assert write(value) == text


def test_the_card_does_not_change_what_it_is_given():
  tally, facts = TALLY.to_json(), copy.deepcopy(FACTS)
  card_of()
  assert TALLY.to_json() == tally
  assert facts == FACTS
