"""What each augmentation does to rows, and what none of them may do.

Suffixes as in input_pipeline/augmentation/draft.py.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import base
from input_pipeline import packing
from input_pipeline.augmentation.augment import Augment
from input_pipeline.augmentation.config import augmentation_config
from input_pipeline.augmentation.draft import (
  BODY,
  COUNTS,
  VISIBLE,
  Draft,
  Vocabulary,
)
from input_pipeline.augmentation.table import AUGMENTATIONS
from train import rows as train_rows

PAD, BOS, CONTINUE, EOS = range(4)
SENTINELS = 12
TOKENS = (
  '<|mask|>', '<|source|>', '<|right_to_left|>', '<|fim_prefix|>',
  '<|fim_suffix|>', '<|fim_middle|>', '<|ul2_r|>', '<|ul2_x|>', '<|ul2_s|>',
  *(f'<|offset_{i}|>' for i in range(2, 6)),
  *(f'<|span_{i}|>' for i in range(SENTINELS)),
)  # fmt: skip
SPECIAL = {token: 4 + i for i, token in enumerate(TOKENS)}
FIRST_TEXT = 4 + len(TOKENS)
VOCAB = FIRST_TEXT + 400
NAME = [FIRST_TEXT + 390, FIRST_TEXT + 391]

# A row for each augmentation: it is held to the laws of all.
CASES = {
  'token_dropout': {'rate': 0.2},
  'metadata_prefix': {'rate': 0.8},
  'fill_in_the_middle': {'rate': 0.7},
  'ul2': {'r_rate': 0.3, 'x_rate': 0.3, 's_rate': 0.3},
  'target_offset': {'rate': 0.7},
  'right_to_left': {'rate': 0.6},
  'token_replacement': {'rate': 0.3},
  'input_masking': {'rate': 0.3},
}
# All at once; pieces are shared out.
EVERYTHING = CASES | {
  'fill_in_the_middle': {'rate': 0.3},
  'ul2': {'r_rate': 0.1, 'x_rate': 0.1, 's_rate': 0.1},
  'right_to_left': {'rate': 0.4},
}
each_alone_and_all = pytest.mark.parametrize(
  'sections',
  [*({name: fields} for name, fields in CASES.items()), EVERYTHING],
  ids=[*CASES, 'everything'],
)


def configure(sections, **others):
  config = base.get_config()
  config.data.tokenizer.special_tokens = TOKENS
  config.augmentation.ul2.sentinels = SENTINELS
  for name, fields in sections.items():
    config.augmentation[name].update(fields)
  config.update_from_flattened_dict(others)
  return augmentation_config(config)


def make_augment(sections, *, seed=0, steps=100):
  return Augment(
    augmentations=configure(sections).active,
    vocabulary=Vocabulary(
      pad_id=PAD,
      bos_id=BOS,
      continue_id=CONTINUE,
      eos_id=EOS,
      special=SPECIAL,
      ordinary_V=np.arange(FIRST_TEXT, VOCAB),
      encode=lambda text: np.array(NAME),
    ),
    seed=seed,
    steps=steps,
  )


def make_rows(length=65, documents=300, seed=0, longest=150):
  """Packed rows of random ordinary tokens, the names' tokens left out."""
  generator = np.random.default_rng(seed)
  lengths_D = generator.integers(1, longest, documents)
  texts = [
    generator.integers(FIRST_TEXT, VOCAB - 10, n).astype(np.uint16)
    for n in lengths_D
  ]
  pieces_P4, num_rows = packing.pack(lengths_D, length)
  return packing.fill_rows(
    pieces_P4, texts, num_rows=num_rows, row_length=length,
    dtype=np.dtype('<u2'), pad_id=PAD, bos_id=BOS, continue_id=CONTINUE,
    eos_id=EOS,
  )  # fmt: skip


ROWS = make_rows()


def sources_of(rows_NR):
  return ['web'] * int((rows_NR == BOS).sum())


def augmented(sections, rows_NR=ROWS, *, step=3, first=0, **run):
  return make_augment(sections, **run)(
    rows_NR,
    step=step,
    place_N=np.arange(first, first + len(rows_NR)),
    sources=sources_of(rows_NR),
  )


