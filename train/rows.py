"""From stored rows to what the model reads: segments, positions, weights.

Suffixes: B batch, R tokens of a stored row, T = R - 1 positions.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marks:
  """Ids of the special tokens that structure a row."""

  pad_id: int
  bos_id: int
  continue_id: int


@struct.dataclass
class Inputs:
  """What the model is given, each [B, T]."""

  tokens_BT: jax.Array
  targets_BT: jax.Array
  segments_BT: jax.Array
  positions_BT: jax.Array
  weights_BT: jax.Array


def unpack_rows(
  rows_BR: jax.Array, *, marks: Marks, isolate_documents: bool
) -> Inputs:
  """Derives the model's inputs from rows of packed documents.

  Each piece of a document opens with a begin or continue mark; padding ends
  the row. A position counts (weight 1) if the token after it belongs to the
  same piece: marks and padding are never predicted.

  Args:
    rows_BR: token ids; any integer type.
    marks: ids of the special tokens.
    isolate_documents: number the pieces 1, 2, ... (padding 0) and start
      positions over in each; otherwise a row is one segment.
  """
  rows_BR = rows_BR.astype(jnp.int32)
  opens_BR = (rows_BR == marks.bos_id) | (rows_BR == marks.continue_id)
  padding_BR = rows_BR == marks.pad_id
  tokens_BT, targets_BT = rows_BR[:, :-1], rows_BR[:, 1:]
  weights_BT = ~(opens_BR | padding_BR)[:, 1:]
  index_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
  if isolate_documents:
    opens_BT, padding_BT = opens_BR[:, :-1], padding_BR[:, :-1]
    segments_BT = jnp.where(padding_BT, 0, jnp.cumsum(opens_BT, axis=1))
    start_BT = jax.lax.cummax(
      jnp.where(opens_BT | padding_BT, index_BT, 0), axis=1
    )
    positions_BT = index_BT - start_BT
  else:
    segments_BT = jnp.ones_like(tokens_BT)
    positions_BT = index_BT
  return Inputs(
    tokens_BT=tokens_BT,
    targets_BT=targets_BT,
    segments_BT=segments_BT,
    positions_BT=positions_BT,
    weights_BT=weights_BT.astype(jnp.float32),
  )
