"""Host rows to one global array: the only file here that uses jax."""

import itertools
import math

import jax
import numpy as np


def process_rows(
  sharding: jax.sharding.Sharding, global_batch: int
) -> tuple[int, int]:
  """Rows [start, stop) of the global batch that this process must read.

  Several processes get the same rows where a mesh axis that does not split the
  batch (tensor parallelism, say) spans processes.

  Raises:
    ValueError: when the batch does not divide over the devices, or the rows of
      this process are not contiguous.
  """
  _check_divides(sharding, global_batch)
  indices = sharding.addressable_devices_indices_map((global_batch, 1))
  spans = set()
  for index in indices.values():
    assert index is not None
    spans.add(index[0].indices(global_batch)[:2])
  ordered = sorted(spans)
  for (_, stop), (start, _) in itertools.pairwise(ordered):
    if stop != start:
      raise ValueError(
        f'process {jax.process_index()} holds rows {ordered} of the batch,'
        ' which are not contiguous, under the mesh axes'
        f' {_axes(sharding)}; order the mesh so that the axes that split the'
        ' batch run over whole processes first'
      )
  return ordered[0][0], ordered[-1][1]


def to_global_array(
  rows: np.ndarray, sharding: jax.sharding.Sharding, global_batch: int
) -> jax.Array:
  """Makes the global batch out of the rows that each process has read.

  Args:
    rows: [stop - start, R], the rows that `process_rows` names.
    sharding: of the global batch; only its first axis may be split.
    global_batch: rows of the global batch.

  Returns:
    [global_batch, R] of the dtype of `rows`.
  """
  start, stop = process_rows(sharding, global_batch)
  assert rows.shape[0] == stop - start, (rows.shape, start, stop)

  def shard(index: tuple[slice, ...] | None) -> np.ndarray:
    assert index is not None
    first, last, _ = index[0].indices(global_batch)
    return rows[first - start : last - start]

  return jax.make_array_from_callback(
    (global_batch, rows.shape[1]), sharding, shard
  )


def _check_divides(sharding: jax.sharding.Sharding, global_batch: int) -> None:
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return
  spec = sharding.spec
  if any(axes for axes in spec[1:]):
    raise ValueError(f'only the rows of a batch may be split, not {spec}')
  names = spec[0] if len(spec) else None
  if not names:
    return
  names = (names,) if isinstance(names, str) else names
  shards = math.prod(sharding.mesh.shape[name] for name in names)
  if global_batch % shards:
    sizes = ' x '.join(f'{name} {sharding.mesh.shape[name]}' for name in names)
    raise ValueError(
      f'a batch of {global_batch} rows does not divide over {sizes} = {shards}'
      f' shards; take a multiple of {shards}'
    )


def _axes(sharding: jax.sharding.Sharding) -> str:
  if isinstance(sharding, jax.sharding.NamedSharding):
    return f'{dict(sharding.mesh.shape)}, spec {sharding.spec}'
  return str(sharding)
