import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from input_pipeline.global_array import process_rows, to_global_array


def sharding(spec, **axes):
  mesh = jax.make_mesh(
    tuple(axes.values()),
    tuple(axes),
    axis_types=(jax.sharding.AxisType.Auto,) * len(axes),
  )
  return NamedSharding(mesh, PartitionSpec(*spec))


class OfAProcess:
  """The sharding that a process of several sees: some devices are its own."""

  def __init__(self, *spans):
    self._spans = spans

  def addressable_devices_indices_map(self, shape):
    return {
      device: (slice(*span, None), slice(None))
      for device, span in enumerate(self._spans)
    }


def test_one_process_reads_all_rows():
  devices = len(jax.devices())
  batch = 4 * devices
  rows = np.arange(batch * 3, dtype=np.uint16).reshape(batch, 3)
  for layout in (
    sharding([('data', 'tensor')], data=devices, tensor=1),
    sharding(['data'], data=1, tensor=devices),
    sharding([], data=devices),
  ):
    assert process_rows(layout, batch) == (0, batch)
    array = to_global_array(rows, layout, batch)
    assert array.dtype == np.uint16
    assert array.shape == (batch, 3)
    assert array.sharding == layout
    np.testing.assert_array_equal(np.asarray(array), rows)


def test_rows_of_a_process_among_others():
  assert process_rows(OfAProcess((8, 12), (12, 16)), 32) == (8, 16)
  # Two devices of a tensor-parallel group hold the same rows.
  assert process_rows(OfAProcess((4, 8), (4, 8)), 8) == (4, 8)
  assert process_rows(OfAProcess((None, None)), 8) == (0, 8)


def test_devices_get_their_rows_of_a_later_process(monkeypatch):
  """Of 16 rows, this process holds 8 to 15 and its devices four each."""
  given = {}

  def make_array(shape, layout, shard):
    for span in ((8, 12), (12, 16)):
      given[span] = shard((slice(*span, None), slice(None)))
    return shape

  monkeypatch.setattr(jax, 'make_array_from_callback', make_array)
  rows = np.arange(8, 16)[:, None]
  layout = OfAProcess((8, 12), (12, 16))
  assert to_global_array(rows, layout, 16) == (16, 1)
  for (start, stop), found in given.items():
    assert found.ravel().tolist() == list(range(start, stop))


def test_rows_with_a_gap_are_an_error():
  with pytest.raises(ValueError, match=r'\(0, 4\), \(8, 12\).*not contiguous'):
    process_rows(OfAProcess((0, 4), (8, 12)), 16)


def test_batches_that_do_not_divide_are_an_error():
  devices = len(jax.devices())
  if devices == 1:
    pytest.skip('one device divides everything')
  layout = sharding(['data'], data=devices)
  with pytest.raises(ValueError, match=rf'{devices + 1} rows.*data {devices}'):
    process_rows(layout, devices + 1)


def test_only_rows_may_be_split():
  layout = sharding([None, 'length'], length=len(jax.devices()))
  with pytest.raises(ValueError, match='only the rows'):
    process_rows(layout, 8)
