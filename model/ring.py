"""Ring attention: the parts of a row's keys and values visit every device.

Each device keeps its queries and n devices pass keys and values on, so that
none of them holds those of the whole row, forward or backward (Liu et al. 2023,
"Ring Attention with Blockwise Transformers", arXiv 2310.01889). What parts of
the keys give is joined by their maxima and sums ("online softmax"). A device
has two chunks of the row; chunks of keys that a block of queries cannot see are
not computed. Scores exist for a block of queries and a chunk of keys at a time.

Suffixes: B batch, T query position, S key position, N query heads, K key/value
heads, G query heads per key/value head, H head size; a leading Q counts blocks
of queries, a leading C the two chunks of a device.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from model.config import ModelConfig
from model.context import Order, per_device, split_axes
from model.einsum import product
from model.layers import softcap as apply_softcap
from model.mask import MASKED, Places, causal_mask

# Queries whose scores exist at a time, at most.
_QUERIES = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ring:
  """What is the same on all devices of a ring.

  Attributes:
    axes: mesh axes that split rows.
    order: in which chunks of the rows lie on the devices, two on each.
    window: positions seen; None: all.
    softcap: of the scores, or None.
    prefixes: whether tokens may see later ones, so that no chunk is skipped.
  """

  axes: tuple[str, ...]
  order: Order
  window: int | None
  softcap: float | None
  prefixes: bool

  @property
  def size(self) -> int:
    """Devices."""
    return len(self.order) // 2

  def shift(self, tree: Any) -> Any:
    """Passes arrays on to the next device."""
    pairs = [(i, (i + 1) % self.size) for i in range(self.size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, self.axes, pairs), tree)

  def chunks(self, device: jax.Array) -> jax.Array:
    """Which two chunks of the rows a device has."""
    return jnp.array(self.order).reshape(-1, 2)[device]

  def reach(self, query_chunk: Any, key_chunk: Any, size: int) -> Any:
    """Whether any query of a chunk may see any key of another chunk."""
    if self.prefixes:
      return True
    seen = query_chunk >= key_chunk
    if self.window is not None:
      # From the first query back to the last key.
      distance = (query_chunk - key_chunk) * size - (size - 1)
      seen &= distance < self.window
    return seen


def make_attend(config: ModelConfig, places: Places):
  """A function (q_BTNH, k_BTKH, v_BTKH, dropout keys) -> out_BTNH."""
  assert config.row_order is not None, 'a ring balances its chunks'
  ring = Ring(
    axes=split_axes('length', config.axis_rules),
    order=config.row_order,
    window=config.sliding_window,
    softcap=config.attention_softcap,
    prefixes=places.visible_BT is not None,
  )

  def local(q_BTNH, k_BTKH, v_BTKH, queries, keys, extra):
    del keys, extra
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    return _attend(ring, q_BTKGH, k_BTKH, v_BTKH, queries).reshape(B, T, N, H)

  def attend(q_BTNH, k_BTKH, v_BTKH, dropout_keys):
    del dropout_keys
    return per_device(local, config, (q_BTNH, k_BTKH, v_BTKH), places)

  return attend


def _cut(tree: Any, size: int) -> Any:
  """[B, T, ...] to [T / size, B, size, ...]."""

  def cut(x):
    B, T, *rest = x.shape
    return jnp.moveaxis(x.reshape(B, T // size, size, *rest), 1, 0)

  return jax.tree.map(cut, tree)


def _join(x: jax.Array) -> jax.Array:
  """Undoes `_cut`."""
  n, B, size, *rest = x.shape
  return jnp.moveaxis(x, 0, 1).reshape(B, n * size, *rest)


def _block_size(T: int) -> int:
  """Queries of a block: they divide a device's chunk."""
  return max(n for n in range(1, _QUERIES + 1) if T // 2 % n == 0)


def _tour(
  ring: Ring, meet: Callable[..., Any], blocks_Q: Any, state_Q, keys_C, sums_C
):
  """Lets every block of queries of the ring meet every chunk of keys.

  Args:
    ring: the ring.
    meet: (block, keys, state, sums) -> (state, sums): what a block of queries
      and a chunk of keys add to the state of the one and the sums of the other.
    blocks_Q: this device's queries, and what comes with them.
    state_Q: of each block.
    keys_C: this device's two chunks of keys, and what comes with them.
    sums_C: of each chunk.

  Returns:
    The states and the sums.
  """
  half = jax.tree.leaves(keys_C)[0].shape[2]
  me = jax.lax.axis_index(ring.axes)
  blocks = jax.tree.leaves(blocks_Q)[0].shape[0]
  chunks_Q = jnp.repeat(ring.chunks(me), blocks // 2)

  def one_block(owner, keys_C, sums_C, xs):
    chunk, block, state = xs
    after = []
    for i in range(2):
      keys, sums = jax.tree.map(lambda x, i=i: x[i], (keys_C, sums_C))
      state, sums = jax.lax.cond(
        ring.reach(chunk, ring.chunks(owner)[i], half),
        functools.partial(meet, block, keys),
        lambda state, sums: (state, sums),
        state,
        sums,
      )
      after.append(sums)
    return jax.tree.map(lambda *x: jnp.stack(x), *after), state

  def one_device(carry, _):
    owner, state_Q, keys_C, sums_C = carry
    # Asked for first, so that they travel while this device computes.
    next_C = ring.shift(keys_C)
    sums_C, state_Q = jax.lax.scan(
      functools.partial(one_block, owner, keys_C),
      sums_C,
      (chunks_Q, blocks_Q, state_Q),
    )
    owner = (owner - 1) % ring.size
    return (owner, state_Q, next_C, ring.shift(sums_C)), None

  carry = (me, state_Q, keys_C, sums_C)
  # After as many steps as there are devices, all are where they belong.
  (_, state_Q, _, sums_C), _ = jax.lax.scan(one_device, carry, length=ring.size)
  return state_Q, sums_C


def _scores(ring: Ring, q_BTKGH, k_BSKH, queries: Places, keys: Places):
  """Capped scores, the slope of the cap, and the mask [B, 1, 1, T, S]."""
  raw_BKGTS = product('BTKGH,BSKH->BKGTS', q_BTKGH, k_BSKH)
  raw_BKGTS *= q_BTKGH.shape[-1] ** -0.5
  scores_BKGTS = apply_softcap(raw_BKGTS, ring.softcap)
  slope = (
    1.0 if ring.softcap is None else 1 - (scores_BKGTS / ring.softcap) ** 2
  )
  mask_BTS = causal_mask(queries, keys, ring.window)
  return scores_BKGTS, slope, mask_BTS[:, None, None]


def _by_query(x_BKGT: jax.Array) -> jax.Array:
  """[B, K, G, T] to [B, T, K, G, 1]."""
  return jnp.moveaxis(x_BKGT, 3, 1)[..., None]


def _add_values(ring: Ring, block, keys, state, sums):
  """Adds what a chunk of keys gives to a block of queries."""
  (q_BTKGH, queries), (k_BSKH, v_BSKH, places) = block, keys
  out_BTKGH, top_BKGT, total_BKGT = state
  scores, _, mask = _scores(ring, q_BTKGH, k_BSKH, queries, places)
  scores = jnp.where(mask, scores, MASKED)
  new_top = jnp.maximum(top_BKGT, scores.max(-1))
  weights = jnp.where(mask, jnp.exp(scores - new_top[..., None]), 0)
  scale_BKGT = jnp.exp(top_BKGT - new_top)
  part = product('BKGTS,BSKH->BTKGH', weights.astype(v_BSKH.dtype), v_BSKH)
  out_BTKGH = out_BTKGH * _by_query(scale_BKGT) + part
  return (out_BTKGH, new_top, total_BKGT * scale_BKGT + weights.sum(-1)), sums


def _add_gradients(ring: Ring, block, keys, dq_BTKGH, sums):
  """Adds the gradients of a block of queries and of a chunk of keys, values."""
  q_BTKGH, queries, gradient_BTKGH, mean_BTKG1, normaliser_BKGT = block
  k_BSKH, v_BSKH, places = keys
  scores, slope, mask = _scores(ring, q_BTKGH, k_BSKH, queries, places)
  weights = jnp.where(mask, jnp.exp(scores - normaliser_BKGT[..., None]), 0)
  dw_BKGTS = product('BTKGH,BSKH->BKGTS', gradient_BTKGH, v_BSKH)
  ds_BKGTS = weights * (dw_BKGTS - jnp.moveaxis(mean_BTKG1, 1, 3)) * slope
  ds_BKGTS = (ds_BKGTS * q_BTKGH.shape[-1] ** -0.5).astype(q_BTKGH.dtype)
  weights = weights.astype(q_BTKGH.dtype)
  return dq_BTKGH + product('BKGTS,BSKH->BTKGH', ds_BKGTS, k_BSKH), (
    sums[0] + product('BKGTS,BTKGH->BSKH', ds_BKGTS, q_BTKGH),
    sums[1] + product('BKGTS,BTKGH->BSKH', weights, gradient_BTKGH),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring: Ring, q_BTKGH, k_BTKH, v_BTKH, places: Places):
  return _forward(ring, q_BTKGH, k_BTKH, v_BTKH, places)[0]


def _forward(ring: Ring, q_BTKGH, k_BTKH, v_BTKH, places: Places):
  T = q_BTKGH.shape[1]
  blocks_Q = _cut((q_BTKGH, places), _block_size(T))
  Q, B, size, K, G, _ = blocks_Q[0].shape
  state_Q = (
    jnp.zeros(blocks_Q[0].shape, jnp.float32),
    jnp.full((Q, B, K, G, size), MASKED, jnp.float32),
    jnp.zeros((Q, B, K, G, size), jnp.float32),
  )
  (out_Q, top_Q, total_Q), _ = _tour(
    ring,
    functools.partial(_add_values, ring),
    blocks_Q,
    state_Q,
    _cut((k_BTKH, v_BTKH, places), T // 2),
    (),
  )
  out_BTKGH = _join(out_Q / jax.vmap(_by_query)(total_Q))
  # As of a kernel: what the backward pass needs has the result's name.
  out_BTKGH = checkpoint_name(out_BTKGH.astype(q_BTKGH.dtype), 'context')
  normaliser_Q = checkpoint_name(top_Q + jnp.log(total_Q), 'context')
  return out_BTKGH, (q_BTKGH, k_BTKH, v_BTKH, places, out_BTKGH, normaliser_Q)


def _backward(ring: Ring, residuals, gradient_BTKGH):
  q_BTKGH, k_BTKH, v_BTKH, places, out_BTKGH, normaliser_Q = residuals
  T = q_BTKGH.shape[1]
  # sum over keys of weight * d(weight) = <out, d(out)> (FlashAttention).
  mean_BTKG1 = (
    out_BTKGH.astype(jnp.float32) * gradient_BTKGH.astype(jnp.float32)
  ).sum(-1, keepdims=True)
  blocks_Q = _cut((q_BTKGH, places, gradient_BTKGH, mean_BTKG1), _block_size(T))
  keys_C = _cut((k_BTKH, v_BTKH, places), T // 2)
  zeros = functools.partial(jnp.zeros_like, dtype=jnp.float32)
  dq_Q, sums_C = _tour(
    ring,
    functools.partial(_add_gradients, ring),
    (*blocks_Q, normaliser_Q),
    zeros(blocks_Q[0]),
    keys_C,
    jax.tree.map(zeros, keys_C[:2]),
  )
  gradients = tuple(_join(x).astype(k_BTKH.dtype) for x in (dq_Q, *sums_C))
  return (*gradients, None)


_attend.defvjp(_forward, _backward)
