"""Which rows stand in the batch of a step: a pure function of (seed, step).

The rows of the store are repeated without end; each epoch is a permutation of
all of them, and step k takes the k-th batch of that stream. The permutation is
a keyed Feistel network, so that any of its values is computed by itself: no
table, no state, and a run resumes at any step at once.
"""

import hashlib

import numpy as np

_ROUNDS = 6


def row_indices(
  step: int,
  *,
  seed: int,
  batch_size: int,
  num_rows: int,
  row_start: int,
  row_stop: int,
) -> np.ndarray:
  """Rows of the store at places [row_start, row_stop) of the batch of `step`.

  Returns:
    int64 [row_stop - row_start]; a batch may straddle epochs.
  """
  assert 0 <= row_start <= row_stop <= batch_size, (row_start, row_stop)
  assert step >= 0, step
  assert num_rows > 0, num_rows
  first = step * batch_size
  indices_N = np.empty(row_stop - row_start, np.int64)
  done = 0
  while done < indices_N.size:
    epoch, offset = divmod(first + row_start + done, num_rows)
    count = min(num_rows - offset, indices_N.size - done)
    indices_N[done : done + count] = permute(
      np.arange(offset, offset + count), seed=seed, epoch=epoch, size=num_rows
    )
    done += count
  return indices_N


def permute(
  positions_N: np.ndarray, *, seed: int, epoch: int, size: int
) -> np.ndarray:
  """Values of a permutation of range(size), keyed by (seed, epoch).

  A Feistel network over the smallest power of two that holds `size` values; a
  value outside is sent through it again until it falls inside (cycle walking;
  Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), which takes
  fewer than two passes on average.

  Args:
    positions_N: integers in [0, size).
    seed: of the run.
    epoch: any two epochs or seeds give unrelated permutations.
    size: number of values.

  Returns:
    int64 [N].
  """
  bits = max(2, (size - 1).bit_length())
  keys = _round_keys(seed, epoch)
  values_N = _feistel(positions_N.astype(np.uint64), bits, keys)
  outside = np.flatnonzero(values_N >= size)
  while outside.size:
    values_N[outside] = _feistel(values_N[outside], bits, keys)
    outside = outside[values_N[outside] >= size]
  return values_N.astype(np.int64)


def _round_keys(seed: int, epoch: int) -> np.ndarray:
  """A hash, so that no two pairs (seed, epoch) share keys by arithmetic."""
  digest = hashlib.blake2b(
    f'row order, seed {seed}, epoch {epoch}'.encode(), digest_size=8 * _ROUNDS
  ).digest()
  return np.frombuffer(digest, '<u8').astype(np.uint64)


def _feistel(values_N: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
  """Permutes range(2**bits); each round changes one half by the other."""
  shift = np.uint64(bits // 2)
  low_mask = np.uint64((1 << (bits // 2)) - 1)
  high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
  high_N, low_N = values_N >> shift, values_N & low_mask
  for change_high, change_low in keys.reshape(-1, 2):
    high_N = high_N ^ (_splitmix64(low_N ^ change_high) & high_mask)
    low_N = low_N ^ (_splitmix64(high_N ^ change_low) & low_mask)
  return (high_N << shift) | low_N


def _splitmix64(x_N: np.ndarray) -> np.ndarray:
  """Mixes 64 bits: Steele, Lea and Flood 2014, variant 13 of D. Stafford."""
  x_N = x_N + np.uint64(0x9E3779B97F4A7C15)
  x_N = (x_N ^ (x_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x_N = (x_N ^ (x_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x_N ^ (x_N >> np.uint64(31))
