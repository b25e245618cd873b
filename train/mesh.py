"""The device mesh, and how parameters and batches lie on it."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

from model.axes import AxisRules, partition_spec
from model.params import Params
from train.config import MESH_AXES, MeshConfig


def mesh_shape(
  config: MeshConfig, num_devices: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Devices along each of MESH_AXES within a slice, and slices along each.

  Raises:
    ValueError: the product of all is not the number of devices.
  """
  sizes = {f'mesh.{a}': n for a, n in zip(MESH_AXES, config.sizes, strict=True)}
  sizes |= {
    f'mesh.dcn.{a}': n for a, n in zip(MESH_AXES, config.dcn, strict=True)
  }
  for name, size in sizes.items():
    if size < 1 and size != -1:
      raise ValueError(f'{name} is {size}; it must be at least 1, or -1.')
  free = [name for name, size in sizes.items() if size == -1]
  if len(free) > 1:
    raise ValueError(
      f'{free[0]} and {free[1]} are both -1: one axis can take what the others '
      'leave. Set the other.'
    )
  product = math.prod(size for size in sizes.values() if size != -1)
  shown = ' x '.join(f'{n} {size}' for n, size in sizes.items() if size != 1)
  if free and num_devices % product == 0:
    sizes[free[0]] = num_devices // product
  elif free or product != num_devices:
    raise ValueError(
      f'The mesh ({shown or "all axes 1"}) asks for '
      f'{f"a multiple of {product}" if free else product} devices, and there '
      f'are {num_devices}. Change one of mesh.{", mesh.".join(MESH_AXES)}.'
    )
  values = tuple(sizes.values())
  return values[: len(MESH_AXES)], values[len(MESH_AXES) :]


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Lays the devices out in a mesh with neighbours on neighbouring chips.

  Raises:
    ValueError: the devices, or the slices that they lie in, are not those of
      the mesh, or a rule names an axis that it lacks.
  """
  devices = jax.devices() if devices is None else devices
  within, across = mesh_shape(config, len(devices))
  for axis, mesh_axes in config.rules:
    for name in mesh_axes:
      if name not in MESH_AXES:
        raise ValueError(
          f'mesh.rules.{axis} names the mesh axis {name!r}; the mesh has '
          f'{MESH_AXES}.'
        )
  slices = _slices(devices, math.prod(across))
  grids = np.empty(len(slices), object)
  for i, members in enumerate(slices):
    grids[i] = _grid(within, members)
  grid = np.block(grids.reshape(across).tolist())
  return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _slices(devices: Sequence[Any], wanted: int) -> list[list[Any]]:
  """The devices by what joins them: TPU slices, or processes.

  The emulated devices of one process stand for slices in equal runs.
  """
  if wanted == 1:
    return [list(devices)]

  def group(key: Callable[[Any], int]) -> list[list[Any]]:
    members = collections.defaultdict(list)
    for device in devices:
      members[key(device)].append(device)
    return [members[k] for k in sorted(members)]

  slices = group(lambda device: getattr(device, 'slice_index', 0))
  if len(slices) == 1:
    slices = group(lambda device: device.process_index)
  if len(slices) == 1 and devices[0].platform == 'cpu':
    slices = [list(part) for part in np.split(np.array(devices), wanted)]
  sizes = {len(members) for members in slices}
  if len(slices) != wanted or len(sizes) > 1:
    raise ValueError(
      f'mesh.dcn multiplies to {wanted} slices, and the devices lie in '
      f'{len(slices)} of {" or ".join(map(str, sorted(sizes)))} devices each.'
      ' Change mesh.dcn.'
    )
  return slices


def _grid(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
  try:
    return mesh_utils.create_device_mesh(shape, devices=devices)
  except NotImplementedError:
    # No axis of the torus is a product of mesh axes: cut one in pieces.
    return mesh_utils.create_device_mesh(
      shape, devices=devices, allow_split_physical_axes=True
    )


def parameter_shardings(
  mesh: Mesh | AbstractMesh, axes: Params, shapes: Params, rules: AxisRules
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


def split_further(
  shape: tuple[int, ...], sharding: NamedSharding, mesh_axes: Sequence[str]
) -> NamedSharding:
  """Splits an array over more mesh axes, along its largest fitting dimension.

  The dimension of the layers comes last: gradients are made layer by layer, and
  are then summed and split in one exchange. An array that no dimension fits
  stays as it is, and so do axes that split it already.
  """
  mesh = sharding.mesh
  entries = [
    () if entry is None else (entry,) if isinstance(entry, str) else entry
    for entry in (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
  ]
  used = {axis for entry in entries for axis in entry}
  more = tuple(a for a in mesh_axes if a not in used and mesh.shape[a] > 1)
  parts = [math.prod(mesh.shape[a] for a in (*e, *more)) for e in entries]
  fitting = [i for i, n in enumerate(shape) if n % parts[i] == 0]
  if not more or not fitting:
    return sharding
  best = max(fitting, key=lambda i: (i > 0 or len(shape) == 1, shape[i]))
  entries[best] += more
  return NamedSharding(mesh, PartitionSpec(*(e or None for e in entries)))


def shardings_like(
  tree: Any, params: Params, shardings: Params, mesh: Mesh | AbstractMesh
):
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
  mesh: Mesh | AbstractMesh, rules: AxisRules, *, batch_size: int, field: str
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


def check_length(
  mesh: Mesh | AbstractMesh, rules: AxisRules, sequence_length: int
) -> None:
  """Refuses a mesh that cannot split the positions of a row evenly.

  Raises:
    ValueError: sequence_length is no multiple of the devices that split it.
  """
  for axis in ('length', 'residual_length'):
    mesh_axes = dict(rules)[axis]
    parts = math.prod(mesh.shape[name] for name in mesh_axes)
    if sequence_length % parts:
      split = ' x '.join(
        f'mesh.{name} = {mesh.shape[name]}' for name in mesh_axes
      )
      raise ValueError(
        f'sequence_length = {sequence_length} positions cannot be split '
        f'evenly by {split} ({sequence_length} = {sequence_length // parts} x '
        f'{parts} + {sequence_length % parts}). Change sequence_length, the '
        f'mesh, or mesh.rules.{axis}.'
      )
