"""Segments, positions and weights of rows, checked by eye."""

import jax
import jax.numpy as jnp
import numpy as np

from train.rows import COUNTS, VISIBLE, Marks, unpack_rows

MARKS = Marks(pad_id=0, bos_id=1, continue_id=2)

# The rest of a document, a document (eos is 3), a cut one, padding.
ROW = [2, 7, 8, 3, 1, 9, 3, 1, 6, 0, 0]
FULL = [1, 5, 3, 1, 3, 2, 4, 4, 4, 4, 3]


def unpack(isolate_documents, dtype=np.uint16):
  return unpack_rows(
    jnp.asarray(np.array([ROW, FULL], dtype)),
    marks=MARKS,
    isolate_documents=isolate_documents,
  )


def test_tokens_and_targets_are_the_row_and_the_row_after_it():
  inputs = unpack(True)
  np.testing.assert_array_equal(inputs.tokens_BT, [ROW[:-1], FULL[:-1]])
  np.testing.assert_array_equal(inputs.targets_BT, [ROW[1:], FULL[1:]])
  assert inputs.tokens_BT.dtype == inputs.targets_BT.dtype == jnp.int32


def test_pieces_are_numbered_and_positions_start_over():
  inputs = unpack(True)
  np.testing.assert_array_equal(
    inputs.segments_BT,
    [[1, 1, 1, 1, 2, 2, 2, 3, 3, 0], [1, 1, 1, 2, 2, 3, 3, 3, 3, 3]],
  )
  np.testing.assert_array_equal(
    inputs.positions_BT,
    [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0], [0, 1, 2, 0, 1, 0, 1, 2, 3, 4]],
  )


def test_without_isolation_a_row_is_one_segment():
  inputs = unpack(False)
  np.testing.assert_array_equal(inputs.segments_BT, np.ones((2, 10)))
  np.testing.assert_array_equal(inputs.positions_BT, [range(10)] * 2)


def test_marks_and_padding_are_never_predicted():
  for isolate_documents in (True, False):
    inputs = unpack(isolate_documents)
    np.testing.assert_array_equal(
      inputs.weights_BT,
      [[1, 1, 1, 0, 1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 0, 1, 1, 1, 1, 1]],
    )
    assert inputs.weights_BT.dtype == jnp.float32


def test_the_stored_integer_type_makes_no_difference():
  for narrow, wide in zip(
    jax.tree.leaves(unpack(True)), jax.tree.leaves(unpack(True, np.int32)),
    strict=True,
  ):  # fmt: skip
    np.testing.assert_array_equal(narrow, wide)
    assert narrow.dtype == wide.dtype


def test_a_row_of_padding_weighs_nothing():
  inputs = unpack_rows(
    jnp.zeros((1, 9), jnp.uint16), marks=MARKS, isolate_documents=True
  )
  assert not inputs.weights_BT.any()
  assert not inputs.segments_BT.any()


def augmented():
  """The two rows as augmentation gives them when it changes nothing."""
  rows_BR = np.array([ROW, FULL], np.uint16)
  counts_BT = np.asarray(unpack(True).weights_BT, np.uint8) * COUNTS
  return {
    'inputs': jnp.asarray(rows_BR[:, :-1]),
    'targets': jnp.asarray(rows_BR[:, 1:]),
    'flags': jnp.asarray(counts_BT),
  }


def test_an_augmented_batch_that_changes_nothing_is_the_plain_one():
  for isolate_documents in (True, False):
    inputs = unpack_rows(
      augmented(), marks=MARKS, isolate_documents=isolate_documents
    )
    assert not inputs.visible_BT.any()
    for name, plain in vars(unpack(isolate_documents)).items():
      if name != 'visible_BT':
        np.testing.assert_array_equal(vars(inputs)[name], plain)


def test_flags_say_what_counts_and_what_is_visible():
  batch = augmented()
  batch['flags'] = (
    batch['flags']
    .at[0]
    .set(np.uint8([VISIBLE] * 4 + [COUNTS, COUNTS | VISIBLE, 0, 0, 0, 0]))
  )
  batch['inputs'] = batch['inputs'].at[1, 1].set(60)
  inputs = unpack_rows(batch, marks=MARKS, isolate_documents=True)
  np.testing.assert_array_equal(
    inputs.weights_BT[0], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
  )
  np.testing.assert_array_equal(
    inputs.visible_BT[0], [1, 1, 1, 1, 0, 1, 0, 0, 0, 0]
  )
  # Targets are what was there; only the input has changed.
  assert inputs.tokens_BT[1, 1] == 60
  assert inputs.targets_BT[1, 0] == FULL[1]
