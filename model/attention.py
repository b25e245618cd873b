"""Causal self-attention with grouped queries.

Suffixes: B batch, T query position, S key position, D model width, N query
heads, K key/value heads, G query heads per key/value head, H head size.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import layers as nn
from model.axes import constrain
from model.config import ModelConfig
from model.einsum import einsum

# Far below any score, and finite, so that a row of nothing but masked scores
# has a defined softmax.
_MASKED = -1e30

KeyValues = tuple[jax.Array, jax.Array]  # k_BSKH and v_BSKH


def attention_bias(mask_BTS: jax.Array) -> jax.Array:
  """What is added to scores: 0 where a query sees the key."""
  return jnp.where(mask_BTS, 0.0, _MASKED).astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def softmax(scores: jax.Array, dtype: str) -> jax.Array:
  """Softmax over the last axis in float32, rounded to dtype.

  The backward pass needs the rounded result only: no float32 array of the
  size of the scores is kept.
  """
  return jax.nn.softmax(scores, axis=-1).astype(dtype)


def _softmax_forward(scores, dtype):
  weights = softmax(scores, dtype)
  return weights, weights


def _softmax_backward(dtype, weights, gradient):
  del dtype
  weights, gradient = (a.astype(jnp.float32) for a in (weights, gradient))
  mean = (weights * gradient).sum(-1, keepdims=True)
  return (weights * (gradient - mean),)


softmax.defvjp(_softmax_forward, _softmax_backward)


def causal_mask(
  query: tuple[jax.Array, jax.Array],
  key: tuple[jax.Array, jax.Array],
  window: int | None,
  visible_BS: jax.Array | None = None,
) -> jax.Array:
  """Which keys each query sees: mask_BTS, true where it does.

  A query sees the keys of its own segment at its own position or before, and
  no further back than the window. A visible key is seen from before it as
  well, as the prefix of a prefix language model is (Raffel et al. 2020, arXiv
  1910.10683, figure 4), from no further than the window reaches back.

  Args:
    query: segments_BT and positions_BT of the queries.
    key: segments_BS and positions_BS of the keys.
    window: positions seen, the query's own included; None: all.
    visible_BS: the visible keys, bool; None: none.
  """
  query_segments, query_positions = (a[:, :, None] for a in query)
  key_segments, key_positions = (a[:, None, :] for a in key)
  before_BTS = query_positions >= key_positions
  if visible_BS is not None:
    before_BTS |= visible_BS[:, None, :]
  mask_BTS = (query_segments == key_segments) & before_BTS
  if window is not None:
    mask_BTS &= query_positions - key_positions < window
    if visible_BS is not None:
      mask_BTS &= key_positions - query_positions < window
  return mask_BTS


def attend(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  bias_BTS: jax.Array,
  *,
  softcap: float | None,
  dropout_rate: float,
  dropout_key: jax.Array | None,
  compute_dtype: str,
) -> jax.Array:
  """Scaled dot-product attention (Vaswani et al. 2017), softmax in float32.

  Query heads share key/value heads in groups of N / K (Ainslie et al. 2023).

  Returns:
    out_BTNH, in compute_dtype.
  """
  B, T, N, H = q_BTNH.shape
  K = k_BSKH.shape[2]
  q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
  scores_BKGTS = einsum(
    'BTKGH,BSKH->BKGTS', q_BTKGH, k_BSKH, compute_dtype, 'float32'
  )
  scores_BKGTS = nn.softcap(scores_BKGTS * H**-0.5, softcap)
  weights_BKGTS = softmax(scores_BKGTS + bias_BTS[:, None, None], compute_dtype)
  weights_BKGTS = nn.dropout(weights_BKGTS, dropout_rate, dropout_key)
  out_BTKGH = einsum(
    'BKGTS,BSKH->BTKGH', weights_BKGTS, v_BSKH, compute_dtype, compute_dtype
  )
  return out_BTKGH.reshape(B, T, N, H)


class Attention(nnx.Module):
  """Projections, rotary embedding and attention of a stack of layers."""

  def __init__(self, key: jax.Array, config: ModelConfig, layers: int):
    keys = iter(jax.random.split(key, 6))
    D, H = config.embed_dim, config.head_dim
    N, K = config.num_heads, config.num_kv_heads

    def project(equation, sizes, axes, std):
      return nn.Linear(
        next(keys), equation, sizes=sizes, axes=axes, config=config, std=std,
        layers=layers,
      )  # fmt: skip

    std = config.init_std
    kv_axes = ('embed', 'kv_heads', 'head_dim')
    self.query = project(
      'BTD,DNH->BTNH', (D, N, H), ('embed', 'heads', 'head_dim'), std
    )
    self.key = project('BTD,DKH->BTKH', (D, K, H), kv_axes, std)
    self.value = project('BTD,DKH->BTKH', (D, K, H), kv_axes, std)
    self.out = project(
      'BTNH,NHD->BTD',
      (N, H, D),
      ('heads', 'head_dim', 'embed'),
      std / (2 * config.num_layers) ** 0.5,
    )
    if config.qk_norm:
      self.query_norm = nn.Norm(next(keys), H, config, layers)
      self.key_norm = nn.Norm(next(keys), H, config, layers)
    self.config = config

  def __call__(
    self,
    x_BTD: jax.Array,
    bias_BTS: jax.Array,
    angles: tuple[jax.Array, jax.Array] | None,
    dropout_key: jax.Array | None,
    cache: KeyValues | None = None,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, KeyValues]:
    """Attends within x, or, with a cache, to the cache extended by x.

    Args:
      x_BTD: layer input.
      bias_BTS: from attention_bias.
      angles: rotary angles of the queries; None without rotary positions.
      dropout_key: key of the attention dropout, or None.
      cache: keys and values of S slots, into which those of x are written.
      slot: the first slot to write.

    Returns:
      The layer's output [B, T, D], and the keys and values it attended to.
    """
    config = self.config
    q_BTNH, k_BSKH, v_BSKH = (
      self.query(x_BTD),
      self.key(x_BTD),
      self.value(x_BTD),
    )
    if config.qk_norm:
      q_BTNH, k_BSKH = self.query_norm(q_BTNH), self.key_norm(k_BSKH)
    if angles is not None:
      q_BTNH, k_BSKH = nn.rotate(q_BTNH, angles), nn.rotate(k_BSKH, angles)
    if cache is not None:
      assert slot is not None
      k_BSKH = jax.lax.dynamic_update_slice_in_dim(cache[0], k_BSKH, slot, 1)
      v_BSKH = jax.lax.dynamic_update_slice_in_dim(cache[1], v_BSKH, slot, 1)

    def place(x, heads):
      return constrain(x, ('batch', 'length', heads, None), config.axis_rules)

    q_BTNH = checkpoint_name(place(q_BTNH, 'heads'), 'query')
    k_BSKH = checkpoint_name(place(k_BSKH, 'kv_heads'), 'key')
    v_BSKH = checkpoint_name(place(v_BSKH, 'kv_heads'), 'value')
    out_BTNH = attend(
      q_BTNH,
      k_BSKH,
      v_BSKH,
      bias_BTS,
      softcap=config.attention_softcap,
      dropout_rate=config.attention_dropout,
      dropout_key=dropout_key,
      compute_dtype=config.compute_dtype,
    )
    out_BTNH = checkpoint_name(place(out_BTNH, 'heads'), 'context')
    out_BTD = checkpoint_name(self.out(out_BTNH), 'attention_out')
    return out_BTD, (k_BSKH, v_BSKH)
