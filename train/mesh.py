"""The device mesh, and how parameters and batches lie on it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from model.axes import AxisRules, partition_spec
from model.params import Params
from train.config import MeshConfig


def mesh_shape(config: MeshConfig, num_devices: int) -> tuple[int, ...]:
  """Devices along each mesh axis, with -1 filled in.

  Raises:
    ValueError: the product is not the number of devices.
  """
  sizes = dict(config.axes)
  for name, size in sizes.items():
    if size < 1 and size != -1:
      raise ValueError(f'mesh.{name} is {size}; it must be at least 1, or -1.')
  free = [name for name, size in sizes.items() if size == -1]
  if len(free) > 1:
    raise ValueError(
      f'mesh.{free[0]} and mesh.{free[1]} are both -1: one axis can take what '
      'the others leave. Set the other.'
    )
  product = math.prod(size for size in sizes.values() if size != -1)
  shown = ' x '.join(f'{name} {size}' for name, size in sizes.items())
  if free and num_devices % product == 0:
    sizes[free[0]] = num_devices // product
  elif free or product != num_devices:
    raise ValueError(
      f'The mesh {shown} asks for '
      f'{f"a multiple of {product}" if free else product} devices, and there '
      f'are {num_devices}. Change mesh.data, mesh.fsdp or mesh.tensor.'
    )
  return tuple(sizes.values())


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Lays the devices out in a mesh with neighbours on neighbouring chips."""
  devices = jax.devices() if devices is None else devices
  shape = mesh_shape(config, len(devices))
  names = tuple(name for name, _ in config.axes)
  for axis, mesh_axes in config.rules:
    for name in mesh_axes:
      if name not in names:
        raise ValueError(
          f'mesh.rules.{axis} names the mesh axis {name!r}; the mesh has '
          f'{names}.'
        )
  grid = mesh_utils.create_device_mesh(shape, devices=devices)
  return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def parameter_shardings(
  mesh: Mesh, axes: Params, shapes: Params, rules: AxisRules
) -> Params:
  """Sharding of each parameter from its logical axes.

  Args:
    mesh: the mesh.
    axes: logical axes of each parameter.
    shapes: parameters, or their shapes and dtypes.
    rules: logical axis to mesh axes.

  Raises:
    ValueError: a dimension is no multiple of the devices that split it.
  """

  table = dict(rules)

  def sharding(path, leaf):
    names = axes
    for key in path:
      names = names[key.key]
    for size, axis in zip(leaf.shape, names, strict=True):
      mesh_axes = table.get(axis, ())
      parts = math.prod(mesh.shape[name] for name in mesh_axes)
      if size % parts:
        raise ValueError(
          f'{jax.tree_util.keystr(path, simple=True, separator=".")}: axis '
          f'{axis!r} has {size} entries, which '
          f'{" x ".join(f"mesh.{n} = {mesh.shape[n]}" for n in mesh_axes)} '
          f'cannot split evenly ({size} = {size // parts} x {parts} + '
          f'{size % parts}). Change the size, the mesh, or mesh.rules.{axis}.'
        )
    return NamedSharding(mesh, partition_spec(tuple(names), rules))

  return jax.tree_util.tree_map_with_path(sharding, shapes)


def shardings_like(tree: Any, params: Params, shardings: Params, mesh: Mesh):
  """Shards every array of a tree that mirrors a parameter like that parameter.

  An optimizer's state holds trees shaped like the parameters. A leaf whose
  path ends in a parameter's path and whose shape is that parameter's takes its
  sharding; anything else (counters, factored moments) is replicated.
  """

  def names(path) -> tuple[str, ...]:
    return tuple(
      jax.tree_util.keystr((key,), simple=True, separator='.') for key in path
    )

  known = {
    names(path): (leaf.shape, sharding)
    for (path, leaf), sharding in zip(
      jax.tree_util.tree_leaves_with_path(params),
      jax.tree.leaves(shardings),
      strict=True,
    )
  }

  def sharding(path, leaf):
    path = names(path)
    for start in range(len(path)):
      shape, found = known.get(path[start:], (None, None))
      if shape == leaf.shape:
        return found
    return NamedSharding(mesh, PartitionSpec())

  return jax.tree_util.tree_map_with_path(sharding, tree)


def batch_sharding(
  mesh: Mesh, rules: AxisRules, *, batch_size: int, field: str
) -> NamedSharding:
  """Sharding of rows_BR: whole rows, split over the batch axes.

  Args:
    mesh: the mesh.
    rules: logical axis to mesh axes.
    batch_size: rows that are computed at a time.
    field: the config field that gives batch_size, for the error.

  Raises:
    ValueError: the batch is no multiple of the devices that split it.
  """
  mesh_axes = dict(rules)['batch']
  parts = math.prod(mesh.shape[name] for name in mesh_axes)
  if batch_size % parts:
    split = ' x '.join(
      f'mesh.{name} = {mesh.shape[name]}' for name in mesh_axes
    )
    raise ValueError(
      f'{field} = {batch_size} rows cannot be split evenly by {split} '
      f'({batch_size} = {batch_size // parts} x {parts} + '
      f'{batch_size % parts}). Change {field} or the mesh.'
    )
  return NamedSharding(mesh, partition_spec(('batch', None), rules))
