"""Random numbers that are a function of their key and of nothing else.

No generator has a state: a number is the hash of (seed, step, place in the
global batch, name of what draws, index of the draw). So it does not matter
which host draws it, what was drawn before, or how many rows come at a time.

Suffixes: N rows, P pieces or other things that draw, C columns.
"""

import hashlib

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
# So many that they stay in the cache, where hashing is twice as fast.
_ROWS_AT_A_TIME = 16


def splitmix64(x_N: np.ndarray) -> np.ndarray:
  """Mixes 64 bits: Steele, Lea and Flood 2014, variant 13 of D. Stafford."""
  x_N = x_N + _GAMMA
  x_N ^= x_N >> np.uint64(30)
  x_N *= np.uint64(0xBF58476D1CE4E5B9)
  x_N ^= x_N >> np.uint64(27)
  x_N *= np.uint64(0x94D049BB133111EB)
  x_N ^= x_N >> np.uint64(31)
  return x_N


class Draws:
  """The random numbers of one name in one step.

  Args:
    name: of what draws; any two names give unrelated numbers.
    seed: of the run.
    step: of the batch.
    place_N: place of each row in the global batch.
  """

  def __init__(
    self, name: str, *, seed: int, step: int, place_N: np.ndarray
  ) -> None:
    text = f'augmentation {name}, seed {seed}, step {step}'
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    base = np.frombuffer(digest, '<u8').astype(np.uint64)
    self._key_N = splitmix64(base ^ splitmix64(place_N.astype(np.uint64)))

  def bits(self, columns: int) -> np.ndarray:
    """A number for each place of each row, uint16 [N, columns]."""
    # A hash makes four. Counted like draws of number 2**31.
    index_C = np.arange(-(-columns // 4), dtype=np.uint64) + np.uint64(1 << 63)
    index_C *= _GAMMA
    bits_NC = np.empty((self._key_N.size, index_C.size), '<u8')
    for start in range(0, self._key_N.size, _ROWS_AT_A_TIME):
      rows = slice(start, start + _ROWS_AT_A_TIME)
      bits_NC[rows] = splitmix64(self._key_N[rows, None] + index_C)
    return bits_NC.view('<u2')[:, :columns]

  def uniform(
    self, row_P: np.ndarray, column_P: np.ndarray, draw: int | np.ndarray = 0
  ) -> np.ndarray:
    """Numbers in [0, 1), float64 [P].

    Args:
      row_P: rows that draw.
      column_P: columns that draw.
      draw: number of the draw of that row and column, below 2**31.
    """
    return (self._hash(row_P, column_P, draw) >> np.uint64(11)) * 2.0**-53

  def integers(
    self,
    row_P: np.ndarray,
    column_P: np.ndarray,
    below_P: np.ndarray | int,
    draw: int | np.ndarray = 0,
  ) -> np.ndarray:
    """Integers in [0, below), int64 [P]; `below` lies in 1 to 2**31."""
    high_P = self._hash(row_P, column_P, draw) >> np.uint64(32)
    below_P = np.asarray(below_P, np.uint64)
    return ((high_P * below_P) >> np.uint64(32)).astype(np.int64)

  def _hash(
    self, row_P: np.ndarray, column_P: np.ndarray, draw: int | np.ndarray
  ) -> np.ndarray:
    index_P = np.asarray(column_P, np.uint64) | (
      np.asarray(draw, np.uint64) << np.uint64(32)
    )
    return splitmix64(self._key_N[row_P] + index_P * _GAMMA)


def chance(rate: float) -> np.uint16:
  """What `bits` lie below with this probability, to within 1 / 131,072."""
  assert 0 < rate < 1, rate
  return np.uint16(min(max(round(rate * 65_536), 1), 65_535))
