"""Feed-forward layers. Suffixes: B batch, T position, D model, F hidden."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import layers as nn
from model.axes import constrain
from model.config import ModelConfig


def _gelu(x: jax.Array) -> jax.Array:
  return jax.nn.gelu(x.astype(jnp.float32)).astype(x.dtype)


def _gated(activation):
  def apply(gate, up, scale=None):
    x = activation(gate.astype(jnp.float32)) * up.astype(jnp.float32)
    if scale is not None:
      x *= scale
    return x.astype(up.dtype)

  return apply


GATED = {'swiglu': _gated(jax.nn.silu), 'geglu': _gated(jax.nn.gelu)}


class Mlp(nnx.Module):
  """SwiGLU, GeGLU (Shazeer 2020) or GELU feed-forward of a stack of layers."""

  def __init__(self, key: jax.Array, config: ModelConfig, layers: int):
    keys = iter(jax.random.split(key, 3))
    D, F, std = config.embed_dim, config.mlp_dim, config.init_std

    def widen():
      return nn.Linear(
        next(keys), 'BTD,DF->BTF', sizes=(D, F), axes=('embed', 'mlp'),
        config=config, std=std, layers=layers,
      )  # fmt: skip

    self.up = widen()
    if config.gated:
      self.gate = widen()
    self.down = nn.Linear(
      next(keys),
      'BTF,FD->BTD',
      sizes=(F, D),
      axes=('mlp', 'embed'),
      config=config,
      std=std / (2 * config.num_layers) ** 0.5,
      layers=layers,
    )
    self.config = config

  def __call__(
    self, x_BTD: jax.Array, dropout_keys: nn.RowKeys | None
  ) -> jax.Array:
    """Applies one layer."""
    config = self.config
    up_BTF = checkpoint_name(self.up(x_BTD), 'mlp_up')
    if config.gated:
      gate_BTF = checkpoint_name(self.gate(x_BTD), 'mlp_gate')
      h_BTF = nn.keep_inputs_only(GATED[config.mlp], config)(gate_BTF, up_BTF)
    else:
      h_BTF = nn.keep_inputs_only(_gelu, config)(up_BTF)
    h_BTF = constrain(h_BTF, ('batch', 'length', 'mlp'), config.axis_rules)
    h_BTF = nn.dropout(h_BTF, 'mlp', dropout_keys, config.row_order)
    return checkpoint_name(self.down(h_BTF), 'mlp_out')
