"""MinHash signatures, and the pairs of similar documents that they show.

Legend of array names: G shingles, D documents, K permutations, B bands,
N records of a partition, S segments of shingles, U buckets, P pairs.

A shingle is a run of words, in lower case. The share of permutations in which
the least hashes of two documents agree estimates the Jaccard similarity of
their sets of shingles (Broder 1997, "On the resemblance and containment of
documents"). banding.py says which documents meet.
"""

import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from input_pipeline.curation import banding
from input_pipeline.curation.banding import Bands
from input_pipeline.curation.characters import mix
from input_pipeline.curation.columns import Columns

# In every place of the signature of a document without words.
EMPTY = np.uint32(0xFFFFFFFF)
# Shingles that are hashed at a time: they and a buffer fit into a core's cache.
_BLOCK = 16_384
# Documents of a bucket that all others of it are compared with, at most.
LEADERS = 16
# Pairs of signatures that are compared at a time.
_COMPARED = 8_192

PAIR = np.dtype(
  [
    ('worse', '<u8'),
    ('better', '<u8'),
    ('worse_rank', '<u8'),
    ('better_rank', '<u8'),
    ('similarity', '<f4'),
  ]
)


def signatures(columns: Columns, ngram: int, permutations: int) -> np.ndarray:
  """The least hash of each document in each permutation.

  A document of fewer than `ngram` words is one shingle. The j-th place of a
  signature does not depend on `permutations`.

  Returns:
    uint32 [D, K]; EMPTY throughout for a document without words.
  """
  signature_DK = np.full((columns.num_documents, permutations), EMPTY)
  size_D = np.minimum(columns.num_words_D, ngram)
  for size in np.unique(size_D[size_D > 0]).tolist():
    chosen_D = size_D == size
    hash_G, doc_G, _ = columns.ngrams(size, folded=True)
    if size < ngram:  # longer documents have n-grams of this size, too
      hash_G = hash_G[chosen_D[doc_G]]
    shingles_D = columns.num_words_D[chosen_D] - size + 1
    first_D = np.cumsum(shingles_D) - shingles_D
    signature_DK[chosen_D] = _minima(hash_G, first_D, permutations)
  return signature_DK


def _minima(
  hash_G: np.ndarray, first_D: np.ndarray, permutations: int
) -> np.ndarray:
  """Least value of the shingles of each document, uint32 [D, K].

  A permutation is x -> a x + b modulo 2^32 with an odd a. It is linear, but the
  x are well-mixed hashes, so that the least is any of them with equal
  probability. Two documents may differ and yet have least values that agree in
  their last bits, so the result is mixed once more.

  Args:
    hash_G: uint64, by document.
    first_D: first shingle of each document; none is without.
    permutations: K.
  """
  x_G = (hash_G >> np.uint64(32)).astype(np.uint32)
  factor_K, offset_K = _coefficients(permutations)
  first_S = np.union1d(first_D, np.arange(0, x_G.size, _BLOCK))
  least_KS = np.empty((permutations, first_S.size), np.uint32)
  buffer = np.empty(_BLOCK, np.uint32)
  for start in range(0, x_G.size, _BLOCK):
    stop = min(start + _BLOCK, x_G.size)
    segments = slice(*np.searchsorted(first_S, [start, stop]))
    cuts = first_S[segments] - start
    value_G = buffer[: stop - start]
    for k in range(permutations):
      np.multiply(x_G[start:stop], factor_K[k], out=value_G)
      np.add(value_G, offset_K[k], out=value_G)
      np.minimum.reduceat(value_G, cuts, out=least_KS[k, segments])
  segment_D = np.searchsorted(first_S, first_D)
  least_KD = np.minimum.reduceat(least_KS, segment_D, axis=1)
  return _mix_32(np.ascontiguousarray(least_KD.T))


@functools.cache
def _coefficients(permutations: int) -> tuple[np.ndarray, np.ndarray]:
  """a, which is odd, and b of each permutation: uint32 [K] each."""
  stream = hashlib.shake_256(b'minhash permutations').digest(8 * permutations)
  both_K2 = np.frombuffer(stream, '<u4').reshape(permutations, 2)
  both_K2 = both_K2.astype(np.uint32)
  return both_K2[:, 0] | np.uint32(1), both_K2[:, 1]


def _mix_32(values: np.ndarray) -> np.ndarray:
  """MurmurHash3's finaliser (Appleby 2011): one to one on uint32."""
  values = values ^ (values >> np.uint32(16))
  values *= np.uint32(0x85EBCA6B)
  values ^= values >> np.uint32(13)
  values *= np.uint32(0xC2B2AE35)
  values ^= values >> np.uint32(16)
  return values


def record_dtype(permutations: int) -> np.dtype:
  """A document in a bucket; (key, rank, position) occurs once."""
  return np.dtype(
    [
      ('key', '<u8'),
      ('rank', '<u8'),
      ('position', '<u8'),
      ('signature', 'u1', (permutations,)),
    ]
  )


