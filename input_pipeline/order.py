"""Which rows stand in the batch of a step: a pure function of (seed, step).

The rows of the store are repeated without end; each epoch is a permutation of
all of them, and step k takes the k-th batch of that stream. The permutation is
a keyed Feistel network, so that any of its values is computed by itself: no
table, no state, and a run resumes at any step at once.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from input_pipeline.random_bits import splitmix64

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
  first = step * batch_size
  row_N, _ = rows_in_order(
    first + row_start, first + row_stop, seed=seed, epoch_rows=(num_rows,)
  )
  return row_N


def rows_in_order(
  start: int,
  stop: int,
  *,
  seed: int,
  epoch_rows: Sequence[int],
  name: str = '',
) -> tuple[np.ndarray, np.ndarray]:
  """The rows that a dataset gives when it is asked the n-th time.

  Args:
    start: how many rows it gave before.
    stop: how many it has given afterwards.
    seed: of the run.
    epoch_rows: rows of epoch 0, 1, and so on; then they start over.
    name: of the dataset in a mixture; any two have unrelated orders.

  Returns:
    row_N and epoch_N, int64 [stop - start]: indices for `Rows.read`, and how
    often all rows were given before.
  """
  row_N = np.empty(stop - start, np.int64)
  epoch_N = np.empty_like(row_N)
  done = 0
  while done < row_N.size:
    epoch, offset = epoch_at(start + done, epoch_rows)
    num_rows = epoch_rows[epoch % len(epoch_rows)]
    count = min(num_rows - offset, row_N.size - done)
    row_N[done : done + count] = permute(
      np.arange(offset, offset + count),
      seed=seed,
      epoch=epoch,
      size=num_rows,
      name=name,
    )
    epoch_N[done : done + count] = epoch
    done += count
  return row_N, epoch_N


def epoch_at(given: int, epoch_rows: Sequence[int]) -> tuple[int, int]:
  """The epoch that a dataset is in, and how many of its rows it has given.

  Args:
    given: rows that it has given in all.
    epoch_rows: as for `rows_in_order`.
  """
  assert all(rows > 0 for rows in epoch_rows), epoch_rows
  cycles, rest = divmod(given, sum(epoch_rows))
  copy = 0
  while rest >= epoch_rows[copy]:
    rest -= epoch_rows[copy]
    copy += 1
  return cycles * len(epoch_rows) + copy, rest


def permute(
  positions_N: np.ndarray, *, seed: int, epoch: int, size: int, name: str = ''
) -> np.ndarray:
  """Values of a permutation of range(size), keyed by (name, seed, epoch).

  A Feistel network over the smallest power of two that holds `size` values; a
  value outside is sent through it again until it falls inside (cycle walking;
  Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), which takes
  fewer than two passes on average.

  Args:
    positions_N: integers in [0, size).
    seed: of the run.
    epoch: any two epochs or seeds give unrelated permutations.
    size: number of values.
    name: of the dataset in a mixture, as for the epochs.

  Returns:
    int64 [N].
  """
  bits = max(2, (size - 1).bit_length())
  keys = _round_keys(name, seed, epoch)
  values_N = _feistel(positions_N.astype(np.uint64), bits, keys)
  outside = np.flatnonzero(values_N >= size)
  while outside.size:
    values_N[outside] = _feistel(values_N[outside], bits, keys)
    outside = outside[values_N[outside] >= size]
  return values_N.astype(np.int64)


def _round_keys(name: str, seed: int, epoch: int) -> np.ndarray:
  """A hash, so that no two (name, seed, epoch) share keys by arithmetic."""
  text = f'row order, seed {seed}, epoch {epoch}'
  if name:
    text += f', of {name}'
  digest = hashlib.blake2b(text.encode(), digest_size=8 * _ROUNDS).digest()
  return np.frombuffer(digest, '<u8').astype(np.uint64)


def _feistel(values_N: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
  """Permutes range(2**bits); each round changes one half by the other."""
  shift = np.uint64(bits // 2)
  low_mask = np.uint64((1 << (bits // 2)) - 1)
  high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
  high_N, low_N = values_N >> shift, values_N & low_mask
  for change_high, change_low in keys.reshape(-1, 2):
    high_N = high_N ^ (splitmix64(low_N ^ change_high) & high_mask)
    low_N = low_N ^ (splitmix64(high_N ^ change_low) & low_mask)
  return (high_N << shift) | low_N
