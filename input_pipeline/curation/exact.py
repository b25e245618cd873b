"""Documents whose texts are equal, of which one stays.

Legend of array names: D documents, N records of a partition, R removed
documents.
"""

import numpy as np

from input_pipeline.curation.survivors import REMOVED

# The 128 bits of a text's hash are the key and a second word.
RECORD = np.dtype(
  [('key', '<u8'), ('second', '<u8'), ('rank', '<u8'), ('position', '<u8')]
)


def text_records(
  hash_D2: np.ndarray, rank_D: np.ndarray, position_D: np.ndarray
) -> np.ndarray:
  """A record for each document: [D] of RECORD.

  Args:
    hash_D2: uint64, 128 bits of a hash of each text.
    rank_D: uint64; of equal texts the one of the lowest rank stays.
    position_D: uint64; decides between equal ranks.
  """
  records_D = np.empty(rank_D.size, RECORD)
  records_D['key'], records_D['second'] = hash_D2[:, 0], hash_D2[:, 1]
  records_D['rank'], records_D['position'] = rank_D, position_D
  return records_D


def equal_texts(records_N: np.ndarray) -> np.ndarray:
  """Documents that equal a better one: [R] of REMOVED, by position.

  Args:
    records_N: of `text_records`, sorted by all their fields.
  """
  if not records_N.size:
    return np.empty(0, REMOVED)
  same_N = np.append(
    False,
    (records_N['key'][1:] == records_N['key'][:-1])
    & (records_N['second'][1:] == records_N['second'][:-1]),
  )
  survivor_N = records_N['position'][~same_N][np.cumsum(~same_N) - 1]
  removed_R = np.empty(int(same_N.sum()), REMOVED)
  removed_R['position'] = records_N['position'][same_N]
  removed_R['survivor'] = survivor_N[same_N]
  removed_R['similarity'] = 1.0
  return removed_R[np.argsort(removed_R['position'])]
