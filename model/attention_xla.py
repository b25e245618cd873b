"""Attention written out for the compiler: the reference of the kernels.

Its scores exist in memory, [B, N, T, S] in float32: it runs everywhere, and its
memory grows with the square of the row.

Suffixes: B batch, T query position, S key position, N query heads, K key/value
heads, G query heads per key/value head, H head size.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from model import layers as nn
from model.axes import constrain, partition_spec
from model.config import ModelConfig
from model.context import split_axes, whole_rows
from model.einsum import einsum
from model.mask import Places, attention_bias, causal_mask


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


def attend(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  bias_BTS: jax.Array,
  *,
  softcap: float | None,
  dropout_keys: nn.RowKeys | None,
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
  weights_BKGTS = nn.dropout(weights_BKGTS, 'attention', dropout_keys)
  out_BTKGH = einsum(
    'BKGTS,BSKH->BTKGH', weights_BKGTS, v_BSKH, compute_dtype, compute_dtype
  )
  return out_BTKGH.reshape(B, T, N, H)


def make_attend(config: ModelConfig, queries: Places, keys: Places):
  """A function (q_BTNH, k_BSKH, v_BSKH, dropout keys) -> out_BTNH.

  Where the mesh splits rows, the arrays are laid out as the strategy says, and
  the compiler moves them: keys and values are gathered, or (ulysses) all three
  change from a part of the row to a part of the heads.
  """
  rules = config.axis_rules
  bias_BTS = attention_bias(causal_mask(queries, keys, config.sliding_window))
  split_heads = config.context_parallelism == 'ulysses'
  on_mesh = bool(split_axes('length', rules))

  def place(x, spec):
    return jax.lax.with_sharding_constraint(x, spec) if on_mesh else x

  if split_heads:
    query_spec = whole_rows('heads', rules, split_heads=True)
  else:
    query_spec = partition_spec(('batch', 'length', 'heads', None), rules)
  kv_spec = whole_rows('kv_heads', rules, split_heads=split_heads)
  bias_BTS = place(bias_BTS, PartitionSpec(query_spec[0], query_spec[1], None))

  def run(q_BTNH, k_BSKH, v_BSKH, dropout_keys):
    out_BTNH = attend(
      place(q_BTNH, query_spec),
      place(k_BSKH, kv_spec),
      place(v_BSKH, kv_spec),
      bias_BTS,
      softcap=config.attention_softcap,
      dropout_keys=dropout_keys,
      compute_dtype=config.compute_dtype,
    )
    out_BTNH = place(out_BTNH, query_spec)
    out_BTNH = constrain(out_BTNH, ('batch', 'length', 'heads', None), rules)
    return checkpoint_name(out_BTNH, 'context')

  return run