def band_records(
  signature_DK: np.ndarray,
  rank_D: np.ndarray,
  position_D: np.ndarray,
  shape: Bands,
) -> np.ndarray:
  """A record for each document and band; none for documents without words.

  The record carries the last 8 bits of each permutation (Li and Koenig 2010,
  "b-Bit Minwise Hashing"), so pairs are verified where they meet, without text.
  """
  worded_D = (signature_DK != EMPTY).any(axis=1)
  signature_DK = signature_DK[worded_D]
  documents, permutations = signature_DK.shape
  used = shape.bands * shape.rows
  assert used <= permutations, (shape, permutations)
  bands_DBR = signature_DK[:, :used].reshape(-1, shape.bands, shape.rows)
  key_DB = np.tile(
    mix(np.arange(1, shape.bands + 1, dtype=np.uint64)), (documents, 1)
  )
  for row in range(shape.rows):
    key_DB = mix(key_DB ^ bands_DBR[:, :, row])
  records_DB = np.empty((documents, shape.bands), record_dtype(permutations))
  records_DB['key'] = key_DB
  records_DB['rank'] = rank_D[worded_D, None]
  records_DB['position'] = position_D[worded_D, None]
  records_DB['signature'] = signature_DK.astype(np.uint8)[:, None]
  return records_DB.reshape(-1)


def similar_pairs(records_N: np.ndarray, similarity: float) -> np.ndarray:
  """The pairs of a partition whose documents meet and are similar.

  In a bucket of up to LEADERS + 1 documents, all are compared. In a larger one
  each is compared with LEADERS of those before it: the best that are similar to
  no leader before them. The work is linear in the size of the bucket then.

  Args:
    records_N: of `band_records`, sorted by key, rank and position.
    similarity: the target; see `banding.threshold` for what passes.

  Returns:
    [P] of PAIR; a pair may stand there, and in other partitions, repeatedly.
  """
  permutations = records_N['signature'].shape[1]
  enough = banding.required_matches(similarity, permutations)
  first_U, stop_U = _buckets(records_N['key'])
  small_U = stop_U - first_U <= LEADERS + 1
  covered_N = np.zeros(records_N.size, bool)
  leader_U = first_U
  found = [np.empty(0, PAIR)]
  for _ in range(LEADERS):
    going_U = leader_U < stop_U - 1
    leader_U, stop_U = leader_U[going_U], stop_U[going_U]
    small_U = small_U[going_U]
    for better_P, worse_P, small_P in _compared(leader_U, stop_U, small_U):
      matches_P = np.add.reduce(
        records_N['signature'][better_P] == records_N['signature'][worse_P],
        axis=1,
        dtype=np.uint32,
      )
      hit_P = matches_P >= enough
      covered_N[worse_P[hit_P & ~small_P]] = True
      found.append(
        _pairs(records_N, worse_P[hit_P], better_P[hit_P], matches_P[hit_P])
      )
    # Nothing is covered in a small bucket, so there the next one leads.
    free = np.append(np.flatnonzero(~covered_N), records_N.size)
    leader_U = free[np.searchsorted(free, leader_U + 1)]
  return np.concatenate(found)


def _buckets(key_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """First and last + 1 record of each key that stands there twice or more."""
  if not key_N.size:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)
  assert (key_N[1:] >= key_N[:-1]).all(), 'records are sorted by key'
  first_U = np.flatnonzero(np.append(True, key_N[1:] != key_N[:-1]))
  stop_U = np.append(first_U[1:], key_N.size)
  shared_U = stop_U - first_U > 1
  return first_U[shared_U], stop_U[shared_U]


def _compared(
  leader_U: np.ndarray, stop_U: np.ndarray, small_U: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Each leader with all after it in its bucket, some thousand at a time."""
  counts_U = stop_U - leader_U - 1
  ends_U = np.cumsum(counts_U)
  total = int(ends_U[-1]) if ends_U.size else 0
  for start in range(0, total, _COMPARED):
    place_P = np.arange(start, min(start + _COMPARED, total))
    bucket_P = np.searchsorted(ends_U, place_P, side='right')
    worse_P = stop_U[bucket_P] - (ends_U[bucket_P] - place_P)
    yield leader_U[bucket_P], worse_P, small_U[bucket_P]


def _pairs(
  records_N: np.ndarray,
  worse_P: np.ndarray,
  better_P: np.ndarray,
  matches_P: np.ndarray,
) -> np.ndarray:
  pairs_P = np.empty(worse_P.size, PAIR)
  pairs_P['worse'] = records_N['position'][worse_P]
  pairs_P['better'] = records_N['position'][better_P]
  pairs_P['worse_rank'] = records_N['rank'][worse_P]
  pairs_P['better_rank'] = records_N['rank'][better_P]
  permutations = records_N['signature'].shape[1]
  pairs_P['similarity'] = banding.estimate(matches_P, permutations)
  return pairs_P
