"""How the state of a run lies on a mesh whose devices need not exist."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from train.config import MESH_AXES, TrainConfig
from train.mesh import batch_sharding, check_length, mesh_shape
from train.planning.memory import state_bytes
from train.setup import with_microbatches
from train.state import Recipe, make_recipe, state_shardings


@dataclasses.dataclass(frozen=True)
class Layout:
  """A run on a mesh, by its shapes alone.

  Attributes:
    config: the run.
    mesh: devices along each mesh axis, of all slices.
    recipe: of the state.
    shardings: of the state, on a mesh without devices.
    bytes: of one device's parameters, optimizer and average.
  """

  config: TrainConfig
  mesh: Mapping[str, int]
  recipe: Recipe
  shardings: Any
  bytes: Mapping[str, int]

  def parts(self, axis: str) -> int:
    """Parts into which the mesh splits a logical axis."""
    rules = dict(self.config.mesh.rules)
    return math.prod(self.mesh[name] for name in rules[axis])

  @property
  def stages(self) -> int:
    """Stages of the pipeline."""
    return self.parts('layers')

  @property
  def ticks(self) -> tuple[int, int]:
    """Microbatches of a slice of the batch, and ticks that they take."""
    shape = tuple(self.mesh.values())
    mesh = AbstractMesh(shape, tuple(self.mesh))
    microbatches = with_microbatches(self.config, mesh).model.microbatches
    assert microbatches is not None
    return microbatches, microbatches + self.stages - 1


def mesh_sizes(config: TrainConfig, devices: int) -> dict[str, int]:
  """Devices along each mesh axis, within slices and across them.

  Raises:
    ValueError: their product is not the number of devices.
  """
  within, across = mesh_shape(config.mesh, devices)
  return {
    axis: a * b for axis, a, b in zip(MESH_AXES, within, across, strict=True)
  }


def lay_out(
  config: TrainConfig, devices: int, recipe: Recipe | None = None
) -> Layout:
  """Lays a run out on some devices.

  Args:
    config: the run.
    devices: how many there are.
    recipe: of the run, where it is known; it does not depend on the mesh.

  Raises:
    ValueError: the batch, its rows or a parameter do not fit the mesh.
  """
  sizes = mesh_sizes(config, devices)
  mesh = AbstractMesh(
    tuple(sizes.values()),
    tuple(sizes),
    axis_types=(AxisType.Auto,) * len(sizes),
  )
  rules, slices = config.mesh.rules, config.accumulation_steps
  check_length(mesh, rules, config.sequence_length)
  batch_sharding(
    mesh,
    rules,
    batch_size=config.batch_size // slices,
    field='batch_size' if slices == 1 else 'batch_size / accumulation_steps',
  )
  with_microbatches(config, mesh)
  if recipe is None:
    recipe = make_recipe(config)
  shardings = state_shardings(recipe, mesh)
  held = state_bytes(jax.eval_shape(recipe.init), shardings)
  return Layout(config, sizes, recipe, shardings, held)