def drafted(sections, rows_NR=ROWS, *, step=3):
  """The rows after all augmentations, last column included."""
  augment = make_augment(sections)
  draft = Draft(
    rows_NR,
    vocabulary=augment.vocabulary,
    seed=0,
    step=step,
    place_N=np.arange(len(rows_NR)),
    progress=0.0,
    sources=sources_of(rows_NR),
  )
  for augmentation in augment.augmentations:
    augmentation.apply(draft)
  return draft


def pieces_of(rows_NR):
  """Pieces as lists of tokens, cut at their marks, as the device does."""
  found = []
  for row in rows_NR:
    row = row[row != PAD]
    starts = np.flatnonzero((row == BOS) | (row == CONTINUE))
    found += [piece.tolist() for piece in np.split(row, starts[1:])]
  return found


def body_of(piece):
  return piece[1:-1] if piece[-1] == EOS else piece[1:]


def split_at(tokens, mark):
  assert tokens.count(mark) == 1, (tokens, mark)
  at = tokens.index(mark)
  return tokens[:at], tokens[at + 1 :]


def assert_share(count, total, share):
  """Within four standard deviations of a binomial."""
  deviation = math.sqrt(total * share * (1 - share))
  assert abs(count - total * share) < 4 * deviation, (count, total * share)


def test_every_augmentation_has_a_case():
  assert CASES.keys() == AUGMENTATIONS.keys()


def test_the_step_reads_the_bits_that_are_written():
  assert (train_rows.COUNTS, train_rows.VISIBLE) == (COUNTS, VISIBLE)


# Laws of all.


def test_nothing_is_on_by_default():
  config = augmentation_config(base.get_config())
  assert config.active == ()
  assert not config.repack


@each_alone_and_all
def test_rows_marks_and_ends_stay(sections):
  before = ROWS.copy()
  draft, batch = drafted(sections), augmented(sections)
  np.testing.assert_array_equal(ROWS, before)
  rows_NR = draft.tokens_NR
  for token in (BOS, CONTINUE, EOS):
    np.testing.assert_array_equal(
      (rows_NR == token).sum(1), (token == ROWS).sum(1)
    )
  found, wanted = pieces_of(rows_NR), pieces_of(ROWS)
  assert [p[0] for p in found] == [p[0] for p in wanted]
  assert [p[-1] == EOS for p in found] == [p[-1] == EOS for p in wanted]
  if 'token_dropout' not in sections:
    for token in (PAD, BOS, CONTINUE, EOS):
      np.testing.assert_array_equal(rows_NR == token, token == ROWS)
  # Padding ends rows, and nothing else does.
  padding_NR = rows_NR == PAD
  assert (padding_NR == np.maximum.accumulate(padding_NR, 1)).all()
  # What the model reads has the same marks.
  marks = [PAD, BOS, CONTINUE, EOS]
  rows_NT = np.where(np.isin(rows_NR, marks), rows_NR, 9999)[:, :-1]
  inputs_NT = np.where(np.isin(batch['inputs'], marks), batch['inputs'], 9999)
  np.testing.assert_array_equal(inputs_NT, rows_NT)
  assert batch['inputs'].dtype == batch['targets'].dtype == np.uint16
  assert batch['flags'].dtype == np.uint8


@each_alone_and_all
def test_what_counts_is_text_and_what_is_changed_is_text(sections):
  batch = augmented(sections)
  counts_NT = batch['flags'] & COUNTS > 0
  targets = batch['targets'][counts_NT]
  sentinels = [SPECIAL[t] for t in TOKENS if t.startswith('<|span')]
  assert ((targets >= FIRST_TEXT) | np.isin(targets, [EOS, *sentinels])).all()
  assert not np.isin(targets, NAME).any()
  assert not (batch['flags'] & BODY).any()
  # A piece's targets are its own: none stands where the next one begins.
  rows_NR = drafted(sections).tokens_NR
  opens_NT = np.isin(rows_NR[:, 1:], [BOS, CONTINUE, PAD])
  assert not (counts_NT & opens_NT).any()
  if 'ul2' not in sections:
    assert not (batch['flags'] & VISIBLE).any()
  # A visible token is never predicted from where it is seen.
  visible_NT = batch['flags'] & VISIBLE > 0
  assert not (counts_NT[:, :-1] & visible_NT[:, 1:]).any()


