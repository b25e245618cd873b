"""From batches of rows to what the model reads: segments, positions, weights.

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


# Plain rows [B, R], or augmented ones: a dict of 'inputs' and 'targets', token
# ids, and 'flags', uint8 with the bits below, each [B, T].
Batch = jax.Array | dict[str, jax.Array]
# The target counts in the loss.
COUNTS = 1
# The position is seen by its whole piece, not only by what comes later.
VISIBLE = 2


@struct.dataclass
class Inputs:
  """What the model is given, each [B, T]; visible_BT is None where unused."""

  tokens_BT: jax.Array
  targets_BT: jax.Array
  segments_BT: jax.Array
  positions_BT: jax.Array
  weights_BT: jax.Array
  visible_BT: jax.Array | None = None


def unpack_rows(
  batch: Batch, *, marks: Marks, isolate_documents: bool
) -> Inputs:
  """Derives the model's inputs from rows of packed documents.

  Each piece of a document opens with a begin or continue mark; padding ends
  the row. A position of a plain row counts (weight 1) if the token after it
  belongs to the same piece: marks and padding are never predicted. Augmented
  rows say what counts.

  Args:
    batch: token ids of any integer type.
    marks: ids of the special tokens.
    isolate_documents: number the pieces 1, 2, ... (padding 0) and start
      positions over in each; otherwise a row is one segment.
  """
  if isinstance(batch, dict):
    return _unpack_augmented(batch, marks, isolate_documents)
  rows_BR = batch.astype(jnp.int32)
  opens_BR = (rows_BR == marks.bos_id) | (rows_BR == marks.continue_id)
  padding_BR = rows_BR == marks.pad_id
  tokens_BT, targets_BT = rows_BR[:, :-1], rows_BR[:, 1:]
  weights_BT = ~(opens_BR | padding_BR)[:, 1:]
  segments_BT, positions_BT = _segments(
    opens_BR[:, :-1], padding_BR[:, :-1], isolate_documents
  )
  return Inputs(
    tokens_BT=tokens_BT,
    targets_BT=targets_BT,
    segments_BT=segments_BT,
    positions_BT=positions_BT,
    weights_BT=weights_BT.astype(jnp.float32),
  )


def _unpack_augmented(
  batch: dict[str, jax.Array], marks: Marks, isolate_documents: bool
) -> Inputs:
  tokens_BT = batch['inputs'].astype(jnp.int32)
  flags_BT = batch['flags']
  segments_BT, positions_BT = _segments(
    (tokens_BT == marks.bos_id) | (tokens_BT == marks.continue_id),
    tokens_BT == marks.pad_id,
    isolate_documents,
  )
  return Inputs(
    tokens_BT=tokens_BT,
    targets_BT=batch['targets'].astype(jnp.int32),
    segments_BT=segments_BT,
    positions_BT=positions_BT,
    weights_BT=(flags_BT & COUNTS != 0).astype(jnp.float32),
    visible_BT=flags_BT & VISIBLE != 0,
  )


def _segments(
  opens_BT: jax.Array, padding_BT: jax.Array, isolate_documents: bool
) -> tuple[jax.Array, jax.Array]:
  """Number of each position's piece, and its place in it."""
  index_BT = jnp.broadcast_to(jnp.arange(opens_BT.shape[1]), opens_BT.shape)
  if not isolate_documents:
    return jnp.ones_like(index_BT), index_BT
  segments_BT = jnp.where(padding_BT, 0, jnp.cumsum(opens_BT, axis=1))
  start_BT = jax.lax.cummax(
    jnp.where(opens_BT | padding_BT, index_BT, 0), axis=1
  )
  return segments_BT, index_BT - start_BT
