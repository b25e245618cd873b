"""A model trained here tells kinds of text apart, and keeps what it says."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.curation import quality_model
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import QualityModel
from input_pipeline.stdlib_text import library_directory, topics

law = settings(max_examples=80, derandomize=True, deadline=None)
NO_DOCUMENTS = np.zeros((quality_model.LEVELS, 2), np.int64)


def options(**changes):
  model = QualityModel(
    trusted_files=('trusted/*.txt',),
    raw_documents=20_000,
    keep_fraction=None,
    keep_bytes=None,
  )
  return dataclasses.replace(model, **changes)


@pytest.fixture(scope='module')
def prose():
  words = ' '.join(text for _, text in sorted(topics().items())).split()
  return [' '.join(words[n : n + 100]) for n in range(0, len(words) - 99, 100)]


@pytest.fixture(scope='module')
def code():
  found = []
  for path in sorted(library_directory().glob('*.py'))[:40]:
    lines = path.read_text(encoding='utf-8').split('\n')
    found += [
      '\n'.join(lines[n : n + 30]) for n in range(0, len(lines) - 29, 30)
    ]
  return [text for text in found if text.strip()]


@pytest.fixture(scope='module')
def model(prose, code):
  """Trained on the even documents."""
  return quality_model.train([Columns(prose[::2])], [Columns(code[::2])])


def test_prose_and_code_are_told_apart(model, prose, code):
  assert min(len(prose), len(code)) > 200
  right = [
    (quality_model.scores(Columns(prose[1::2]), model) > 0).mean(),
    (quality_model.scores(Columns(code[1::2]), model) < 0).mean(),
  ]
  assert min(right) > 0.95
  assert model.accuracy > 0.95
  assert (model.trusted, model.raw) == (len(prose[::2]), len(code[::2]))


def test_the_accuracy_is_of_documents_that_did_not_train():
  # The same kind of text twice, at random: nothing can be learnt.
  rng = np.random.default_rng(0)
  texts = [
    ' '.join(f'w{n}' for n in rng.integers(0, 10**6, 60)) for _ in range(1_200)
  ]
  model = quality_model.train([Columns(texts[::2])], [Columns(texts[1::2])])
  assert 0.3 < model.accuracy < 0.7


def test_training_depends_on_documents_and_seed_only(model, prose, code):
  again = quality_model.train(
    [Columns(prose[:100:2]), Columns([]), Columns(prose[100::2])],
    (Columns([text]) for text in ['', *code[::2]]),
  )
  np.testing.assert_array_equal(again.weights_F, model.weights_F)
  assert (again.bias, again.accuracy) == (model.bias, model.accuracy)
  other = quality_model.train(
    [Columns(prose[::2])], [Columns(code[::2])], seed=1
  )
  assert not np.array_equal(other.weights_F, model.weights_F)


def test_rare_kinds_weigh_as_much_as_frequent_ones(prose, code):
  few = quality_model.train([Columns(prose[::16])], [Columns(code)])
  scores = quality_model.scores(Columns(prose[1::16]), few)
  assert (scores > 0).mean() > 0.85


def test_a_score_is_of_a_document_in_any_batch(model, prose, code):
  texts = [*prose[:20], '', 'word', *code[:20], ' \n']
  scores = quality_model.scores(Columns(texts), model)
  alone = [quality_model.scores(Columns([text]), model)[0] for text in texts]
  np.testing.assert_array_equal(scores, alone)
  assert scores.dtype == np.float32
  assert scores[20] == scores[-1] == -16
  assert scores[:20].mean() > scores[22:42].mean()
  # Case does not count, and a text said twice is about as good.
  shouted = quality_model.scores(Columns([texts[0].upper()]), model)
  assert shouted[0] == scores[0]


def test_a_score_is_the_mean_of_the_weights_of_words_and_pairs():
  weights = np.zeros(1 << 18, np.int32)
  columns = Columns(['good bad', 'bad good good', 'other'])
  shift = np.uint64(46)
  weights[columns.folded_hash_W[0] >> shift] = 6 << 16
  pair = columns.ngrams(2, folded=True)[0][0]
  weights[pair >> shift] = -3 << 16
  model = quality_model.Model(
    weights_F=weights, bias=1 << 16, accuracy=1.0, trusted=1, raw=1
  )
  scores = quality_model.scores(columns, model)
  np.testing.assert_allclose(
    scores, [1 + (6 - 3) / 3, 1 + 12 / 5, 1.0], atol=1 / 2048
  )
  weights[:] = 100 << 16
  assert quality_model.scores(columns, model).max() == 16 - 1 / 2048
  weights[:] = -100 << 16
  assert quality_model.scores(columns, model).min() == -16


def test_levels_are_scores_without_loss():
  every = np.arange(quality_model.LEVELS)
  scores = ((every - 32_768) / 2_048).astype(np.float32)
  np.testing.assert_array_equal(quality_model.levels(scores), every)


levels_and_bytes = st.lists(
  st.tuples(
    st.sampled_from([0, 1, 7, 40_000, 65_534, 65_535]), st.integers(1, 50)
  ),
  min_size=1,
  max_size=30,
)


@law
@given(
  levels_and_bytes,
  st.none() | st.floats(0.01, 1.0),
  st.none() | st.integers(1, 400),
)
def test_the_threshold_keeps_what_it_says(documents, fraction, size):
  level = np.array([n for n, _ in documents], np.uint16)
  sizes = np.array([n for _, n in documents])
  half = len(documents) // 2
  histogram = quality_model.histogram(level[:half], sizes[:half])
  histogram = histogram + quality_model.histogram(level[half:], sizes[half:])
  chosen = options(keep_fraction=fraction, keep_bytes=size)

  def fits(least):
    kept = level >= least
    return size is None or sizes[kept].sum() <= size

  if not fits(level.max()):
    with pytest.raises(ValueError, match=r'quality_model\.keep_bytes'):
      quality_model.threshold(histogram, chosen)
    return
  least = quality_model.threshold(histogram, chosen)
  kept = level >= least
  assert kept.any()
  assert fits(least)
  enough = fraction is not None and kept.sum() >= fraction * kept.size - 1e-6
  if enough:  # and no fewer levels would do
    assert (level > level[kept].min()).sum() < fraction * kept.size - 1e-6
  elif not kept.all():  # the bytes end it, and no more levels would do
    assert not fits(level[~kept].max())


def test_all_are_kept_where_nothing_is_chosen():
  histogram = quality_model.histogram(np.array([0, 9]), np.array([5, 5]))
  assert quality_model.threshold(histogram, options()) == 0
  assert quality_model.threshold(histogram, options(keep_fraction=1.0)) == 0
  assert quality_model.threshold(histogram, options(keep_fraction=0.5)) == 9
  ten = quality_model.histogram(np.arange(30), np.ones(30))
  assert quality_model.threshold(ten, options(keep_fraction=0.1)) == 27
  assert quality_model.threshold(NO_DOCUMENTS, options(keep_bytes=5)) == 0


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'keep_fraction': 0.0}, 'keep_fraction=0'),
    ({'keep_fraction': 1.5}, 'keep_fraction=1.5'),
    ({'keep_bytes': 0}, 'keep_bytes=0'),
    ({'raw_documents': 3}, 'raw_documents=3'),
    ({'trusted_files': (), 'keep_fraction': 0.5}, 'trusted_files names'),
  ],
)
def test_what_cannot_be_chosen_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    quality_model.check(options(**changes))


def test_usual_choices_pass():
  quality_model.check(options())
  quality_model.check(options(keep_fraction=1.0, keep_bytes=10))
  quality_model.check(options(trusted_files=(), raw_documents=0))


def test_too_few_documents_are_refused(prose):
  some, few = Columns(prose[:30]), Columns([*prose[:19], '', ' '])
  with pytest.raises(ValueError, match='19 trusted documents'):
    quality_model.train([few], [some])
  with pytest.raises(ValueError, match=r'raw_documents: 19 raw documents'):
    quality_model.train([some], [few])