@each_alone_and_all
@pytest.mark.parametrize('hosts', [2, 4, 8])
def test_each_host_makes_its_slice_of_the_whole(sections, hosts):
  whole = augmented(sections, ROWS[:16])
  share = 16 // hosts
  parts = [
    augmented(sections, ROWS[first : first + share], first=first)
    for first in range(0, 16, share)
  ]
  for name, array_NT in whole.items():
    found_NT = np.concatenate([part[name] for part in parts])
    np.testing.assert_array_equal(found_NT, array_NT)


@each_alone_and_all
def test_seed_step_and_place_all_matter(sections):
  """Else a row would be changed alike in each epoch, or alike as another."""
  ways = [
    augmented(sections, ROWS[:24], **changes)
    for changes in ({}, {}, {'seed': 1}, {'step': 4}, {'first': 24})
  ]
  prints = [b''.join(a.tobytes() for a in way.values()) for way in ways]
  assert prints[0] == prints[1]
  assert len(set(prints)) == 4


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
  length=st.integers(2, 40),
  longest=st.integers(2, 60),
  seed=st.integers(0, 1000),
)
def test_rows_of_any_shape_go_through(length, longest, seed):
  rows_NR = make_rows(length, 30, seed, longest)
  batch = augmented(EVERYTHING, rows_NR, step=seed)
  for array_NT in batch.values():
    assert array_NT.shape == (len(rows_NR), length - 1)
  counts_NT = batch['flags'] & COUNTS > 0
  targets = batch['targets'][counts_NT]
  assert not np.isin(targets, [PAD, BOS, CONTINUE]).any()


def test_rows_of_padding_stay_padding():
  rows_NR = np.zeros((3, 9), np.uint16)
  batch = augmented(EVERYTHING, rows_NR)
  assert not any(array_NT.any() for array_NT in batch.values())


def test_a_piece_is_taken_once():
  draft = drafted(EVERYTHING)
  kinds = [
    SPECIAL[f'<|{name}|>']
    for name in ('fim_prefix', 'ul2_r', 'ul2_x', 'ul2_s', 'right_to_left')
  ]
  taken = [
    sum(kind in piece for kind in kinds) for piece in pieces_of(draft.tokens_NR)
  ]
  assert set(taken) == {0, 1}


# Token noise.


def test_replacement_changes_inputs_alone():
  batch = augmented({'token_replacement': {'rate': 0.3}})
  np.testing.assert_array_equal(batch['targets'], ROWS[:, 1:])
  np.testing.assert_array_equal(batch['flags'] > 0, ROWS[:, 1:] > CONTINUE)
  inputs_NT, rows_NT = batch['inputs'], ROWS[:, :-1]
  text_NT = rows_NT >= FIRST_TEXT
  np.testing.assert_array_equal(inputs_NT[~text_NT], rows_NT[~text_NT])
  changed = (inputs_NT != rows_NT)[text_NT]
  # One draw in 400 gives the token that was there.
  assert_share(changed.sum(), changed.size, 0.3 * 399 / 400)
  drawn = inputs_NT[text_NT][changed]
  assert drawn.min() >= FIRST_TEXT
  counts = np.bincount(drawn - FIRST_TEXT, minlength=400)
  assert counts.size == 400
  expected = drawn.size / 400
  # Chi-square with 399 degrees of freedom: the deviation is 28.
  assert ((counts - expected) ** 2 / expected).sum() < 399 + 4 * 28.3


def test_masking_changes_inputs_alone():
  batch = augmented({'input_masking': {'rate': 0.15}})
  np.testing.assert_array_equal(batch['targets'], ROWS[:, 1:])
  inputs_NT, rows_NT = batch['inputs'], ROWS[:, :-1]
  masked_NT = inputs_NT == SPECIAL['<|mask|>']
  np.testing.assert_array_equal(inputs_NT[~masked_NT], rows_NT[~masked_NT])
  assert (rows_NT[masked_NT] >= FIRST_TEXT).all()
  assert_share(masked_NT.sum(), (rows_NT >= FIRST_TEXT).sum(), 0.15)


def test_dropped_tokens_leave_the_row_and_the_rest_closes_up():
  rows_NR = drafted({'token_dropout': {'rate': 0.2}}).tokens_NR
  for found, before in zip(pieces_of(rows_NR), pieces_of(ROWS), strict=True):
    left = iter(before)
    assert all(token in left for token in found)
  kept, total = (rows_NR >= FIRST_TEXT).sum(), (ROWS >= FIRST_TEXT).sum()
  assert_share(total - kept, total, 0.2)
  batch = augmented({'token_dropout': {'rate': 0.2}})
  np.testing.assert_array_equal(batch['inputs'], rows_NR[:, :-1])
  np.testing.assert_array_equal(batch['targets'], rows_NR[:, 1:])
  np.testing.assert_array_equal(batch['flags'] > 0, rows_NR[:, 1:] > CONTINUE)


