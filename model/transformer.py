"""A decoder-only transformer.

Suffixes: B batch, T query position, S key position, D model width, V
vocabulary, K key/value heads, H head size, L layers.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from model import layers as nn
from model.attention import (
  Attention,
  KeyValues,
  attention_bias,
  causal_mask,
)
from model.axes import AxisRules, constrain
from model.cache import Cache
from model.config import ModelConfig
from model.einsum import einsum
from model.mlp import Mlp
from model.params import declare, merge, split

# What a rematerialisation policy keeps for the backward pass, by the names
# that the layers give with checkpoint_name.
_ATTENTION = ('query', 'key', 'value', 'context')
_PROJECTIONS = (*_ATTENTION, 'attention_out', 'mlp_up', 'mlp_gate', 'mlp_out')
_REMAT_KEEPS = {
  'full': (),
  'attention': _ATTENTION,
  'projections': _PROJECTIONS,
}


class Block(nnx.Module):
  """Pre-norm attention and feed-forward; holds all layers, computes one."""

  def __init__(self, key: jax.Array, config: ModelConfig):
    keys = jax.random.split(key, 4)
    layers = config.num_layers
    self.attention_norm = nn.Norm(keys[0], config.embed_dim, config, layers)
    self.attention = Attention(keys[1], config, layers)
    self.mlp_norm = nn.Norm(keys[2], config.embed_dim, config, layers)
    self.mlp = Mlp(keys[3], config, layers)
    self.config = config

  def __call__(
    self,
    x_BTD: jax.Array,
    bias_BTS: jax.Array,
    angles: tuple[jax.Array, jax.Array] | None,
    dropout_key: jax.Array | None,
    cache: KeyValues | None,
    slot: jax.Array | None,
  ) -> tuple[jax.Array, KeyValues]:
    """Applies one layer; arguments as in Attention."""
    rate, rules = self.config.residual_dropout, self.config.axis_rules
    keys = (
      [None] * 4 if dropout_key is None else jax.random.split(dropout_key, 4)
    )
    h_BTD, cache = self.attention(
      self.attention_norm(x_BTD), bias_BTS, angles, keys[0], cache, slot
    )
    x_BTD = x_BTD + nn.dropout(h_BTD, rate, keys[1])
    h_BTD = self.mlp(self.mlp_norm(x_BTD), keys[2])
    x_BTD = x_BTD + nn.dropout(h_BTD, rate, keys[3])
    return _place(x_BTD, rules), cache


class Transformer(nnx.Module):
  """Token embedding, a stack of blocks, final norm and output head."""

  def __init__(self, key: jax.Array, config: ModelConfig):
    keys = jax.random.split(key, 5)
    V, D, std = config.vocab_size, config.embed_dim, config.init_std
    self.embedding = declare(
      keys[0], (V, D), ('vocab', 'embed'), kind='embedding', std=std
    )
    if config.positions == 'learned':
      self.positions = declare(
        keys[1],
        (config.max_length, D),
        (None, 'embed'),
        kind='embedding',
        std=std,
      )
    self.blocks = Block(keys[2], config)
    self.final_norm = nn.Norm(keys[3], D, config, None)
    if not config.tie_embeddings:
      self.head = declare(
        keys[4], (V, D), ('vocab', 'embed'), kind='head', std=std
      )
    self.config = config

  def __call__(
    self,
    tokens_BT: jax.Array,
    segments_BT: jax.Array,
    positions_BT: jax.Array,
    *,
    visible_BT: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
    cache: Cache | None = None,
  ) -> tuple[jax.Array, Cache | None]:
    """Computes the final hidden states.

    Args:
      tokens_BT: token ids.
      segments_BT: tokens attend within equal segment numbers only.
      positions_BT: position of each token in its segment.
      visible_BT: tokens that their whole segment sees (a prefix), bool; None:
        none, every token is seen by later ones only.
      dropout_key: turns dropout on.
      cache: the tokens follow those in the cache, which is extended by them.

    Returns:
      x_BTD, the normalised hidden states that the head turns into logits, and
      the extended cache (None without one).
    """
    config = self.config
    x_BTD = self.embedding[...][tokens_BT]
    angles = None
    if config.positions == 'learned':
      x_BTD += self.positions[...][positions_BT]
    else:
      angles = nn.rotary_angles(
        positions_BT, config.head_dim, config.rope_theta
      )
    x_BTD = x_BTD.astype(config.compute_dtype)
    if dropout_key is not None:
      dropout_key, key = jax.random.split(dropout_key)
      x_BTD = nn.dropout(x_BTD, config.embedding_dropout, key)
    x_BTD = _place(x_BTD, config.axis_rules)

    queries = keys = (segments_BT, positions_BT)
    if cache is not None:
      assert visible_BT is None, 'decoding sees no later tokens'
      cache = dataclasses.replace(
        cache,
        segments_BS=_write(cache.segments_BS, segments_BT, cache.length),
        positions_BS=_write(cache.positions_BS, positions_BT, cache.length),
      )
      keys = (cache.segments_BS, cache.positions_BS)
    mask_BTS = causal_mask(queries, keys, config.sliding_window, visible_BT)
    bias_BTS = attention_bias(mask_BTS)
    x_BTD, cache = self._layers(x_BTD, bias_BTS, angles, dropout_key, cache)
    return self.final_norm(x_BTD), cache

  def _layers(self, x_BTD, bias_BTS, angles, dropout_key, cache):
    """Runs the stack as a loop over the leading axis of its parameters."""
    config = self.config
    graphdef, stack = split(self.blocks)
    slot = None if cache is None else cache.length

    def layer(x_BTD, xs):
      params, index, key_values = xs
      key = dropout_key
      if key is not None:
        key = jax.random.fold_in(key, index)
      x_BTD, key_values = merge(graphdef, params)(
        x_BTD, bias_BTS, angles, key, key_values, slot
      )
      return x_BTD, None if cache is None else key_values

    if config.remat != 'none':
      policy = jax.checkpoint_policies.save_only_these_names(
        *_REMAT_KEEPS[config.remat]
      )
      layer = jax.checkpoint(
        layer, policy=policy, prevent_cse=not config.scan_layers
      )
    key_values = None if cache is None else (cache.k_LBSKH, cache.v_LBSKH)
    x_BTD, new_key_values = jax.lax.scan(
      layer,
      x_BTD,
      (stack, jnp.arange(config.num_layers), key_values),
      unroll=1 if config.scan_layers else config.num_layers,
    )
    if cache is not None:
      cache = dataclasses.replace(
        cache,
        k_LBSKH=new_key_values[0],
        v_LBSKH=new_key_values[1],
        length=cache.length + x_BTD.shape[1],
      )
    return x_BTD, cache

  def head_VD(self) -> jax.Array:
    """The output matrix; the embedding where they are tied."""
    if self.config.tie_embeddings:
      return self.embedding[...]
    return self.head[...]

  def logits(self, x_BD: jax.Array) -> jax.Array:
    """logits_BV in float32, for decoding; training uses `model.loss`."""
    dtype = self.config.compute_dtype
    logits_BV = einsum('BD,VD->BV', x_BD, self.head_VD(), dtype, 'float32')
    return nn.softcap(logits_BV, self.config.logits_softcap)


def _place(x_BTD: jax.Array, rules: AxisRules) -> jax.Array:
  """Splits the residual stream by positions too (Korthikanti et al. 2022)."""
  return constrain(x_BTD, ('batch', 'residual_length', None), rules)


def _write(slots_BS: jax.Array, values_BT: jax.Array, slot) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(
    slots_BS, values_BT.astype(slots_BS.dtype), slot, 1
  )
