"""The key/value cache of decoding.

Suffixes: L layers, B batch, S slots, K key/value heads, H head size.
"""

import jax
import jax.numpy as jnp
from flax import struct

from model.config import ModelConfig


@struct.dataclass
class Cache:
  """What attention remembers of the tokens so far; slots fill in order."""

  k_LBSKH: jax.Array
  v_LBSKH: jax.Array
  # Segment 0 marks a slot that no token may see: empty, or padding.
  segments_BS: jax.Array
  positions_BS: jax.Array
  # Number of slots in use.
  length: jax.Array


def empty_cache(config: ModelConfig, batch: int, slots: int) -> Cache:
  """A cache with room for `slots` tokens in each of `batch` rows."""
  shape = (
    config.num_layers,
    batch,
    slots,
    config.num_kv_heads,
    config.head_dim,
  )
  return Cache(
    k_LBSKH=jnp.zeros(shape, config.compute_dtype),
    v_LBSKH=jnp.zeros(shape, config.compute_dtype),
    segments_BS=jnp.zeros((batch, slots), jnp.int32),
    positions_BS=jnp.zeros((batch, slots), jnp.int32),
    length=jnp.zeros((), jnp.int32),
  )