# Pieces.


def test_fill_in_the_middle_can_be_undone():
  draft = drafted({'fill_in_the_middle': {'rate': 0.7, 'spm': 0.4}})
  marks = [
    SPECIAL[f'<|fim_{part}|>'] for part in ('prefix', 'suffix', 'middle')
  ]
  fits, first_empty, chances = [], 0, []
  for piece, before in zip(
    pieces_of(draft.tokens_NR), pieces_of(ROWS), strict=True
  ):
    body, text = body_of(piece), body_of(before)
    taken = marks[0] in body
    if len(text) > 3:
      fits.append(taken)
    if not taken:
      assert piece == before
      continue
    # SPM has nothing between the first two marks, and prefix and middle
    # together behind the last: the order is the same.
    nothing, rest = split_at(body, marks[0])
    first, middle = split_at(rest, marks[2])
    prefix, suffix = split_at(first, marks[1])
    assert nothing == []
    assert prefix + middle + suffix == text[:-3]
    first_empty += not prefix
    # The prefix of PSM is empty if one of two cuts in 0 to size is 0.
    size = len(text) - 3
    chances.append(0.4 + 0.6 * (1 - (size / (size + 1)) ** 2))
  assert_share(sum(fits), len(fits), 0.7)
  assert_share(first_empty, len(chances), np.mean(chances))


def test_suffix_first_stands_before_the_prefix():
  prefix_mark, suffix_mark, middle_mark = (
    SPECIAL[f'<|fim_{part}|>'] for part in ('prefix', 'suffix', 'middle')
  )
  for spm in (0.0, 1.0):
    draft = drafted({'fill_in_the_middle': {'rate': 1.0, 'spm': spm}})
    parts = []
    for piece in pieces_of(draft.tokens_NR):
      if prefix_mark in piece and len(piece) > 50:
        body = body_of(piece)
        at, middle = body.index(suffix_mark), body.index(middle_mark)
        parts.append((at - 1, middle - at - 1, len(body) - middle - 1))
    first, second, third = np.mean(parts, 0) / np.sum(parts[0])
    assert (first == 0) == (spm == 1)
    # Two uniform cuts leave a third for each part; of SPM the last two stand
    # together. The deviation of a share is 0.24.
    assert abs(second - 1 / 3) < 4 * 0.24 / math.sqrt(len(parts)) + 0.03
    wanted = 2 / 3 if spm else 1 / 3
    assert abs(third - wanted) < 4 * 0.24 / math.sqrt(len(parts)) + 0.03


def undo_spans(body):
  """Text of a piece with spans put back, and tokens of the first part."""
  second = body.index(
    SPECIAL['<|span_0|>'], body.index(SPECIAL['<|span_0|>']) + 1
  )
  spans, number = {}, None
  sentinels = {SPECIAL[f'<|span_{i}|>'] for i in range(SENTINELS)}
  for token in body[second:]:
    if token in sentinels:
      number = token
      assert number not in spans
      spans[number] = []
    else:
      spans[number].append(token)
  assert list(spans) == sorted(spans)
  assert all(spans.values())
  text = []
  for token in body[1:second]:
    text += spans.pop(token) if token in sentinels else [token]
  assert not spans
  return text, second


