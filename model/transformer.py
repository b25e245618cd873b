"""A decoder-only transformer.

Suffixes: B batch, T query position, S key position, D model width, V
vocabulary, K key/value heads, H head size, L layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import attention_xla
from model import layers as nn
from model.attention import Attention, KeyValues
from model.attention_kernels import Attend, make_attend
from model.axes import AxisRules, constrain, constrain_gradient
from model.cache import Cache
from model.config import REMAT_KEEPS, ModelConfig
from model.einsum import einsum
from model.mask import Places
from model.mlp import Mlp
from model.moe import Moe, Routing, join
from model.params import (
  HOST_MEMORY,
  Params,
  declare,
  merge,
  metadata_of,
  on_device,
  split,
)
from model.pipeline import num_stages, outside, pipeline


class Block(nnx.Module):
  """Pre-norm attention and feed-forward; holds all layers, computes one."""

  def __init__(self, key: jax.Array, config: ModelConfig):
    keys = jax.random.split(key, 4)
    layers = config.num_layers
    self.attention_norm = nn.Norm(keys[0], config.embed_dim, config, layers)
    self.attention = Attention(keys[1], config, layers)
    self.mlp_norm = nn.Norm(keys[2], config.embed_dim, config, layers)
    if config.moe.num_experts:
      self.moe = Moe(keys[3], config, layers)
    else:
      self.mlp = Mlp(keys[3], config, layers)
    self.config = config

  def __call__(
    self,
    x_BTD: jax.Array,
    attend: Attend,
    angles: tuple[jax.Array, jax.Array] | None,
    valid_BT: jax.Array,
    dropout_keys: nn.RowKeys | None,
    cache: KeyValues | None,
    slot: jax.Array | None,
  ) -> tuple[jax.Array, KeyValues, Routing | None]:
    """Applies one layer; arguments as in Attention and Moe."""
    config, order = self.config, self.config.row_order
    # A sum of L branches, each of whose weights learn as fast as in a model of
    # another depth, then moves as fast (Dey et al. 2025).
    share = 1 / config.depth_multiplier
    keys: list[nn.RowKeys | None] = [None] * 4
    if dropout_keys is not None:
      keys = [dropout_keys.fold_in(site) for site in range(4)]
    h_BTD, cache = self.attention(
      self.attention_norm(x_BTD), attend, angles, keys[0], cache, slot
    )
    h_BTD = nn.dropout(h_BTD, 'residual', keys[1], order)
    x_BTD = x_BTD + nn.scale(h_BTD, share)
    h_BTD, routing = self.mlp_norm(x_BTD), None
    if config.moe.num_experts:
      h_BTD, routing = self.moe(h_BTD, valid_BT)
    else:
      h_BTD = self.mlp(h_BTD, keys[2])
    h_BTD = nn.dropout(h_BTD, 'residual', keys[3], order)
    x_BTD = x_BTD + nn.scale(h_BTD, share)
    return _place(x_BTD, config.axis_rules), cache, routing


class Output(NamedTuple):
  """What the model makes of tokens.

  Attributes:
    x_BTD: the normalised hidden states that the head turns into logits,
      divided by the width multiplier.
    cache: the extended cache; None without one.
    routing: of all layers, with a leading axis L; None without experts.
  """

  x_BTD: jax.Array
  cache: Cache | None
  routing: Routing | None


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
    dropout_keys: nn.RowKeys | None = None,
    cache: Cache | None = None,
  ) -> Output:
    """Computes the final hidden states.

    The chunks of the rows come in the order of the configuration's `row_order`.

    Args:
      tokens_BT: token ids.
      segments_BT: tokens attend within equal segment numbers only.
      positions_BT: position of each token in its segment.
      visible_BT: tokens that their whole segment sees (a prefix), bool; None:
        none, every token is seen by later ones only.
      dropout_keys: of the rows; they turn dropout on.
      cache: the tokens follow those in the cache, which is extended by them.
    """
    config = self.config
    x_BTD = self.embedding[...][tokens_BT]
    if config.positions == 'learned':
      x_BTD += self.positions[...][positions_BT]
    x_BTD = x_BTD.astype(config.compute_dtype)
    if dropout_keys is not None:
      # Layers have the numbers from 0 on.
      keys = dropout_keys.fold_in(config.num_layers)
      x_BTD = nn.dropout(x_BTD, 'embedding', keys, config.row_order)
    x_BTD = _place(x_BTD, config.axis_rules)
    places = Places(segments_BT, positions_BT, visible_BT)
    if cache is None:
      x_BTD, routing = self._forward(x_BTD, places, dropout_keys)
    else:
      assert visible_BT is None, 'decoding sees no later tokens'
      x_BTD, cache, routing = self._decode(x_BTD, places, cache)
    # The head's weights learn as fast at any width, and add up more of them.
    x_BTD = nn.scale(self.final_norm(x_BTD), 1 / config.width_multiplier)
    return Output(x_BTD, cache, routing)

  def _forward(self, x_BTD, places, dropout_keys):
    """All layers on whole rows, at once or in the stages of a pipeline."""
    config = self.config
    graphdef, stack = split(self.blocks)
    stages, microbatches = num_stages(config.axis_rules), config.microbatches
    run = functools.partial(self._layers, graphdef)

    def stage(stack, number, rows):
      x_BTD, places, numbers_B = rows
      keys = None
      if numbers_B is not None:
        keys = dataclasses.replace(dropout_keys, rows_B=numbers_B)
      attend = make_attend(config, places)
      first = number * (config.num_layers // stages)
      x_BTD, _, routing = run(stack, first, x_BTD, places, attend, keys)
      return (x_BTD, places, numbers_B), routing

    numbers_B = None if dropout_keys is None else dropout_keys.rows_B
    rows = (x_BTD, places, numbers_B)
    if stages == 1 and microbatches in (None, 1):
      (x_BTD, *_), routing = stage(stack, 0, rows)
      return x_BTD, routing
    assert microbatches is not None, 'train.setup decides how many'
    (x_BTD, *_), routing = pipeline(
      stage, on_device(stack), rows, microbatches, config.axis_rules
    )
    x_BTD = _place(x_BTD, outside(config.axis_rules))
    return x_BTD, None if routing is None else join(routing)

  def _decode(self, x_BTD, places, cache):
    """All layers on tokens that follow those in the cache."""
    config = self.config
    cache = dataclasses.replace(
      cache,
      segments_BS=_write(cache.segments_BS, places.segments_BT, cache.length),
      positions_BS=_write(
        cache.positions_BS, places.positions_BT, cache.length
      ),
    )
    slots = Places(cache.segments_BS, cache.positions_BS)
    # One query or a short prompt: there is nothing to fuse.
    attend = attention_xla.make_attend(config, places, slots)
    x_BTD, (k_LBSKH, v_LBSKH), routing = self._layers(
      *split(self.blocks), 0, x_BTD, places, attend, None, cache
    )
    cache = dataclasses.replace(
      cache,
      k_LBSKH=k_LBSKH,
      v_LBSKH=v_LBSKH,
      length=cache.length + x_BTD.shape[1],
    )
    return x_BTD, cache, routing

  def _layers(
    self,
    graphdef,
    stack,
    first,
    x_BTD,
    places,
    attend,
    dropout_keys,
    cache=None,
  ):
    """Runs layers as a loop over the leading axis of their parameters.

    Args:
      graphdef: static structure of a layer.
      stack: parameters of consecutive layers.
      first: number of the first of them in the model.
      x_BTD: hidden states.
      places: of the tokens.
      attend: the kernel of attention, with the mask.
      dropout_keys: of the rows, or None.
      cache: what came before the tokens, or None.

    Returns:
      Hidden states, keys and values of the cache and routing of each layer.
    """
    config = self.config
    angles, slot = None, None if cache is None else cache.length
    if config.positions == 'rope':
      angles = nn.rotary_angles(
        places.positions_BT, config.head_dim, config.rope_theta
      )
    # Padding is segment 0.
    valid_BT = places.segments_BT > 0
    axes = metadata_of(self.blocks, 'axes')

    def layer(x_BTD, xs):
      params, index, key_values = xs
      params = _at_hand(params, axes, config.axis_rules)
      x_BTD = checkpoint_name(x_BTD, 'layer_input')
      keys = None if dropout_keys is None else dropout_keys.fold_in(index)
      x_BTD, key_values, routing = merge(graphdef, params)(
        x_BTD, attend, angles, valid_BT, keys, key_values, slot
      )
      return x_BTD, (None if cache is None else key_values, routing)

    if config.remat != 'none':
      layer = jax.checkpoint(
        layer, policy=_policy(config), prevent_cse=not config.scan_layers
      )
    layers = len(jax.tree.leaves(stack)[0])
    key_values = None if cache is None else (cache.k_LBSKH, cache.v_LBSKH)
    x_BTD, (key_values, routing) = jax.lax.scan(
      layer,
      x_BTD,
      (stack, first + jnp.arange(layers), key_values),
      unroll=1 if config.scan_layers else layers,
    )
    return x_BTD, key_values, routing

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


def _at_hand(params: Params, axes: Params, rules: AxisRules) -> Params:
  """One layer's parameters on the devices.

  Their gradients are summed and split as they are as soon as they are made: the
  optimizer, which may split them further, does so after that.

  Args:
    params: of the layer.
    axes: of the stack, with 'layers' in front.
    rules: logical axis to mesh axes.
  """
  return jax.tree.map(
    lambda leaf, names: constrain_gradient(leaf, names[1:], rules),
    on_device(params),
    axes,
  )


def _policy(config: ModelConfig) -> Callable[..., Any]:
  """What is kept of a layer for the backward pass, and where."""
  keeps, offloaded = REMAT_KEEPS[config.remat], config.offload_activations
  if not offloaded:
    return jax.checkpoint_policies.save_only_these_names(*keeps)
  return jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[name for name in keeps if name not in offloaded],
    names_which_can_be_offloaded=list(offloaded),
    offload_src='device',
    offload_dst=HOST_MEMORY,
  )


def _write(slots_BS: jax.Array, values_BT: jax.Array, slot) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(
    slots_BS, values_BT.astype(slots_BS.dtype), slot, 1
  )
