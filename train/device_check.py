"""Finds devices that compute or keep wrong numbers without a word.

Three comparisons, each by fingerprints that stay on the devices: the copies of
the state that several devices hold; the gradients of a batch, computed twice; a
product that every device computes of the same numbers.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from model.params import on_device
from train.fingerprint import fingerprint, names
from train.rows import Batch, Marks
from train.setup import Setup
from train.state import TrainState, dropout_key
from train.step import gradients

# Side of the matrices of the product, in which all units of a device take part.
_SIDE = 1024


class SuspectDeviceError(Exception):
  """A device holds or computes other numbers than it should."""


def device_check(
  setup: Setup, marks: Marks
) -> Callable[[TrainState, Batch, int], None]:
  """A function that checks all devices.

  It takes the state, a batch and the number of the step, and raises
  SuspectDeviceError, which names the devices; on all hosts alike.
  """
  mesh, shardings = setup.mesh, setup.shardings
  specs = jax.tree.map(lambda sharding: sharding.spec, shardings)
  everywhere = NamedSharding(mesh, PartitionSpec())

  @functools.partial(jax.jit, out_shardings=everywhere)
  def of_state(state: TrainState) -> jax.Array:
    return prints_by_device(on_device(state), specs, mesh)

  @functools.partial(jax.jit, out_shardings=everywhere)
  def of_gradients(params: Any, batch: Batch, step: jax.Array) -> jax.Array:
    grads, _ = gradients(
      params,
      batch,
      dropout_key(setup.config.seed, step),
      recipe=setup.recipe,
      marks=marks,
    )
    grads = jax.lax.with_sharding_constraint(
      grads, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs.params)
    )
    return prints_by_device(grads, specs.params, mesh)

  @functools.partial(jax.jit, out_shardings=everywhere)
  def of_product() -> jax.Array:
    return product_by_device(mesh)

  def check(state: TrainState, batch: Batch, step: int) -> None:
    with jax.set_mesh(mesh):
      prints_ND = np.asarray(of_state(state))
      first_ND, second_ND = (
        np.asarray(of_gradients(state.params, batch, state.step))
        for _ in range(2)
      )
      product_D = np.asarray(of_product())
    problems = (
      differing_copies(prints_ND, shardings, mesh)
      + differing_times(first_ND, second_ND, shardings.params, mesh)
      + differing_products(product_D, mesh)
    )
    if problems:
      raise SuspectDeviceError(
        f'Step {step}: the devices do not agree.\n  '
        + '\n  '.join(problems)
        + '\nStart again without that hardware; checkpoints are of states that '
        'passed this check.'
      )

  return check


def prints_by_device(tree: Any, specs: Any, mesh: Mesh) -> jax.Array:
  """The fingerprint of the part of each array that each device holds.

  Args:
    tree: N arrays on D devices.
    specs: how each is split.
    mesh: the devices.

  Returns:
    uint32 [N, D], the devices in the order of the mesh.
  """
  leaves = jax.tree.leaves(tree)

  def of_parts(*parts: jax.Array) -> jax.Array:
    return jnp.stack([fingerprint(part) for part in parts])[:, None]

  return jax.shard_map(
    of_parts,
    mesh=mesh,
    in_specs=tuple(jax.tree.leaves(specs, is_leaf=_is_spec)),
    out_specs=PartitionSpec(None, mesh.axis_names),
    check_vma=False,
  )(*leaves)


def product_by_device(mesh: Mesh) -> jax.Array:
  """The fingerprint of a product that each device computes; uint32 [D]."""

  def product(zero: jax.Array) -> jax.Array:
    # Computed from an argument, or the compiler would do it once and for all.
    row = jax.lax.broadcasted_iota(jnp.uint32, (_SIDE, _SIDE), 0)
    column = jax.lax.broadcasted_iota(jnp.uint32, (_SIDE, _SIDE), 1)
    word = (row * 40_503 + column * 30_011 + zero[0]) % 2_039
    x_MM = (word.astype(jnp.float32) / 1_019.5 - 1).astype(jnp.bfloat16)
    for _ in range(2):
      x_MM = jnp.tanh(x_MM @ x_MM)
    return fingerprint(x_MM)[None]

  return jax.shard_map(
    product,
    mesh=mesh,
    in_specs=PartitionSpec(mesh.axis_names),
    out_specs=PartitionSpec(mesh.axis_names),
    check_vma=False,
  )(jnp.zeros(mesh.size, jnp.uint32))


def differing_copies(
  prints_ND: np.ndarray, shardings: Any, mesh: Mesh
) -> list[str]:
  """Names devices whose copy of a part of an array is not that of most."""
  found = []
  for (name, sharding), prints_D in zip(
    names(shardings).items(), prints_ND, strict=True
  ):
    for group in _same_part(sharding, mesh):
      if odd := _odd_ones(prints_D[group]):
        devices = _named(mesh, [group[i] for i in odd])
        others = _named(mesh, [g for i, g in enumerate(group) if i not in odd])
        found.append(f'{name}: {devices} hold other bits than {others}.')
  return found


def differing_times(
  first_ND: np.ndarray, second_ND: np.ndarray, shardings: Any, mesh: Mesh
) -> list[str]:
  """Names devices whose part of a gradient came out in two ways."""
  wrong_ND = first_ND != second_ND
  if not wrong_ND.any():
    return []
  arrays = [
    name
    for name, wrong in zip(names(shardings), wrong_ND.any(axis=1), strict=True)
    if wrong
  ]
  devices = _named(mesh, np.flatnonzero(wrong_ND.any(axis=0)).tolist())
  return [
    f'The gradients of one batch came out in two ways on {devices}: '
    f'{", ".join(arrays[:3])}{", ..." if len(arrays) > 3 else ""}.'
  ]


def differing_products(product_D: np.ndarray, mesh: Mesh) -> list[str]:
  """Names devices whose product is not that of most."""
  odd = _odd_ones(product_D)
  return [f'{_named(mesh, odd)} multiply otherwise than most.'] if odd else []


def _same_part(sharding: NamedSharding, mesh: Mesh) -> list[list[int]]:
  """Groups of devices, by number in the mesh, that hold the same part."""
  split = {
    axis
    for entry in sharding.spec
    for axis in (entry if isinstance(entry, tuple) else (entry,))
    if axis is not None
  }
  kept = tuple(i for i, axis in enumerate(mesh.axis_names) if axis in split)
  groups: dict[tuple[int, ...], list[int]] = {}
  for number, place in enumerate(np.ndindex(mesh.devices.shape)):
    groups.setdefault(tuple(place[i] for i in kept), []).append(number)
  return list(groups.values())


def _odd_ones(values: np.ndarray) -> list[int]:
  """Places of the values that are not the most frequent one.

  Of two that differ nobody knows which is wrong: both are.
  """
  counts = Counter(values.tolist()).most_common()
  if len(counts) == 1:
    return []
  tie = counts[0][1] == counts[1][1]
  return [i for i, v in enumerate(values) if tie or v != counts[0][0]]


def _named(mesh: Mesh, numbers: list[int]) -> str:
  devices = mesh.devices.flatten()[numbers]
  if not len(devices):
    return 'each other'
  return ', '.join(
    f'device {d.id} of process {d.process_index}' for d in devices
  )


def _is_spec(node: Any) -> bool:
  return isinstance(node, PartitionSpec)