@pytest.mark.parametrize(
  ('field', 'mode', 'share'),
  # Means of table 1 of the paper: spans of 0.15; of 0.5, 0.5, 0.15, 0.5.
  [('r_rate', '<|ul2_r|>', 0.15), ('x_rate', '<|ul2_x|>', 0.41)],
)
def test_span_corruption_can_be_undone(field, mode, share):
  rows_NR = make_rows(length=301, longest=500, documents=150)
  draft = drafted({'ul2': {field: 0.8}}, rows_NR)
  flags_NR = iter(draft.flags_NR[draft.tokens_NR != PAD])
  moved = total = taken = 0
  before_P = pieces_of(rows_NR)
  for piece, before in zip(pieces_of(draft.tokens_NR), before_P, strict=True):
    flags = [next(flags_NR) for _ in piece]
    if SPECIAL[mode] not in piece:
      assert piece == before
      assert not any(flag & VISIBLE for flag in flags)
      continue
    taken += 1
    body = body_of(piece)
    assert body[0] == SPECIAL[mode]
    text, second = undo_spans(body)
    assert text == body_of(before)[: len(text)]
    spans = body[second:].count
    marks = 1 + 2 * sum(
      spans(SPECIAL[f'<|span_{i}|>']) for i in range(SENTINELS)
    )
    assert len(text) + marks == len(body_of(before))
    # The first part and what stands before it is a prefix, and does not count.
    prefix = [flag & VISIBLE > 0 for flag in flags]
    assert prefix == [place < 1 + second for place in range(len(piece))]
    counts = [flag & COUNTS > 0 for flag in flags]
    assert counts == [not visible for visible in prefix]
    if len(text) > 100:
      moved += len(body) - second - (marks - 1) // 2
      total += len(text)
  assert_share(taken, len(before_P), 0.8)
  assert abs(moved / total - share) < 0.05


