"""Tables of what each Unicode character is, for all 0x110000 of them.

Legend: Q all code points, N positions in a text.

They follow Python's own `str` methods, hence the Unicode version of the running
interpreter. Each table is made once a process, when it is first asked for.
"""

import functools

import numpy as np

NUM_CODE_POINTS = 0x110000
# Bits of `classes`, by the method of `str` that says the same.
SPACE, ALPHA, UPPER, LOWER, DIGIT, ALNUM, DECIMAL, UNWANTED = (
  1 << bit for bit in range(8)
)
_METHODS = (
  'isspace', 'isalpha', 'isupper', 'islower', 'isdigit', 'isalnum', 'isdecimal',
)  # fmt: skip
# UNWANTED are control characters but for the line end and the tab, U+FEFF (a
# byte order mark that was left in a text) and halves of surrogate pairs, which
# no encoding can hold: first and last of each range.
UNWANTED_RANGES = (
  (0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x9F), (0xD800, 0xDFFF), (0xFEFF, 0xFEFF),
)  # fmt: skip

# SplitMix64 (Steele, Lea and Flood 2014, 'Fast splittable pseudorandom number
# generators').
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
# Base of the polynomials; odd, so it has an inverse modulo 2^64.
_BASE = 0xD1342543DE82EF95
_INVERSE = pow(_BASE, -1, 1 << 64)
_MASK = (1 << 64) - 1
# Numbers in a row that `Spans` reads at once, and how often at most: 2^32 are
# more than a batch holds.
_BLOCK_BITS = 14
_BLOCK = 1 << _BLOCK_BITS
_MAX_BLOCKS = 1 << 18


@functools.cache
def classes() -> np.ndarray:
  """Returns uint8 [Q], the classes of each code point as bits."""
  points_Q = np.arange(NUM_CODE_POINTS, dtype=np.uint32).view('<U1')
  table_Q = np.zeros(NUM_CODE_POINTS, np.uint8)
  for bit, method in enumerate(_METHODS):
    member_Q = getattr(np.strings, method)(points_Q)
    table_Q |= member_Q.astype(np.uint8) << np.uint8(bit)
  for first, last in UNWANTED_RANGES:
    table_Q[first : last + 1] |= np.uint8(UNWANTED)
  return _constant(table_Q)


@functools.cache
def lower() -> np.ndarray:
  """Returns uint32 [Q], each code point in lower case.

  Always one character for one: a character whose lower case is longer stays,
  and a sigma at the end of a word is one like any other.
  """
  table_Q = np.arange(NUM_CODE_POINTS, dtype=np.uint32)
  titles_Q = np.strings.istitle(table_Q.view('<U1'))
  for point in np.flatnonzero((classes() & UPPER > 0) | titles_Q).tolist():
    lowered = chr(point).lower()
    if len(lowered) == 1:
      table_Q[point] = ord(lowered)
  return _constant(table_Q)


@functools.cache
def hashes(folded: bool) -> np.ndarray:
  """Returns uint64 [Q], a random number for each code point.

  Args:
    folded: gives a letter and its lower case the same number.
  """
  if folded:
    return _constant(hashes(False)[lower()])
  return _constant(mix(np.arange(1, NUM_CODE_POINTS + 1, dtype=np.uint64)))


def mix(values_N: np.ndarray) -> np.ndarray:
  """SplitMix64's output function: uint64 [N] to uint64 [N], one to one."""
  mixed_N = values_N * np.uint64(_GAMMA)
  mixed_N ^= mixed_N >> np.uint64(30)
  mixed_N *= np.uint64(_MIX_1)
  mixed_N ^= mixed_N >> np.uint64(27)
  mixed_N *= np.uint64(_MIX_2)
  mixed_N ^= mixed_N >> np.uint64(31)
  return mixed_N


class Spans:
  """Hashes of any spans of a sequence of N numbers, from one prefix sum.

  A span of numbers v_0 v_1 ... hashes to the sum of v_i * base^i modulo 2^64,
  mixed; that does not depend on where it stands.
  """

  def __init__(self, values_N: np.ndarray, table: np.ndarray | None = None):
    """Sums up.

    Args:
      values_N: the numbers, uint64; or indices, if there is a table.
      table: uint64; from indices to numbers.
    """
    self._sums_N = np.zeros(values_N.size + 1, np.uint64)
    low, high = _powers(_BASE)
    # Blocks stay in the cache from the lookup to the sum.
    for block, start in enumerate(range(0, values_N.size, _BLOCK)):
      part = values_N[start : start + _BLOCK]
      part = part.copy() if table is None else table.take(part)
      part *= low[: part.size]
      part *= high[block]
      sums = self._sums_N[start + 1 : start + 1 + part.size]
      np.cumsum(part, out=sums)
      sums += self._sums_N[start]

  def hash(self, start_S: np.ndarray, stop_S: np.ndarray) -> np.ndarray:
    """Hashes the spans [start, stop) of positions: uint64 [S]."""
    sums_S = self._sums_N[stop_S]
    sums_S -= self._sums_N[start_S]
    low, high = _powers(_INVERSE)
    sums_S *= low[start_S & (_BLOCK - 1)]
    sums_S *= high[start_S >> _BLOCK_BITS]
    return mix(sums_S)


def word_hash(word: str, *, folded: bool = False) -> int:
  """Hashes one word to the number that `Columns` gives it."""
  total = 0
  for place, character in enumerate(word):
    point = int(lower()[ord(character)]) if folded else ord(character)
    total += _mix_one(point + 1) * pow(_BASE, place, 1 << 64)
  return _mix_one(total & _MASK)


def _mix_one(value: int) -> int:
  mixed = value * _GAMMA & _MASK
  mixed = (mixed ^ mixed >> 30) * _MIX_1 & _MASK
  mixed = (mixed ^ mixed >> 27) * _MIX_2 & _MASK
  return mixed ^ mixed >> 31


@functools.cache
def _powers(base: int) -> tuple[np.ndarray, np.ndarray]:
  """base^i of i < _BLOCK, and of the first multiples of _BLOCK: uint64."""
  tables = []
  for size, step in ((_BLOCK, base), (_MAX_BLOCKS, pow(base, _BLOCK, 1 << 64))):
    table = np.full(size, step, np.uint64)
    table[0] = 1
    tables.append(_constant(np.cumprod(table)))
  return tables[0], tables[1]


def _constant(table: np.ndarray) -> np.ndarray:
  table.flags.writeable = False
  return table
