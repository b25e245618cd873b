"""Who sees whom: what describes a mask, and the mask itself.

Suffixes: B batch, T query position, S key position.
"""

import jax
import jax.numpy as jnp
from flax import struct

# Far below any score, and finite, so that a row of nothing but masked scores
# has a defined softmax.
MASKED = -1e30


@struct.dataclass
class Places:
  """Where tokens stand, which decides who sees whom; arrays are [B, T].

  Attributes:
    segments_BT: tokens see within equal segment numbers only.
    positions_BT: position of each token in its segment.
    visible_BT: tokens that their whole segment sees, bool; None: none.
  """

  segments_BT: jax.Array
  positions_BT: jax.Array
  visible_BT: jax.Array | None = None


def causal_mask(queries: Places, keys: Places, window: int | None) -> jax.Array:
  """Which keys each query sees: mask_BTS, true where it does.

  A query sees the keys of its own segment at its own position or before, and
  no further back than the window. A visible key is seen from before it as
  well, as the prefix of a prefix language model is (Raffel et al. 2020, arXiv
  1910.10683, figure 4), from no further than the window reaches back.

  Args:
    queries: places of the queries, T a row; their visibility is not used.
    keys: places of the keys, S a row.
    window: positions seen, the query's own included; None: all.
  """
  query_segments, query_positions = (
    x[:, :, None] for x in (queries.segments_BT, queries.positions_BT)
  )
  key_segments, key_positions = (
    x[:, None, :] for x in (keys.segments_BT, keys.positions_BT)
  )
  before_BTS = query_positions >= key_positions
  if keys.visible_BT is not None:
    before_BTS |= keys.visible_BT[:, None, :]
  mask_BTS = (query_segments == key_segments) & before_BTS
  if window is not None:
    mask_BTS &= query_positions - key_positions < window
    if keys.visible_BT is not None:
      mask_BTS &= key_positions - query_positions < window
  return mask_BTS


def attention_bias(mask_BTS: jax.Array) -> jax.Array:
  """What is added to scores: 0 where a query sees the key."""
  return jnp.where(mask_BTS, 0.0, MASKED).astype(jnp.float32)
