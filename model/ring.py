"""Ring attention: the parts of a row's keys and values visit every device.

Each device keeps its queries and n devices pass keys and values on n - 1 times,
so none of them holds those of the whole row, forward or backward (Liu et al.
2023, "Ring Attention with Blockwise Transformers", arXiv 2310.01889). Results
for parts of the keys are joined by their maxima and sums ("online softmax").
Chunks of keys that a block of queries cannot see are not computed. Scores exist
for a block of queries and a chunk of keys at a time.

Suffixes: B batch, T query position, S key position, N query heads, K key/value
heads, G query heads per key/value head, H head size; a leading Q counts blocks
of queries.
"""

import dataclasses
import functools
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

  def reach(self, query_chunk: Any, key_chunk: Any, size: int) -> Any:
    """Whether any query of a chunk may see any key of another chunk."""
    if self.prefixes:
      return jnp.array(True)
    seen = query_chunk >= key_chunk
    if self.window is not None:
      # From the first query back to the last key.
      distance = (query_chunk - key_chunk) * size - (size - 1)
      seen &= distance < self.window
    return seen


def make_attend(config: ModelConfig, places: Places, order: Order):
  """A function (q_BTNH, k_BTKH, v_BTKH, dropout key) -> out_BTNH."""
  ring = Ring(
    axes=split_axes('length', config.axis_rules),
    order=order,
    window=config.sliding_window,
    softcap=config.attention_softcap,
    prefixes=places.visible_BT is not None,
  )

  def local(q_BTNH, k_BTKH, v_BTKH, queries, keys, extra):
    del keys, extra
    return _attend(ring, q_BTNH, k_BTKH, v_BTKH, queries)

  def attend(q_BTNH, k_BTKH, v_BTKH, dropout_key):
    del dropout_key
    return per_device(local, config, (q_BTNH, k_BTKH, v_BTKH), places)

  return attend


