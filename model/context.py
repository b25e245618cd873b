"""Rows that are split over devices along their length (context parallelism).

The strategies differ in what moves between the devices of a row:
  all_gather: each device gathers the keys and values of the whole row.
  ring: keys and values go round, a part at a time (Liu et al. 2023, "Ring
    Attention", arXiv 2310.01889); model/ring.py.
  ulysses: each device gets whole rows of a part of the heads (Jacobs et al.
    2023, "DeepSpeed Ulysses", arXiv 2309.14509).

A late token sees more than an early one. Where a kernel makes use of that, rows
are cut into 2 n chunks for n devices and device i gets chunks i and 2 n - 1 - i
(as in Llama 3, arXiv 2407.21783, section 3.3.2), so that all have equal work.

Suffixes: B batch, T position, S key position, N query heads, K key/value heads,
H head size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from model.axes import AxisRules, partition_spec
from model.config import ModelConfig
from model.mask import Places

Order = tuple[int, ...]


def split_axes(axis: str, rules: AxisRules) -> tuple[str, ...]:
  """Axes of the surrounding mesh that split a logical axis, if any does."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return tuple(name for name in dict(rules)[axis] if sizes.get(name, 1) > 1)


def balanced_order(parts: int) -> Order:
  """Chunks 0 to 2 n - 1 of a row as they lie on n devices, two on each."""
  return tuple(
    chunk for part in range(parts) for chunk in (part, 2 * parts - 1 - part)
  )


def reorder(x: jax.Array, order: Order | None) -> jax.Array:
  """Puts the chunks of [B, T, ...] into an order."""
  if order is None:
    return x
  B, T, *rest = x.shape
  assert T % len(order) == 0, f'{T} positions in {len(order)} chunks'
  chunks = x.reshape(B, len(order), T // len(order), *rest)
  return jnp.take(chunks, jnp.array(order), axis=1).reshape(x.shape)


def restore(x: jax.Array, order: Order | None) -> jax.Array:
  """Undoes `reorder`."""
  if order is None:
    return x
  return reorder(x, tuple(order.index(chunk) for chunk in range(len(order))))


def whole_rows(
  heads: str, rules: AxisRules, *, split_heads: bool
) -> PartitionSpec:
  """How [B, T, heads, H] lies when each device holds whole rows.

  Args:
    heads: logical axis of the heads.
    rules: logical axis to mesh axes.
    split_heads: whether the axes that split rows split the heads instead.
  """
  table = dict(rules)
  more = table['length'] if split_heads else ()
  return PartitionSpec(table['batch'], None, (*table[heads], *more), None)


def per_device(
  local: Callable[..., jax.Array],
  config: ModelConfig,
  arrays: tuple[jax.Array, jax.Array, jax.Array],
  places: Places,
  extra: Any = (),
  extra_specs: Any = (),
) -> jax.Array:
  """Runs an attention kernel on each device's part of batch, row and heads.

  Args:
    local: (q_BTNH, k_BSKH, v_BSKH, query places, key places, extra) ->
      out_BTNH, all of one device. Keys are those of the whole row, but for the
      strategy ring: then they are the device's own.
    config: the model.
    arrays: q_BTNH, k_BTKH and v_BTKH.
    places: of the tokens.
    extra: more arrays for the kernel, and how they are split.
    extra_specs: partition specs of the extra arrays.

  Returns:
    out_BTNH.
  """
  mesh, rules = jax.sharding.get_abstract_mesh(), config.axis_rules
  if mesh.empty:
    return local(*arrays, places, places, extra)
  length = split_axes('length', rules)
  strategy = config.context_parallelism if length else None
  q_spec, kv_spec = (
    whole_rows(heads, rules, split_heads=True)
    if strategy == 'ulysses'
    else partition_spec(('batch', 'length', heads, None), rules)
    for heads in ('heads', 'kv_heads')
  )

  def run(q, k, v, queries, extra):
    if kv_spec[2] != q_spec[2]:
      k, v = (_own_heads(x, q.shape[2], config) for x in (k, v))
    keys = queries
    if strategy == 'all_gather':
      k, v, keys = jax.tree.map(
        lambda x: jax.lax.all_gather(x, length, axis=1, tiled=True),
        (k, v, keys),
      )
    return local(q, k, v, queries, keys, extra)

  places_spec = PartitionSpec(q_spec[0], q_spec[1])
  axes = zip(mesh.axis_names, mesh.axis_types, strict=True)
  return jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(q_spec, kv_spec, kv_spec, places_spec, extra_specs),
    out_specs=q_spec,
    axis_names={name for name, kind in axes if kind != AxisType.Manual},
    # Kernels do not say along which mesh axes their results vary.
    check_vma=False,
  )(*arrays, places, extra)


def _own_heads(kv: jax.Array, own: int, config: ModelConfig) -> jax.Array:
  """Of all key/value heads, those that a device's query heads share.

  Where the mesh splits query heads over more devices than there are key/value
  heads, each device holds all of the latter.
  """
  group = config.num_heads // config.num_kv_heads
  axes = split_axes('heads', config.axis_rules)
  if not axes:
    return kv
  first = jax.lax.axis_index(axes) * own // group
  return jax.lax.dynamic_slice_in_dim(kv, first, max(1, own // group), axis=2)
