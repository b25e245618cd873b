"""Mixture of experts: each token goes to a few of many feed-forward layers.

No token is dropped: the rows of all experts lie one behind the other, and each
expert multiplies as many as chose it. Over the mesh axes of 'experts' a device
holds some of the experts; tokens come to it by one gather, and what its experts
made of them returns by one reduction.

Suffixes: B batch, T position, D model width, E experts, C experts chosen by a
token, F hidden width, N tokens, M rows of tokens and chosen experts, L layers.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model.axes import AxisRules, partition_spec
from model.config import ModelConfig
from model.einsum import einsum
from model.grouped import (
  Gathers,
  Groups,
  from_groups,
  grouped_product,
  to_groups,
)
from model.layers import keep_inputs_only
from model.mlp import GATED, Mlp
from model.params import Params, declare


class Routing(NamedTuple):
  """What a router did with the tokens that are not padding, in float32.

  Attributes:
    load: how many tokens chose each expert, [E] or [L, E].
    balance: load-balancing loss (Fedus et al. 2022, equation 4): 1 where all
      experts have the same load.
    squared_normaliser: mean squared log-normaliser of the router's logits (Zoph
      et al. 2022, equation 5).
    tokens: how many these are.
  """

  load: jax.Array
  balance: jax.Array
  squared_normaliser: jax.Array
  tokens: jax.Array


def join(routing: Routing) -> Routing:
  """That of all microbatches, from each stage's layers: [M, S, L / S, ...].

  The losses are means over microbatches, each of the weight of its tokens.
  """
  tokens = routing.tokens
  share = tokens / jnp.maximum(tokens.sum(0), 1)
  routing = Routing(
    load=routing.load.sum(0),
    balance=(routing.balance * share).sum(0),
    squared_normaliser=(routing.squared_normaliser * share).sum(0),
    tokens=tokens.sum(0),
  )
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), routing)


class Moe(nnx.Module):
  """Router, experts and shared experts of a stack of layers."""

  def __init__(self, key: jax.Array, config: ModelConfig, layers: int):
    moe, std = config.moe, config.init_std
    keys = jax.random.split(key, 5)
    D, E, F = config.embed_dim, moe.num_experts, moe.expert_dim
    matrix = functools.partial(declare, kind='matrix', layers=layers)
    self.router = matrix(keys[0], (D, E), ('embed', None), std=std)
    if moe.balance_rate:
      self.selection_bias = declare(
        keys[0], (E,), (None,), kind='bias', layers=layers
      )
    self.up = matrix(keys[1], (E, D, F), ('experts', 'embed', 'mlp'), std=std)
    self.gate = matrix(keys[2], (E, D, F), ('experts', 'embed', 'mlp'), std=std)
    self.down = matrix(
      keys[3],
      (E, F, D),
      ('experts', 'mlp', 'embed'),
      std=std / (2 * config.num_layers) ** 0.5,
    )
    if moe.num_shared_experts:
      shared = dataclasses.replace(config, mlp_dim=F * moe.num_shared_experts)
      self.shared = Mlp(keys[4], shared, layers)
    self.config = config

  def __call__(
    self, x_BTD: jax.Array, valid_BT: jax.Array
  ) -> tuple[jax.Array, Routing]:
    """Applies one layer.

    Args:
      x_BTD: hidden states.
      valid_BT: which tokens count in the routing's figures: not padding.
    """
    weights_BTC, experts_BTC, routing = self._route(x_BTD, valid_BT)
    y_BTD = _spread(
      self.config,
      x_BTD,
      weights_BTC,
      experts_BTC,
      (self.gate[...], self.up[...], self.down[...]),
    )
    if hasattr(self, 'shared'):
      y_BTD += self.shared(x_BTD, None)
    return checkpoint_name(y_BTD, 'mlp_out'), routing

  def _route(self, x_BTD, valid_BT):
    """The weight and number of each chosen expert, in float32."""
    moe = self.config.moe
    logits_BTE = einsum(
      'BTD,DE->BTE', x_BTD, self.router[...], 'float32', 'float32'
    )
    if moe.score == 'softmax':
      scores_BTE = shares_BTE = jax.nn.softmax(logits_BTE)
    else:
      scores_BTE = jax.nn.sigmoid(logits_BTE)
      shares_BTE = scores_BTE / scores_BTE.sum(-1, keepdims=True)
    ranked_BTE = jax.lax.stop_gradient(scores_BTE)
    if moe.balance_rate:
      ranked_BTE += jax.lax.stop_gradient(self.selection_bias[...])
    _, experts_BTC = jax.lax.top_k(ranked_BTE, moe.experts_per_token)
    chosen_BTCE = experts_BTC[..., None] == jnp.arange(moe.num_experts)
    # A sum, not a gather, whose gradient would be a scatter.
    weights_BTC = jnp.where(chosen_BTCE, scores_BTE[:, :, None], 0).sum(-1)
    if moe.normalize_weights:
      weights_BTC /= weights_BTC.sum(-1, keepdims=True)
    valid_BT1 = valid_BT[..., None].astype(jnp.float32)
    tokens = jnp.maximum(valid_BT1.sum(), 1)
    load_E = (chosen_BTCE.sum(2) * valid_BT1).sum((0, 1))
    share_E = (shares_BTE * valid_BT1).sum((0, 1)) / tokens
    fraction_E = load_E / (moe.experts_per_token * tokens)
    normaliser_BT = jax.nn.logsumexp(logits_BTE, -1)
    routing = Routing(
      load=load_E,
      balance=moe.num_experts * (fraction_E * share_E).sum(),
      squared_normaliser=(normaliser_BT**2 * valid_BT).sum() / tokens,
      tokens=valid_BT1.sum(),
    )
    return weights_BTC * moe.weight_scale, experts_BTC, routing


def _spread(config, x_BTD, weights_BTC, experts_BTC, matrices):
  """Runs the experts on every device's own tokens, or on all at once."""
  mesh = jax.sharding.get_abstract_mesh()
  run = functools.partial(_run_experts, config)
  if mesh.empty:
    return run(_Layout(), x_BTD, weights_BTC, experts_BTC, matrices)
  rules = config.axis_rules
  tokens = partition_spec(('batch', 'residual_length', None), rules)
  wide = partition_spec(('experts', 'embed', 'mlp'), rules)
  tall = partition_spec(('experts', 'mlp', 'embed'), rules)
  return jax.shard_map(
    functools.partial(run, _layout(rules)),
    mesh=mesh,
    in_specs=(tokens, tokens, tokens, (wide, wide, tall)),
    out_specs=tokens,
    check_vma=False,
  )(x_BTD, weights_BTC, experts_BTC, matrices)