def _blocks(x: jax.Array, size: int) -> jax.Array:
  """[B, T, ...] to [Q, B, size, ...]."""
  B, T, *rest = x.shape
  return jnp.moveaxis(x.reshape(B, T // size, size, *rest), 1, 0)


def _rows(x: jax.Array) -> jax.Array:
  """[Q, B, size, ...] to [B, T, ...]."""
  Q, B, size, *rest = x.shape
  return jnp.moveaxis(x, 0, 1).reshape(B, Q * size, *rest)


def _grouped(x_BTNH: jax.Array, num_kv_heads: int) -> jax.Array:
  B, T, N, H = x_BTNH.shape
  return x_BTNH.reshape(B, T, num_kv_heads, N // num_kv_heads, H)


def _query_blocks(ring: Ring, q_BTNH, k_BTKH, places):
  """Queries in blocks, with their places and the chunks that they are of."""
  chunk = q_BTNH.shape[1] // 2
  size = max(s for s in range(1, min(chunk, _QUERIES) + 1) if chunk % s == 0)
  mine = _chunks_of(ring, jax.lax.axis_index(ring.axes))
  chunks_Q = jnp.repeat(mine, chunk // size)
  q_BTKGH = _grouped(q_BTNH, k_BTKH.shape[2])
  return (
    size,
    chunks_Q,
    *jax.tree.map(lambda x: _blocks(x, size), (q_BTKGH, places)),
  )


def _chunks_of(ring: Ring, device) -> jax.Array:
  return jnp.array(ring.order).reshape(-1, 2)[device]


def _halves(tree: Any) -> tuple[Any, Any]:
  """The two chunks of a device."""
  half = jax.tree.leaves(tree)[0].shape[1] // 2
  return (
    jax.tree.map(lambda x: x[:, :half], tree),
    jax.tree.map(lambda x: x[:, half:], tree),
  )


def _scores(ring: Ring, q_BTKGH, k_BSKH, queries, keys):
  """Capped scores, the slope of the cap, and the mask [B, 1, 1, T, S]."""
  raw_BKGTS = product('BTKGH,BSKH->BKGTS', q_BTKGH, k_BSKH)
  raw_BKGTS *= q_BTKGH.shape[-1] ** -0.5
  scores_BKGTS = apply_softcap(raw_BKGTS, ring.softcap)
  slope = (
    1.0 if ring.softcap is None else 1 - (scores_BKGTS / ring.softcap) ** 2
  )
  mask_BTS = causal_mask(queries, keys, ring.window)
  return scores_BKGTS, slope, mask_BTS[:, None, None]


def _join(ring: Ring, q_BTKGH, queries, k_BSKH, v_BSKH, keys, state):
  """Adds what a chunk of keys gives to a block of queries."""
  out_BTKGH, top_BKGT, total_BKGT = state
  scores, _, mask = _scores(ring, q_BTKGH, k_BSKH, queries, keys)
  scores = jnp.where(mask, scores, MASKED)
  new_top = jnp.maximum(top_BKGT, scores.max(-1))
  weights = jnp.where(mask, jnp.exp(scores - new_top[..., None]), 0)
  scale_BKGT = jnp.exp(top_BKGT - new_top)
  part = product('BKGTS,BSKH->BTKGH', weights.astype(v_BSKH.dtype), v_BSKH)
  out_BTKGH = out_BTKGH * _by_query(scale_BKGT) + part
  return out_BTKGH, new_top, total_BKGT * scale_BKGT + weights.sum(-1)


def _by_query(x_BKGT: jax.Array) -> jax.Array:
  """[B, K, G, T] to [B, T, K, G, 1]."""
  return jnp.moveaxis(x_BKGT, 3, 1)[..., None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring: Ring, q_BTNH, k_BTKH, v_BTKH, places: Places):
  return _forward(ring, q_BTNH, k_BTKH, v_BTKH, places)[0]


def _forward(ring: Ring, q_BTNH, k_BTKH, v_BTKH, places: Places):
  size, chunks_Q, q_Q, places_Q = _query_blocks(ring, q_BTNH, k_BTKH, places)
  half = q_BTNH.shape[1] // 2

  def meet(state, visitors, owner):
    """All blocks of queries meet the two chunks of keys of one device."""
    key_chunks = _chunks_of(ring, owner)

    def one_block(_, xs):
      q_BTKGH, queries, chunk, state = xs
      for i, (k, v, keys) in enumerate(_halves(visitors)):
        state = jax.lax.cond(
          ring.reach(chunk, key_chunks[i], half),
          functools.partial(_join, ring, q_BTKGH, queries, k, v, keys),
          lambda state: state,
          state,
        )
      return None, state

    xs = (q_Q, places_Q, chunks_Q, state)
    return jax.lax.scan(one_block, None, xs)[1]

  def step(carry, _):
    state, visitors, owner = carry
    visitors, owner = ring.shift(visitors), (owner - 1) % ring.size
    return (meet(state, visitors, owner), visitors, owner), None

  Q, B, _, K, G, _ = q_Q.shape
  state = (
    jnp.zeros(q_Q.shape, jnp.float32),
    jnp.full((Q, B, K, G, size), MASKED, jnp.float32),
    jnp.zeros((Q, B, K, G, size), jnp.float32),
  )
  owner = jax.lax.axis_index(ring.axes)
  visitors = (k_BTKH, v_BTKH, places)
  carry = (meet(state, visitors, owner), visitors, owner)
  (state, _, _), _ = jax.lax.scan(step, carry, length=ring.size - 1)
  out_Q, top_Q, total_Q = state
  out_Q = out_Q / jax.vmap(_by_query)(total_Q)
  out_BTNH = _rows(out_Q).reshape(q_BTNH.shape).astype(q_BTNH.dtype)
  # As of a kernel: what the backward pass needs has the result's name.
  out_BTNH = checkpoint_name(out_BTNH, 'context')
  normaliser_Q = checkpoint_name(top_Q + jnp.log(total_Q), 'context')
  return out_BTNH, (q_BTNH, k_BTKH, v_BTKH, places, out_BTNH, normaliser_Q)


def _add_gradients(ring: Ring, block, k_BSKH, v_BSKH, keys, sums):
  """Adds the gradients of a block of queries and of a chunk of keys, values."""
  q_BTKGH, queries, gradient_BTKGH, mean_BTKG1, normaliser_BKGT = block
  scores, slope, mask = _scores(ring, q_BTKGH, k_BSKH, queries, keys)
  weights = jnp.where(mask, jnp.exp(scores - normaliser_BKGT[..., None]), 0)
  dw_BKGTS = product('BTKGH,BSKH->BKGTS', gradient_BTKGH, v_BSKH)
  ds_BKGTS = weights * (dw_BKGTS - jnp.moveaxis(mean_BTKG1, 1, 3)) * slope
  ds_BKGTS = (ds_BKGTS * q_BTKGH.shape[-1] ** -0.5).astype(q_BTKGH.dtype)
  weights = weights.astype(q_BTKGH.dtype)
  return (
    sums[0] + product('BKGTS,BSKH->BTKGH', ds_BKGTS, k_BSKH),
    sums[1] + product('BKGTS,BTKGH->BSKH', ds_BKGTS, q_BTKGH),
    sums[2] + product('BKGTS,BTKGH->BSKH', weights, gradient_BTKGH),
  )


def _backward(ring: Ring, residuals, gradient_BTNH):
  q_BTNH, k_BTKH, v_BTKH, places, out_BTNH, normaliser_Q = residuals
  size, chunks_Q, q_Q, places_Q = _query_blocks(ring, q_BTNH, k_BTKH, places)
  half, K = q_BTNH.shape[1] // 2, k_BTKH.shape[2]
  # sum over keys of weight * d(weight) = <out, d(out)> (FlashAttention).
  mean_BTN = (
    out_BTNH.astype(jnp.float32) * gradient_BTNH.astype(jnp.float32)
  ).sum(-1, keepdims=True)
  gradient_Q, mean_Q = (
    _blocks(_grouped(x, K), size)
    for x in (gradient_BTNH.astype(q_BTNH.dtype), mean_BTN)
  )

  def meet(dq_Q, visitors, owner):
    arrays, gradients = visitors
    key_chunks = _chunks_of(ring, owner)

    def one_block(gradients, xs):
      chunk, dq_BTKGH, *block = xs
      after = []
      for i, (k, v, keys) in enumerate(_halves(arrays)):
        dq_BTKGH, *sums = jax.lax.cond(
          ring.reach(chunk, key_chunks[i], half),
          functools.partial(_add_gradients, ring, block, k, v, keys),
          lambda sums: sums,
          (dq_BTKGH, *gradients[i]),
        )
        after.append(tuple(sums))
      return tuple(after), dq_BTKGH

    xs = (chunks_Q, dq_Q, q_Q, places_Q, gradient_Q, mean_Q, normaliser_Q)
    gradients, dq_Q = jax.lax.scan(one_block, gradients, xs)
    return dq_Q, (arrays, gradients)

  def step(carry, _):
    dq_Q, visitors, owner = carry
    visitors, owner = ring.shift(visitors), (owner - 1) % ring.size
    return (*meet(dq_Q, visitors, owner), owner), None

  zeros = tuple(
    jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), part)
    for part in _halves((k_BTKH, v_BTKH))
  )
  owner = jax.lax.axis_index(ring.axes)
  visitors = ((k_BTKH, v_BTKH, places), zeros)
  carry = (*meet(jnp.zeros(q_Q.shape, jnp.float32), visitors, owner), owner)
  (dq_Q, (_, gradients), _), _ = jax.lax.scan(step, carry, length=ring.size - 1)
  # One step further, and they are where they belong.
  (dk_0, dv_0), (dk_1, dv_1) = ring.shift(gradients)
  dq_BTNH = _rows(dq_Q).reshape(q_BTNH.shape).astype(q_BTNH.dtype)
  dk_BTKH = jnp.concatenate([dk_0, dk_1], axis=1).astype(k_BTKH.dtype)
  dv_BTKH = jnp.concatenate([dv_0, dv_1], axis=1).astype(v_BTKH.dtype)
  return dq_BTNH, dk_BTKH, dv_BTKH, None


_attend.defvjp(_forward, _backward)
