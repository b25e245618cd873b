"""Fused attention on TPUs: JAX's Pallas kernel "splash attention".

Scores live in a block on the chip, forward and backward, so memory grows
linearly with the row; blocks that the mask empties are not computed. It takes
segments but no positions. Ours are consecutive and start over in each segment,
so that "no later position of the same segment" and "no later index, and the
same segment" are the same. Padding, which is segment 0 and at position 0
throughout, sees padding before it here and all padding in the reference: what
comes of it goes nowhere.

Suffixes: B batch, T query position, S key position, N query heads, K key/value
heads, H head size.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as splash_mask,
)
from jax.sharding import NamedSharding, PartitionSpec

from model.config import ModelConfig
from model.context import Order, per_device, restore, split_axes
from model.mask import Places

# The lanes of a vector register: blocks are multiples of it.
LANES = 128
# Keys that are multiplied at a time within a block of keys.
_KEYS_AT_A_TIME = 512


class CausalChunks(splash_mask.Mask):
  """Causal mask with a window, of queries whose chunks come in some order.

  The kernel computes the mask from `q_sequence`, the index of each query, with
  `mask_function`. Before that, its set-up asks of each block of the mask
  whether all or any of it is seen, which is worked out here from its corners:
  JAX's own masks build all T x S values of the mask for it, 17 billion of them
  at 131,072 tokens.
  """

  def __init__(self, length: int, window: int | None, order: Order | None):
    """Describes the mask of a row.

    Args:
      length: queries and keys.
      window: positions seen, the query's own included; None: all.
      order: of the queries' chunks; keys are as they were written.
    """
    self._key = (length, window, order)
    index = np.arange(length, dtype=np.int32)
    if order is not None:
      index = index.reshape(len(order), -1)[list(order)].reshape(-1)
    self.q_sequence = index
    # One function for equal masks: it is part of the key under which programs
    # are found again.
    self.mask_function = _sees(window)

  @property
  def shape(self) -> tuple[int, ...]:
    """Queries and keys."""
    return (self._key[0], self._key[0])

  def __getitem__(self, block) -> np.ndarray:
    """A small array with the same `any` and `all` as the block."""
    queries, keys = block
    window = self._key[1]
    first, last = self.q_sequence[queries][[0, -1]]
    assert last - first == queries.stop - queries.start - 1, 'a block is split'
    start, end = keys.start, keys.stop - 1
    seen, hidden = start <= last, end > first
    if window is not None:
      seen &= first - end < window
      hidden |= last - start >= window
    return np.array([seen, seen and not hidden])[None]

  def __eq__(self, other: object) -> bool:
    return isinstance(other, CausalChunks) and self._key == other._key

  def __hash__(self) -> int:
    return hash(self._key)


@functools.cache
def _sees(window: int | None) -> Callable[[Any, Any], Any]:
  def sees(query, key):
    seen = query >= key
    return seen if window is None else seen & (query - key < window)

  return sees


def block(length: int, largest: int) -> int:
  """The largest multiple of 128 that divides length and is no larger."""
  assert length % LANES == 0, f'{length} is no multiple of {LANES}'
  return max(
    size
    for size in range(LANES, max(largest, LANES) + 1, LANES)
    if length % size == 0
  )


def block_sizes(config: ModelConfig, chunk: int) -> splash.BlockSizes:
  """Blocks of the kernel, forward and backward.

  Args:
    config: the model; its splash_block_q and splash_block_kv are upper bounds.
    chunk: consecutive queries.
  """
  q = block(chunk, config.splash_block_q)
  kv = block(config.max_length, config.splash_block_kv)
  compute = block(kv, _KEYS_AT_A_TIME)
  # The fused backward kernel computes the scores once, not twice, and writes
  # one gradient of the queries for each block of keys, to be summed: the memory
  # for those grows with the square of the row.
  fused = config.splash_fused_backward
  return splash.BlockSizes(
    block_q=q,
    block_kv=kv,
    block_kv_compute=compute,
    block_q_dkv=q,
    block_kv_dkv=kv,
    block_kv_dkv_compute=compute,
    block_q_dq=None if fused else q,
    block_kv_dq=None if fused else kv,
    use_fused_bwd_kernel=fused,
  )


def make_attend(config: ModelConfig, places: Places):
  """A function (q_BTNH, k_BTKH, v_BTKH, dropout keys) -> out_BTNH.

  Args:
    config: the model, with attention 'splash' or 'splash_interpreted'.
    places: of the tokens, in the order of config.row_order.
  """
  order = config.row_order
  rules, T = config.axis_rules, places.segments_BT.shape[1]
  assert config.max_length == T, f'rows of {T}, not {config.max_length}'
  assert places.visible_BT is None, 'splash knows no visible prefixes'
  # The queries of one device, where the strategy leaves them split.
  length = split_axes('length', rules)
  if config.context_parallelism == 'ulysses':
    length = ()
  mesh = jax.sharding.get_abstract_mesh()
  parts = int(np.prod([mesh.shape[axis] for axis in length], dtype=int))
  chunk = T // (parts if order is None else len(order))
  kernel = splash.make_splash_mha(
    # Of one head: all heads have the same mask.
    splash_mask.MultiHeadMask([
      CausalChunks(T, config.sliding_window, order)
    ]),
    head_shards=1,
    q_seq_shards=parts,
    block_sizes=block_sizes(config, chunk),
    attn_logits_soft_cap=config.attention_softcap,
    # Names the result and the log-normaliser, which the backward pass needs,
    # for the rematerialisation policy.
    residual_checkpoint_name='context',
    interpret=config.attention == 'splash_interpreted',
  )  # fmt: skip
  specs = None
  if not mesh.empty:
    sharding = NamedSharding(mesh, PartitionSpec(None, length or None))
    specs = kernel.manual_sharding_spec(sharding)

  def local(q_BTNH, k_BSKH, v_BSKH, queries, keys, kernel):
    k_BSKH, v_BSKH, keys = jax.tree.map(
      lambda x: restore(x, order), (k_BSKH, v_BSKH, keys)
    )
    segments = None
    if config.isolate_documents:
      segments = splash.SegmentIds(queries.segments_BT, keys.segments_BT)
    q_BTNH = q_BTNH * jnp.asarray(config.head_dim**-0.5, q_BTNH.dtype)
    q_BNTH, k_BKSH, v_BKSH = (
      x.swapaxes(1, 2) for x in (q_BTNH, k_BSKH, v_BSKH)
    )
    out_BNTH = jax.vmap(kernel)(q_BNTH, k_BKSH, v_BKSH, segments)
    return out_BNTH.swapaxes(1, 2)

  def attend(q_BTNH, k_BTKH, v_BTKH, dropout_keys):
    del dropout_keys
    arrays = (q_BTNH, k_BTKH, v_BTKH)
    return per_device(local, config, arrays, places, kernel, specs)

  return attend
