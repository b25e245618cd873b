"""Queries, keys, values and places for tests of attention kernels."""

import dataclasses
from typing import Any

import cases
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from model.attention_kernels import make_attend, resolve_attention
from model.config import ModelConfig
from model.context import reorder, restore
from model.mask import Places

RULES = (
  ('batch', ('data',)),
  ('length', ('context',)),
  ('heads', ('tensor',)),
  ('kv_heads', ('tensor',)),
)
# What a mask or a score can have, each in one case at least; lengths and
# windows that lie across blocks and chunks.
FEATURES: dict[str, dict[str, Any]] = {
  'documents': {},
  'one_text': {'isolate_documents': False},
  'grouped': {'num_kv_heads': 2},
  'one_kv_head-window': {'num_kv_heads': 1, 'sliding_window': 37},
  'grouped-window-softcap': {
    'num_kv_heads': 2,
    'sliding_window': 150,
    'attention_softcap': 2.0,
  },
}


def model(length: int, **fields: Any) -> ModelConfig:
  """Four heads of 16 over rows of a length, the rest as in cases.py."""
  tiny = cases.tiny_train_config(**{'model.head_dim': 16}).model
  return dataclasses.replace(
    tiny, **{'max_length': length, 'axis_rules': RULES} | fields
  )


def mesh(*, data: int = 1, context: int = 1, tensor: int = 1) -> Mesh:
  """A mesh over the first emulated devices."""
  return jax.make_mesh(
    (data, context, tensor),
    ('data', 'context', 'tensor'),
    (AxisType.Auto,) * 3,
  )


def places(config: ModelConfig, batch: int = 2) -> Places:
  """Documents of all sizes; all rows but the last end in padding."""
  T = config.max_length
  rows = np.random.default_rng(1).integers(0, 12, (batch, T)) == 0
  index_BT = np.broadcast_to(np.arange(T), rows.shape)
  if not config.isolate_documents:
    return Places(jnp.ones((batch, T), jnp.int32), jnp.asarray(index_BT))
  # Long documents at the front, short ones after them.
  opens_BT = rows & (index_BT > T // 2)
  opens_BT[:, [0, T // 4 + 3]] = True
  padding_BT = index_BT >= T - 9 * (batch - 1 - np.arange(batch))[:, None]
  segments_BT = np.where(padding_BT, 0, np.cumsum(opens_BT, 1))
  starts_BT = np.maximum.accumulate(
    np.where(opens_BT | padding_BT, index_BT, 0), 1
  )
  return Places(jnp.asarray(segments_BT), jnp.asarray(index_BT - starts_BT))


def arrays(config: ModelConfig, batch: int = 2) -> tuple[jax.Array, ...]:
  """q_BTNH, k_BTKH, v_BTKH, and a gradient of the result."""
  generator = np.random.default_rng(0)
  T, H = config.max_length, config.head_dim
  heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
  return tuple(
    jnp.asarray(generator.standard_normal((batch, T, n, H)), jnp.float32)
    for n in (*heads, config.num_heads)
  )


def attention(config: ModelConfig, make: Any = make_attend, **fields: Any):
  """A function of arrays and places that returns result and gradients.

  They are those of the kernel of the configuration, on the surrounding mesh,
  with rows that are put into the order that it wants and back.

  Args:
    config: the model.
    make: makes the kernel, with the arguments of make_attend.
    fields: changes to the configuration.
  """
  config = dataclasses.replace(config, **fields)

  def run(q, k, v, gradient, places):
    resolved, _ = resolve_attention(
      config,
      platform='cpu',
      mesh_shape=jax.sharding.get_abstract_mesh().shape,
    )
    order = resolved.row_order
    # What comes of padding is nobody's business.
    text_BT11 = (places.segments_BT > 0)[:, :, None, None]

    def result(q, k, v):
      moved = jax.tree.map(lambda x: reorder(x, order), (q, k, v, places))
      attend = make(resolved, moved[3])
      return text_BT11 * restore(attend(*moved[:3], None), order)

    out, pullback = jax.vjp(result, q, k, v)
    return dict(zip('oqkv', (out, *pullback(gradient)), strict=True))

  return run
