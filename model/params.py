"""How a parameter is declared: once, with all that others derive from it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

# What a parameter is for. Weight decay, Muon and the head's sharding go by it.
KINDS = ('matrix', 'head', 'embedding', 'norm', 'bias')

# JAX's name for memory of the host that devices read and write themselves.
HOST_MEMORY = 'pinned_host'

Params = dict[str, Any]  # Nested dict of arrays, as `split` returns it.


def declare(
  key: jax.Array,
  shape: tuple[int, ...],
  axes: tuple[str | None, ...],
  *,
  kind: str,
  std: float = 0.0,
  mean: float = 0.0,
  layers: int | None = None,
) -> nnx.Param:
  """Declares a float32 parameter with normally distributed initial values.

  Args:
    key: random key; unused where std is 0.
    shape: shape of one layer's array.
    axes: logical name of each dimension, or None where it is never split.
    kind: one of KINDS.
    std: standard deviation of the initial values.
    mean: their mean.
    layers: number of layers stacked in front, as a further axis 'layers'.
  """
  assert kind in KINDS
  assert len(axes) == len(shape)
  if layers is not None:
    shape, axes = (layers, *shape), ('layers', *axes)
  value = jnp.full(shape, mean, jnp.float32)
  if std:
    value += std * jax.random.normal(key, shape, jnp.float32)
  return nnx.Param(value, axes=axes, kind=kind)


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Params]:
  """Splits a module into its static structure and its parameters."""
  graphdef, state = nnx.split(model)
  return graphdef, nnx.to_pure_dict(state)


def merge(graphdef: nnx.GraphDef, params: Params) -> Any:
  """The module of a structure and its parameters; undoes `split`."""
  return nnx.merge(graphdef, params)


def abstract(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Params]:
  """`split` of a module that is only described: shapes, no memory."""
  return split(nnx.eval_shape(build))


def metadata(build: Callable[[], nnx.Module], name: str) -> Params:
  """Nested dict, shaped like the parameters, of their 'axes' or 'kind'."""
  return metadata_of(nnx.eval_shape(build), name)


def metadata_of(model: nnx.Module, name: str) -> Params:
  """`metadata` of a module, or of a part of one."""

  def walk(node: Any) -> Any:
    if isinstance(node, nnx.Variable):
      return node.get_metadata()[name]
    return {key: walk(child) for key, child in node.items()}

  return walk(nnx.state(model))


def on_device(tree: Any) -> Any:
  """Brings what lies in the host's memory to the devices, inside a jit.

  The gradient of an array lies where the array does.
  """

  def bring(leaf: jax.Array) -> jax.Array:
    if jax.typeof(leaf).memory_space != jax.memory.Space.Host:
      return leaf
    return jax.device_put(leaf, jax.memory.Space.Device)

  return jax.tree.map(bring, tree)


def where_it_lay(tree: Any, before: Any) -> Any:
  """Puts arrays back into the host's memory that came from it; see on_device.

  Args:
    tree: arrays on the devices.
    before: as they were, of which some lie in the host's memory.
  """

  def put(leaf: jax.Array, old: jax.Array) -> jax.Array:
    if jax.typeof(old).memory_space != jax.memory.Space.Host:
      return leaf
    return jax.device_put(leaf, jax.memory.Space.Host)

  return jax.tree.map(put, tree, before)


def count(params: Params) -> int:
  """Number of values in the parameters."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
