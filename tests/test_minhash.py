"""Near-duplicates are found as often as the arithmetic says, and no others."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.curation import banding, minhash, survivors
from input_pipeline.curation.banding import Bands
from input_pipeline.curation.columns import Columns
from input_pipeline.stdlib_text import topics

law = settings(max_examples=60, derandomize=True, deadline=None)


def numbers(size):
  return np.arange(size, dtype=np.uint64)


def reduced(records, target, partitions=1):
  """Pairs of records by partition of their keys, each sorted, as they come."""
  found = []
  for partition in range(partitions):
    part = records[records['key'] % np.uint64(partitions) == partition]
    order = np.lexsort([part[f] for f in ('position', 'rank', 'key')])
    found.append(minhash.similar_pairs(part[order], target))
  return np.concatenate(found)


def pairs_of(texts, target, *, ngram, permutations=128, ranks=None):
  signatures = minhash.signatures(Columns(texts), ngram, permutations)
  shape = banding.bands(target, permutations)
  ranks = numbers(len(texts)) if ranks is None else ranks
  return reduced(
    minhash.band_records(signatures, ranks, numbers(len(texts)), shape), target
  )


def edges(*pairs, similarity=0.9):
  table = np.zeros(len(pairs), minhash.PAIR)
  for row, (worse, better) in zip(table, pairs, strict=True):
    row['worse'] = row['worse_rank'] = worse
    row['better'] = row['better_rank'] = better
  table['similarity'] = similarity
  return table


# Bands and probabilities.


@pytest.mark.parametrize(
  ('bands', 'rows', 'similarity', 'expected'),
  [(14, 8, 0.8, 0.92), (14, 8, 0.6, 0.21), (450, 20, 0.7, 0.30),
   (93, 15, 0.8, 0.96), (20, 13, 0.8, 0.68), (20, 13, 0.85, 0.92)],
)  # fmt: skip
def test_published_bands_meet_as_published(bands, rows, similarity, expected):
  found = banding.match_probability(Bands(bands, rows), similarity)
  assert found == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize('target', [0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize('permutations', [16, 112, 128, 256])
def test_bands_are_the_sharpest_that_find_nine_of_ten(target, permutations):
  shape = banding.bands(target, permutations)
  assert shape.bands == permutations // shape.rows
  assert banding.match_probability(shape, target) >= 0.9
  for rows in range(shape.rows + 1, permutations + 1):
    sharper = Bands(permutations // rows, rows)
    assert banding.match_probability(sharper, target) < 0.9


@pytest.mark.parametrize(
  ('shape', 'permutations', 'target'),
  [(Bands(16, 8), 128, 0.8), (Bands(5, 4), 23, 0.6), (Bands(30, 1), 30, 0.3),
   (Bands(1, 12), 12, 0.8)],
)  # fmt: skip
@pytest.mark.parametrize('similarity', [0.1, 0.5, 0.7, 0.9])
def test_removal_happens_as_often_as_simulated(
  shape, permutations, target, similarity
):
  rng = np.random.default_rng(0)
  trials, used = 40_000, shape.bands * shape.rows
  equal = rng.random((trials, permutations)) < similarity
  byte = equal | (rng.random((trials, permutations)) < 1 / 256)
  meet = equal[:, :used].reshape(trials, shape.bands, -1).all(2).any(1)
  estimate = banding.estimate(byte.sum(1), permutations)
  removed = meet & (estimate >= banding.threshold(target, permutations) - 1e-9)
  expected = banding.removal_probability(
    shape, similarity, target=target, permutations=permutations
  )
  error = math.sqrt(max(expected * (1 - expected), 1e-5) / trials)
  assert abs(removed.mean() - expected) < 4 * error
  meets = banding.match_probability(shape, similarity)
  assert meet.mean() == pytest.approx(meets, abs=0.011)
  assert expected <= meets


@pytest.mark.parametrize('permutations', [128, 2_000])
def test_removal_probability_stays_a_probability(permutations):
  shape = banding.bands(0.8, permutations)
  found = [
    banding.removal_probability(shape, s, target=0.8, permutations=permutations)
    for s in np.linspace(0, 1, 21)
  ]
  assert found[0] < 1e-12
  assert found[-1] == 1
  assert (np.diff(found) >= -1e-12).all()


def test_the_table_shows_the_target():
  lines = banding.table(Bands(16, 8), target=0.8, permutations=128)
  assert any(
    line.split() == ['0.8', '0.9470', '0.9289', 'target'] for line in lines
  )
  assert len(lines) == 5
  assert len(banding.table(Bands(16, 8), target=0.75, permutations=128)) == 6


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0.0, 5, 128), 'similarity=0.0'),
    ((1.0, 5, 128), 'similarity=1.0'),
    ((0.8, 0, 128), 'ngram=0'),
    ((0.8, 5, 0), 'permutations=0'),
    ((0.8, 5, 9_000, Bands(20, 450)), r'0\.8\^450.*less than 0.5'),
    ((0.8, 5, 100, Bands(16, 8)), 'need 128'),
    ((0.005, 5, 128), 'similarity=0.005'),
    ((0.2, 5, 8), 'unrelated'),
  ],
)
def test_settings_that_find_nothing_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message) as error:
    banding.check(*arguments)
  assert 'data.curation.near_duplicates.' in str(error.value)


def test_usual_settings_pass():
  banding.check(0.8, 5, 128)
  banding.check(0.8, 5, 9_000, Bands(450, 20))
  banding.check(0.5, 1, 64)


# Signatures.


def random_pairs(rng, count):
  """Texts of pairs of sets of words, and their Jaccard similarities."""
  texts, similarities = [], []
  for n in range(count):
    size = int(rng.integers(40, 400))
    shared = int(rng.integers(0, size + 1))
    names = [f'w{n}x{i}' for i in range(2 * size - shared)]
    rng.shuffle(names)
    texts += [' '.join(names[:size]), ' '.join(names[size - shared :])]
    similarities.append(shared / len(names))
  return texts, np.array(similarities)


@pytest.mark.parametrize('permutations', [64, 256])
def test_the_estimate_is_unbiased_and_as_exact_as_theory_says(permutations):
  texts, true = random_pairs(np.random.default_rng(1), 600)
  signatures = minhash.signatures(Columns(texts), 1, permutations)
  first, second = signatures[0::2], signatures[1::2]
  spread = np.sqrt(np.mean(true * (1 - true)) / permutations)
  byte = (first.astype(np.uint8) == second.astype(np.uint8)).sum(1)
  for estimate in (
    (first == second).mean(1),
    banding.estimate(byte, permutations),
  ):
    error = estimate - true
    assert abs(error.mean()) < 0.005
    assert 0.9 * spread < np.sqrt(np.mean(error**2)) < 1.1 * spread


def test_permutations_are_independent():
  # Of agreeing places in pairs of equal similarity, the variance is binomial.
  rng = np.random.default_rng(2)
  texts = []
  for n in range(400):
    names = [f'{n}-{rng.integers(1 << 40)}' for _ in range(150)]
    texts += [' '.join(names[:100]), ' '.join(names[50:])]
  signatures = minhash.signatures(Columns(texts), 1, 200)
  matches = (signatures[0::2] == signatures[1::2]).sum(1)
  assert 0.85 < matches.var() / (200 / 3 * 2 / 3) < 1.15


def test_a_signature_is_of_the_set_in_any_batch():
  rng = np.random.default_rng(3)
  texts = [
    ' '.join(f'w{i}' for i in rng.integers(0, 900, rng.integers(1, 300)))
    for _ in range(40)
  ] + ['', 'a', ' \n', 'a b']
  together = minhash.signatures(Columns(texts), 2, 40)
  for text, row in zip(texts, together, strict=True):
    alone = minhash.signatures(Columns([text]), 2, 48)
    np.testing.assert_array_equal(alone[0, :40], row)
  # Longer than what is hashed at a time, in other cases and spaces.
  often = [text.upper() + '\n\t' + text for text in texts[:3]]
  often.append(' '.join([texts[0]] * 300))
  once = minhash.signatures(Columns(texts[:3]), 1, 40)
  np.testing.assert_array_equal(
    minhash.signatures(Columns(often), 1, 40), once[[0, 1, 2, 0]]
  )


def test_permutations_are_one_to_one():
  factors, _ = minhash._coefficients(256)
  assert (factors % 2 == 1).all()
  assert np.unique(factors).size == 256


def test_a_signature_is_the_same_everywhere():
  signature = minhash.signatures(Columns(['The quick, brown fox']), 3, 3)
  assert signature.tolist() == [[5770673, 908464822, 811369432]]


def test_short_documents_are_one_shingle_and_empty_ones_none():
  texts = ['', ' \n ', 'a b', 'A  b', 'a c', 'b a', 'a', 'a b c', 'a b c d e f']
  found = pairs_of(texts, 0.8, ngram=5)
  assert {(p['worse'], p['better']) for p in found} == {(3, 2)}
  records = minhash.band_records(
    minhash.signatures(Columns(texts), 5, 16),
    numbers(9), numbers(9), Bands(4, 4),
  )  # fmt: skip
  assert sorted(set(records['position'].tolist())) == list(range(2, 9))
  assert records.size == 7 * 4


# Pairs.


def edited(words, share, rng):
  words = list(words)
  chosen = rng.choice(len(words), round(share * len(words)), replace=False)
  for place in chosen:
    words[place] = f'edit{rng.integers(1 << 30)}'
  return ' '.join(words)


def corpus(documents):
  """Prose and edits of it: 5, 10, 20 and 40 % of the words changed."""
  rng = np.random.default_rng(4)
  originals = [t.split() for _, t in sorted(topics().items())]
  originals = [w[:400] for w in originals if len(w) > 100][:documents]
  return [
    edited(words, share, rng)
    for words in originals
    for share in (0, 0.05, 0.1, 0.2, 0.4)
  ]


def jaccard(texts, ngram):
  """Similarities of all pairs of texts."""
  hashes, documents, _ = Columns(texts).ngrams(ngram, folded=True)
  _, shingle = np.unique(hashes, return_inverse=True)
  incidence = np.zeros((len(texts), shingle.max() + 1), np.float32)
  incidence[documents, shingle] = 1
  common = incidence @ incidence.T
  sizes = np.diag(common)
  return common / (sizes[:, None] + sizes - common)


@pytest.mark.parametrize(
  ('target', 'ngram'), [(0.5, 2), (0.6, 2), (0.8, 2), (0.8, 1), (0.5, 5)]
)
def test_planted_duplicates_are_found_as_often_as_predicted(target, ngram):
  texts = corpus(70)
  worse, better = np.tril_indices(len(texts), -1)
  similarity = jaccard(texts, ngram)[worse, better]
  shape = banding.bands(target, 128)
  grid = np.linspace(0, 1, 401)
  chance = np.array([
    banding.removal_probability(shape, s, target=target, permutations=128)
    for s in grid
  ])  # fmt: skip
  expected = np.interp(similarity, grid, chance)

  pairs = pairs_of(texts, target, ngram=ngram)
  found = np.zeros((len(texts), len(texts)), bool)
  found[pairs['worse'], pairs['better']] = True
  assert not np.triu(found).any()
  # Pairs with an original only: two edits of one text err alike.
  original = better % 5 == 0
  planted = original & (worse // 5 == better // 5)
  unrelated = original & (worse % 5 == 0)
  low = (planted | unrelated) & (similarity < target - 0.1)
  hit = found[worse, better]
  for group in (planted, unrelated, low):
    surplus = hit[group].sum() - expected[group].sum()
    error = np.sqrt((expected * (1 - expected))[group].sum())
    assert abs(surplus) <= 3 * error + 1, (surplus, error)
  assert hit[planted].sum() > 50
  assert not hit[similarity < target / 2].any()


def test_estimates_of_pairs_are_close_and_the_same_in_every_bucket():
  texts = corpus(20)
  true = jaccard(texts, 2)
  pairs = pairs_of(texts, 0.6, ngram=2)
  error = pairs['similarity'] - true[pairs['worse'], pairs['better']]
  assert np.abs(error).max() < 5 * np.sqrt(0.25 / 128)
  assert np.unique(pairs).size == np.unique(pairs[['worse', 'better']]).size
  assert pairs.size > np.unique(pairs).size


def test_documents_meet_where_a_whole_band_agrees():
  rng = np.random.default_rng(8)
  same = rng.integers(0, 2**32, 4, dtype=np.uint32)
  signatures = rng.integers(0, 2**32, (4, 13), dtype=np.uint32)
  signatures[0, 4:8] = signatures[1, 4:8] = same
  signatures[2, 0:4] = same  # in another band
  signatures[3, 4:8] = same
  signatures[3, 6] += 1  # all rows but one
  records = minhash.band_records(
    signatures, numbers(4) + 9, numbers(4) + 5, Bands(3, 4)
  )
  keys, counts = np.unique(records['key'], return_counts=True)
  assert sorted(counts.tolist()) == [1] * 10 + [2]
  shared = records[records['key'] == keys[counts == 2]]
  assert shared['position'].tolist() == [5, 6]
  assert shared['rank'].tolist() == [9, 10]
  np.testing.assert_array_equal(
    shared['signature'], signatures[:2].astype(np.uint8)
  )


def one_bucket(signatures):
  """Records of documents that meet in one bucket."""
  documents, permutations = signatures.shape
  records = np.zeros(documents, minhash.record_dtype(permutations))
  records['signature'] = signatures
  records['rank'] = records['position'] = numbers(documents)
  return records


def test_a_large_bucket_takes_linear_work(monkeypatch):
  rng = np.random.default_rng(5)
  family = rng.integers(0, 3, 4_000)
  bases = rng.integers(0, 256, (3, 32), dtype=np.uint8)
  compared = []
  counted = minhash._compared

  def watched(*arguments):
    for part in counted(*arguments):
      compared.append(part[0].size)
      yield part

  monkeypatch.setattr(minhash, '_compared', watched)
  pairs = minhash.similar_pairs(one_bucket(bases[family]), 0.8)
  assert sum(compared) <= minhash.LEADERS * family.size
  assert (family[pairs['worse']] == family[pairs['better']]).all()
  removed = survivors.survivors(pairs)
  first = [int(np.flatnonzero(family == n)[0]) for n in range(3)]
  assert sorted(set(removed['survivor'].tolist())) == sorted(first)
  assert removed.size == family.size - 3


@pytest.mark.parametrize('size', [2, 17, 18, 200])
def test_the_best_of_unrelated_documents_lead_a_bucket(size):
  rng = np.random.default_rng(6)
  signatures = rng.integers(0, 256, (size, 64), dtype=np.uint8)
  signatures[-1] = signatures[min(size - 2, minhash.LEADERS - 1)]
  pairs = minhash.similar_pairs(one_bucket(signatures), 0.8)
  expected = (size - 1, min(size - 2, minhash.LEADERS - 1))
  assert pairs[['worse', 'better']].tolist() == [expected]
  assert pairs['similarity'][0] == 1


def test_documents_that_are_covered_do_not_lead():
  rng = np.random.default_rng(9)
  family = np.repeat([0, 1, 2], 40)
  bases = rng.integers(0, 256, (3, 32), dtype=np.uint8)
  pairs = minhash.similar_pairs(one_bucket(bases[family]), 0.8)
  removed = survivors.survivors(pairs)
  assert set(removed['survivor'].tolist()) == {0, 40, 80}
  assert removed.size == 117


def test_small_buckets_are_compared_in_full():
  signatures = np.zeros((17, 32), np.uint8)
  pairs = minhash.similar_pairs(one_bucket(signatures), 0.8)
  assert pairs.size == 17 * 16 // 2


@pytest.mark.parametrize('partitions', [1, 3, 16])
def test_the_survivor_depends_on_rank_only(partitions):
  rng = np.random.default_rng(7)
  texts = corpus(20)
  ranks = rng.integers(0, 12, len(texts)).astype(np.uint64)
  signatures = minhash.signatures(Columns(texts), 2, 128)
  shape = banding.bands(0.5, 128)
  records = minhash.band_records(signatures, ranks, numbers(len(texts)), shape)
  expected = survivors.survivors(reduced(records, 0.5))
  pairs = reduced(rng.permutation(records), 0.5, partitions)
  found = survivors.survivors(rng.permutation(pairs))
  np.testing.assert_array_equal(found, expected)
  removed, stays = found['position'], found['survivor']
  better = (ranks[stays] < ranks[removed]) | (
    (ranks[stays] == ranks[removed]) & (stays < removed)
  )
  assert better.all()
  assert found.size > 20
  assert not np.isin(stays, removed).any()


# Survivors.


def test_a_removed_document_removes_no_other():
  removed = survivors.survivors(edges((2, 1), (3, 2)))
  assert removed[['position', 'survivor']].tolist() == [(2, 1)]
  removed = survivors.survivors(edges((2, 1), (3, 2), (3, 1)))
  assert removed[['position', 'survivor']].tolist() == [(2, 1), (3, 1)]
  # In a chain of any length, every other one stays.
  chain = edges(*((n + 1, n) for n in range(20_000)))
  removed = survivors.survivors(chain[::-1])
  np.testing.assert_array_equal(removed['position'], np.arange(1, 20_001, 2))


def greedy(pairs):
  """(document, survivor) by the definition."""
  neighbours = {}
  for worse, better in pairs:
    neighbours.setdefault(worse, set()).add(better)
    neighbours.setdefault(better, set())
  removed = {}
  for document in sorted(neighbours):
    if staying := sorted(neighbours[document] - set(removed)):
      removed[document] = staying[0]
  return sorted(removed.items())


@law
@given(
  st.lists(
    st.tuples(st.integers(0, 15), st.integers(0, 15)).filter(
      lambda pair: pair[0] != pair[1]
    ),
    max_size=40,
  ),
  st.randoms(use_true_random=False),
)
def test_survivors_are_greedy_by_rank(pairs, random):
  pairs = [(max(pair), min(pair)) for pair in pairs]
  expected = greedy(pairs)
  shuffled = pairs + pairs[: len(pairs) // 2]
  random.shuffle(shuffled)
  removed = survivors.survivors(edges(*shuffled))
  assert removed[['position', 'survivor']].tolist() == expected
  stays, sizes = survivors.cluster_sizes(removed)
  assert sizes.sum() == len(expected) + stays.size
  for survivor, size in zip(stays.tolist(), sizes.tolist(), strict=True):
    assert size == 1 + sum(kept == survivor for _, kept in expected)


def test_rank_goes_before_position():
  pairs = edges((5, 9), (7, 9), (5, 7))
  ranks = {5: 6, 7: 5, 9: 0}
  for row in pairs:
    row['worse_rank'] = ranks[int(row['worse'])]
    row['better_rank'] = ranks[int(row['better'])]
  removed = survivors.survivors(pairs)
  assert removed[['position', 'survivor']].tolist() == [(5, 9), (7, 9)]
