"""How the devices of a mesh are joined, and how fast each group of them is."""

import dataclasses
import math

import numpy as np
from jax.sharding import Mesh

from train.chips import Chip


@dataclasses.dataclass(frozen=True)
class Network:
  """The places of a mesh's devices on the torus and in the data centre.

  Attributes:
    chip: the kind of chip.
    torus: chips along each dimension of a slice.
    axes: names of the mesh axes.
    shape: devices along each of them.
    places: [devices, 2 + dimensions]: slice, coordinates, core; in the order
      in which a program numbers its partitions.
  """

  chip: Chip
  torus: tuple[int, ...]
  axes: tuple[str, ...]
  shape: tuple[int, ...]
  places: np.ndarray

  def axes_of(self, group: list[int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ."""
    along = np.array(np.unravel_index(group, self.shape)).reshape(
      len(self.shape), -1
    )
    return tuple(
      name
      for name, places in zip(self.axes, along, strict=True)
      if len(set(places.tolist())) > 1
    )

  def is_ring(self, size: int) -> bool:
    """Whether a dimension of the torus with this many chips is closed.

    Of two dimensions each is by itself; three are, all or none: the optical
    switches join whole cubes of 4 x 4 x 4.
    """
    sizes = (size,) if self.chip.dimensions == 2 else self.torus
    return all(size % self.chip.wraps_at == 0 for size in sizes)

  def links(self, group: list[int]) -> int:
    """ICI links over which a device of a group sends to others of it.

    Two where the group is a whole ring of the torus, one where it is a line:
    its ends have one neighbour, and wait for all that comes by it. Rings along
    several dimensions are used at once.
    """
    places = self.places[group]
    links = 0
    for axis, size in enumerate(self.torus):
      seen = len(set(places[:, 1 + axis].tolist()))
      if seen > 1:
        links += 2 if seen == size and self.is_ring(size) else 1
    return max(links, 1)

  def crosses_slices(self, group: list[int]) -> bool:
    """Whether a group talks through the data centre's network."""
    return len(set(self.places[group][:, 0].tolist())) > 1

  def bandwidth(self, group: list[int]) -> float:
    """Bytes a second that a device of a group receives from the others."""
    if self.crosses_slices(group):
      return self.chip.dcn_bandwidth / self.chip.devices
    links = self.links(group)
    return links * self.chip.ici_bandwidth / self.chip.devices


def network_of(mesh: Mesh, chip: Chip, torus: tuple[int, ...]) -> Network:
  """Reads the places of a mesh's devices, which need not be attached."""
  dimensions = len(torus)
  places = np.array([
    [
      getattr(device, 'slice_index', None) or 0,
      *device.coords[:dimensions],
      device.core_on_chip,
    ]
    for device in mesh.devices.flat
  ])  # fmt: skip
  assert len(places) == math.prod(mesh.devices.shape)
  return Network(
    chip, torus, tuple(mesh.axis_names), mesh.devices.shape, places
  )