class _Layout(NamedTuple):
  """How tokens and experts lie on the mesh axes.

  Attributes:
    experts: axes that split the experts.
    gathered: axes over which tokens come together: their devices hold
      different parts of the experts, and different tokens.
    summed: axes whose devices hold different parts of the experts and the same
      tokens.
    wide, tall: where the rest of the matrices into and out of the hidden width
      lies.
  """

  experts: tuple[str, ...] = ()
  gathered: tuple[str, ...] = ()
  summed: tuple[str, ...] = ()
  wide: Gathers = ()
  tall: Gathers = ()


def _layout(rules: AxisRules) -> _Layout:
  # Refuses rules that split rows and hidden width over the same axis.
  partition_spec(('batch', 'length', 'mlp'), rules)
  table = dict(rules)
  tokens = table['batch'] + table['residual_length']
  parts = table['experts'] + table['mlp']
  embed = table['embed']
  return _Layout(
    experts=table['experts'],
    gathered=tuple(axis for axis in parts if axis in tokens),
    summed=tuple(axis for axis in parts if axis not in tokens),
    wide=((1, embed),) if embed else (),
    tall=((2, embed),) if embed else (),
  )


def _run_experts(config, layout, x_BTD, weights_BTC, experts_BTC, matrices):
  """Weighted sum of what the chosen experts make of each token."""
  moe, dtype = config.moe, config.compute_dtype
  shape, C = x_BTD.shape, moe.experts_per_token
  x_ND = x_BTD.reshape(-1, shape[-1])
  weights_NC = weights_BTC.reshape(-1, C)
  experts_NC = experts_BTC.reshape(-1, C)
  if layout.gathered:
    x_ND, weights_NC, experts_NC = (
      jax.lax.all_gather(array, layout.gathered, tiled=True)
      for array in (x_ND, weights_NC, experts_NC)
    )
  gate_EDF, up_EDF, down_EFD = matrices
  held = up_EDF.shape[0]
  whole = held == moe.num_experts
  wide = Groups(
    dtype, config.gradient_dtype, layout.wide, moe.kernel, all_rows=whole
  )
  tall = wide._replace(gathers=layout.tall)
  # Rows in order of this device's experts; those of others come last.
  group_M = experts_NC.T.reshape(-1)
  if not whole:
    group_M -= jax.lax.axis_index(layout.experts) * held
    group_M = jnp.where((group_M >= 0) & (group_M < held), group_M, held)
  order_M = jnp.argsort(group_M)
  inverse_M = jnp.argsort(order_M)
  inverse_CN = inverse_M.reshape(C, -1)
  sizes_E = (group_M[:, None] == jnp.arange(held)).sum(0, dtype=jnp.int32)
  x_MD = to_groups(x_ND, order_M, inverse_CN)
  gate_MF = grouped_product(x_MD, gate_EDF, sizes_E, wide)
  up_MF = grouped_product(x_MD, up_EDF, sizes_E, wide)
  # The weight of a choice multiplies what enters the last product, not what it
  # gives, which the backward pass would need: a product and two arrays more.
  weight_M = to_groups(weights_NC.T.reshape(-1), order_M, inverse_M[None])
  h_MF = keep_inputs_only(GATED[config.mlp], config)(
    checkpoint_name(gate_MF, 'mlp_gate'),
    checkpoint_name(up_MF, 'mlp_up'),
    weight_M[:, None],
  )
  y_MD = grouped_product(h_MF, down_EFD, sizes_E, tall)
  y_ND = from_groups(y_MD, order_M, inverse_CN)
  if layout.gathered:
    y_ND = jax.lax.psum_scatter(y_ND, layout.gathered, tiled=True)
  if layout.summed:
    y_ND = jax.lax.psum(y_ND, layout.summed)
  return y_ND.reshape(shape)


def rebalance(params: Params, load_LE: jax.Array, rate: float) -> Params:
  """Moves the selection biases towards equal load (Wang et al. 2024).

  An expert with less than the mean load gains `rate`, one with more loses it.
  The bias decides which experts a token goes to, and not their weights.

  Args:
    params: the model's parameters.
    load_LE: how many tokens chose each expert in the step.
    rate: model.moe.balance_rate.
  """
  mean_L1 = load_LE.mean(-1, keepdims=True)
  blocks = params['blocks']
  bias_LE = blocks['moe']['selection_bias'] + rate * jnp.sign(mean_L1 - load_LE)
  moe = blocks['moe'] | {'selection_bias': bias_LE}
  return params | {'blocks': blocks | {'moe': moe}}