def test_a_prefix_language_model_sees_its_prefix_and_predicts_the_rest():
  draft = drafted({'ul2': {'s_rate': 0.9}})
  flags_NR = iter(draft.flags_NR[draft.tokens_NR != PAD])
  shares, fits = [], []
  for piece, before in zip(
    pieces_of(draft.tokens_NR), pieces_of(ROWS), strict=True
  ):
    flags = [next(flags_NR) for _ in piece]
    if len(body_of(before)) > 2:
      fits.append(SPECIAL['<|ul2_s|>'] in piece)
    if SPECIAL['<|ul2_s|>'] not in piece:
      assert piece == before
      continue
    assert body_of(piece) == [SPECIAL['<|ul2_s|>'], *body_of(before)[:-1]]
    visible = [flag & VISIBLE > 0 for flag in flags]
    stop = sum(visible)
    assert visible == [place < stop for place in range(len(piece))]
    assert [flag & COUNTS > 0 for flag in flags] == [not v for v in visible]
    target = len(piece) - stop - (piece[-1] == EOS)
    assert 1 <= target <= max(1, len(body_of(piece)) // 2)
    if len(piece) > 20:
      shares.append(target / (len(body_of(piece)) - 1))
  assert_share(sum(fits), len(fits), 0.9)
  # Uniform in 0 to a half.
  assert (
    abs(np.mean(shares) - 0.25) < 4 * 0.5 / math.sqrt(12 * len(shares)) + 0.01
  )


def test_text_runs_backwards_behind_its_mark():
  mark = SPECIAL['<|right_to_left|>']
  pairs = list(
    zip(
      pieces_of(drafted({'right_to_left': {'rate': 0.6}}).tokens_NR),
      pieces_of(ROWS),
      strict=True,
    )
  )
  for piece, before in pairs:
    if mark in piece:
      assert body_of(piece) == [mark, *body_of(before)[:-1][::-1]]
    else:
      assert piece == before
  fits = [mark in piece for piece, before in pairs if len(body_of(before)) > 1]
  assert_share(sum(fits), len(fits), 0.6)


def test_targets_lie_as_far_ahead_as_the_mark_says():
  sections = {'target_offset': {'rate': 0.7}, 'right_to_left': {'rate': 0.5}}
  stored_NR = make_rows(documents=2400)
  batch = augmented(sections, stored_NR)
  rows_NR = drafted(sections, stored_NR).tokens_NR
  offsets = {SPECIAL[f'<|offset_{i}|>']: i for i in range(2, 6)}
  drawn = []
  for row, targets, flags in zip(
    rows_NR, batch['targets'], batch['flags'], strict=True
  ):
    starts = np.flatnonzero((row == BOS) | (row == CONTINUE))
    stops = [*starts[1:], int((row != PAD).sum())]
    seen = set()
    for start, stop in zip(starts, stops, strict=True):
      i = offsets.get(row[start + 1] if start + 1 < stop else None, 1)
      seen.add(i)
      known = start + (i > 1)
      wanted = {
        t: row[t + i]
        for t in range(known, min(stop - i, len(targets)))
        if row[t + i] == EOS or row[t + i] >= FIRST_TEXT
      }
      found = {
        t: targets[t]
        for t in range(start, min(stop, len(targets)))
        if flags[t] & COUNTS
      }
      assert found == wanted
    # One for a row; pieces that are too short have none.
    assert len(seen - {1}) <= 1
    if stops[0] - starts[0] > 12:
      drawn.append(max(seen))
  counts = np.bincount(drawn, minlength=6)
  weights = np.exp(-np.arange(1, 5))
  assert_share(counts[2:].sum(), len(drawn), 0.7)
  for i, weight in zip(range(2, 6), weights / weights.sum(), strict=True):
    assert_share(counts[i], len(drawn), 0.7 * weight)


def test_an_offset_leaves_pieces_that_others_have_taken():
  sections = {
    'fill_in_the_middle': {'rate': 1.0}, 'target_offset': {'rate': 1.0},
  }  # fmt: skip
  alone = augmented({'fill_in_the_middle': {'rate': 1.0}})
  for name, array_NT in augmented(sections).items():
    np.testing.assert_array_equal(array_NT, alone[name])


def test_documents_begin_with_their_source():
  header = [SPECIAL['<|source|>'], *NAME]
  sections = {'metadata_prefix': {'rate': 0.8}}
  fits = with_it = 0
  draft = drafted(sections)
  flags_NR = iter(draft.flags_NR[draft.tokens_NR != PAD])
  for piece, before in zip(
    pieces_of(draft.tokens_NR), pieces_of(ROWS), strict=True
  ):
    flags = [next(flags_NR) for _ in piece]
    room = before[0] == BOS and len(body_of(before)) >= 6
    fits += room
    if piece[1:4] == header:
      assert room
      with_it += 1
      assert body_of(piece) == header + body_of(before)[:-3]
      assert flags[:4] == [0] * 4
      assert all(flag & COUNTS for flag in flags[4:])
    else:
      assert piece == before
  assert_share(with_it, fits, 0.8)


def test_the_last_steps_have_no_prefix():
  sections = {'metadata_prefix': {'rate': 1.0, 'cooldown': 0.1}}
  for step, has in ((0, True), (89, True), (90, False), (99, False)):
    inputs_NT = augmented(sections, step=step)['inputs']
    assert (SPECIAL['<|source|>'] in inputs_NT) == has


# Configuration.


def test_a_missing_token_names_its_augmentation_and_what_to_set():
  config = base.get_config()
  config.augmentation.fill_in_the_middle.rate = 0.5
  config.augmentation.input_masking.rate = 0.1
  config.data.tokenizer.special_tokens = ('<|mine|>', '<|fim_prefix|>')
  with pytest.raises(ValueError, match='input_masking needs') as error:
    augmentation_config(config)
  message = str(error.value)
  assert 'fill_in_the_middle needs <|fim_suffix|>, <|fim_middle|>' in message
  # The message holds the value to set.
  shown = message[message.index('= (') + 2 : message.index(' (the data')]
  config.data.tokenizer.special_tokens = eval(shown)
  assert len(augmentation_config(config).active) == 2


def test_no_piece_is_given_out_twice():
  with pytest.raises(ValueError, match=r'0\.6 \(fill.*0\.5 \(ul2\) = 1\.1'):
    configure({'fill_in_the_middle': {'rate': 0.6}, 'ul2': {'s_rate': 0.5}})


def test_prefixes_need_documents_apart():
  with pytest.raises(ValueError, match=r'augmentation\.ul2 needs isolate'):
    configure({'ul2': {'s_rate': 0.5}}, isolate_documents=False)


@pytest.mark.parametrize(
  ('name', 'fields'),
  [('token_dropout', {'rate': 1.0}), ('input_masking', {'rate': -0.1}),
   ('token_replacement', {'rate': 1.5}), ('ul2', {'s_rate': 2.0}),
   ('ul2', {'sentinels': 0}), ('fill_in_the_middle', {'spm': 1.1}),
   ('target_offset', {'longest': 1}), ('metadata_prefix', {'cooldown': -1.0}),
   ('right_to_left', {'rate': 1.01}), ('right_to_left', {'speed': 1.0})],
)  # fmt: skip
def test_values_out_of_range_are_named(name, fields):
  config = base.get_config().unlock()
  config.augmentation[name].update(fields)
  with pytest.raises(
    ValueError, match=rf'augmentation\.{name}\.{next(iter(fields))}'
  ):
    augmentation_config(config)
