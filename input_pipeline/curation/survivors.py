"""Which of many similar documents stay.

Legend of array names: P pairs, N documents of any pair, R removed documents.
"""

import numpy as np

REMOVED = np.dtype(
  [('position', '<u8'), ('survivor', '<u8'), ('similarity', '<f4')]
)
# Pairs that are Python's numbers at a time, which are large.
_BLOCK = 1 << 20


def survivors(pairs_P: np.ndarray) -> np.ndarray:
  """Removes every document that is similar to a better one that stays.

  Documents are decided in the order of rank, ties by position, and a document
  that is removed removes no other: of A ~ B ~ C, where A and C are not similar,
  B goes and C stays. (Union-find would remove C, which resembles nothing that
  is left.) The result does not depend on the order of the pairs, nor on how
  often one is repeated.

  Args:
    pairs_P: of minhash.PAIR.

  Returns:
    [R] of REMOVED, by position; the survivor is the best that is similar.
  """
  if not pairs_P.size:
    return np.empty(0, REMOVED)
  position_N, worse_P, better_P = _ordered(pairs_P)
  order = np.argsort(worse_P * position_N.size + better_P)
  worse_P, better_P = worse_P[order], better_P[order]
  similarity_P = pairs_P['similarity'][order]

  stays = bytearray(b'\x01') * position_N.size
  for start in range(0, worse_P.size, _BLOCK):
    block = slice(start, start + _BLOCK)
    # All pairs of `better` as the worse one stand earlier, so it is decided.
    for worse, better in zip(
      worse_P[block].tolist(), better_P[block].tolist(), strict=True
    ):
      if stays[better]:
        stays[worse] = 0

  stays_N = np.frombuffer(stays, bool)
  deciding = np.flatnonzero(~stays_N[worse_P] & stays_N[better_P])
  worse_R, first_R = np.unique(worse_P[deciding], return_index=True)
  chosen = deciding[first_R]
  removed_R = np.empty(worse_R.size, REMOVED)
  removed_R['position'] = position_N[worse_R]
  removed_R['survivor'] = position_N[better_P[chosen]]
  removed_R['similarity'] = similarity_P[chosen]
  return removed_R[np.argsort(removed_R['position'])]


def cluster_sizes(removed_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Survivors, by position, and how many documents each stands for.

  Returns:
    uint64 [survivors]; int64 [survivors], 2 or more, as it counts itself.
  """
  survivors_N, removed_N = np.unique(removed_R['survivor'], return_counts=True)
  return survivors_N, removed_N + 1


def _ordered(
  pairs_P: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Numbers the documents from best to worst.

  Returns:
    Position of each number, uint64 [N]; numbers of the worse and of the better
    document of each pair, int64 [P].
  """
  position_M = np.concatenate([pairs_P['worse'], pairs_P['better']])
  rank_M = np.concatenate([pairs_P['worse_rank'], pairs_P['better_rank']])
  position_N, first_N, document_M = np.unique(
    position_M, return_index=True, return_inverse=True
  )
  rank_N = rank_M[first_N]
  assert (rank_N[document_M] == rank_M).all(), 'a document has one rank'
  order = np.lexsort((position_N, rank_N))
  number_N = np.empty(order.size, np.int64)
  number_N[order] = np.arange(order.size)
  worse_P, better_P = np.split(number_N[document_M], 2)
  assert (worse_P > better_P).all(), 'the better document has the lower rank'
  return position_N[order], worse_P, better_P
