"""Fused attention on GPUs: cuDNN, through `jax.nn.dot_product_attention`.

Its public interface takes no segments. Rows of several documents get a mask,
one for all heads: [B, T, S] in compute_dtype, so that memory grows with the
square of the row, at a small factor (1 / (2 N) of the float32 scores of N
heads). Rows that are one text (isolate_documents = False) need none.

Suffixes: B batch, T query position, S key position, N query heads, K key/value
heads, H head size.
"""

from typing import Literal

import jax
from jax.ad_checkpoint import checkpoint_name

from model.config import ModelConfig
from model.context import per_device, split_axes
from model.mask import Places, causal_mask


def make_attend(
  config: ModelConfig,
  places: Places,
  implementation: Literal['cudnn', 'xla'] = 'cudnn',
):
  """A function (q_BTNH, k_BTKH, v_BTKH, dropout keys) -> out_BTNH.

  Args:
    config: the model.
    places: of the tokens.
    implementation: 'xla' computes the same without cuDNN, for tests.
  """
  window = config.sliding_window
  # A device that has a part of the queries cannot use the kernel's own causal
  # mask, which puts the first query at the first key; nor can prefixes.
  gathered = config.context_parallelism == 'all_gather' and bool(
    split_axes('length', config.axis_rules)
  )
  by_mask = gathered or places.visible_BT is not None

  def local(q_BTNH, k_BSKH, v_BSKH, queries, keys, extra):
    del extra
    mask_BTS = None
    if by_mask:
      mask_BTS = causal_mask(queries, keys, window)
    elif config.isolate_documents:
      mask_BTS = queries.segments_BT[:, :, None] == keys.segments_BT[:, None, :]
    return jax.nn.dot_product_attention(
      q_BTNH,
      k_BSKH,
      v_BSKH,
      mask=None if mask_BTS is None else mask_BTS[:, None],
      is_causal=not by_mask,
      # Positions before the query, itself not counted, and after it.
      local_window_size=None if by_mask or not window else (window - 1, 0),
      implementation=implementation,
    )

  def attend(q_BTNH, k_BTKH, v_BTKH, dropout_keys):
    del dropout_keys
    arrays = (q_BTNH, k_BTKH, v_BTKH)
    return checkpoint_name(per_device(local, config, arrays, places), 'context')

  return attend
