"""Segments, positions and weights of rows, checked by eye."""

import jax.numpy as jnp
import numpy as np

from train.rows import Marks, unpack_rows

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
    vars(unpack(True)).values(), vars(unpack(True, np.int32)).values(),
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
