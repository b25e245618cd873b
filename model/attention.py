"""Causal self-attention with grouped queries: what surrounds the kernel.

Suffixes: B batch, T query position, S key position, D model width, N query
heads, K key/value heads, H head size.
"""

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import layers as nn
from model.attention_kernels import Attend
from model.axes import constrain
from model.config import ModelConfig

KeyValues = tuple[jax.Array, jax.Array]  # k_BSKH and v_BSKH


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
    attend: Attend,
    angles: tuple[jax.Array, jax.Array] | None,
    dropout_keys: nn.RowKeys | None,
    cache: KeyValues | None = None,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, KeyValues]:
    """Attends within x, or, with a cache, to the cache extended by x.

    Args:
      x_BTD: layer input.
      attend: the kernel, with the mask.
      angles: rotary angles of the queries; None without rotary positions.
      dropout_keys: of the attention dropout, or None.
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
      rotate = nn.keep_inputs_only(nn.rotate, config)
      q_BTNH, k_BSKH = rotate(q_BTNH, angles), rotate(k_BSKH, angles)
    if cache is not None:
      assert slot is not None
      k_BSKH = jax.lax.dynamic_update_slice_in_dim(cache[0], k_BSKH, slot, 1)
      v_BSKH = jax.lax.dynamic_update_slice_in_dim(cache[1], v_BSKH, slot, 1)

    def place(x, heads):
      return constrain(x, ('batch', 'length', heads, None), config.axis_rules)

    q_BTNH = checkpoint_name(place(q_BTNH, 'heads'), 'query')
    k_BSKH = checkpoint_name(place(k_BSKH, 'kv_heads'), 'key')
    v_BSKH = checkpoint_name(place(v_BSKH, 'kv_heads'), 'value')
    # The kernel names its result 'context'.
    out_BTNH = attend(q_BTNH, k_BSKH, v_BSKH, dropout_keys)
    out_BTNH = place(out_BTNH, 'heads')
    out_BTD = checkpoint_name(self.out(out_BTNH), 'attention_out')
    return out_BTD, (k_BSKH, v_BSKH)
