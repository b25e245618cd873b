"""Logical axes of activations, mapped to the axes of the surrounding mesh."""

import functools

import jax
from jax.sharding import PartitionSpec

AxisRules = tuple[tuple[str, tuple[str, ...]], ...]


def partition_spec(
  axes: tuple[str | None, ...], rules: AxisRules
) -> PartitionSpec:
  """The mesh axes that split an array with the given logical axes.

  Raises:
    ValueError: an axis has no rule, or two axes want the same mesh axis.
  """
  table = dict(rules)
  entries: list[tuple[str, ...]] = []
  for axis in axes:
    if axis is not None and axis not in table:
      raise ValueError(
        f'Logical axis {axis!r} has no entry in mesh.rules; it has '
        f'{sorted(table)}. Add mesh.rules.{axis}.'
      )
    entries.append(table[axis] if axis is not None else ())
  used = [mesh_axis for entry in entries for mesh_axis in entry]
  if len(used) != len(set(used)):
    raise ValueError(
      f'mesh.rules split an array with axes {axes} twice over the same mesh '
      f'axis: {entries}. Take the axis from one of the rules.'
    )
  return PartitionSpec(*(entry or None for entry in entries))


def constrain(
  x: jax.Array, axes: tuple[str | None, ...], rules: AxisRules
) -> jax.Array:
  """Tells the compiler how an activation lies on the mesh, if there is one."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, partition_spec(axes, rules))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def constrain_gradient(
  x: jax.Array, axes: tuple[str | None, ...], rules: AxisRules
) -> jax.Array:
  """x itself, whose gradient is constrained as `constrain` does it.

  To constrain a parameter itself as well makes the compiler gather more on a
  mesh with tensor parallelism.
  """
  del axes, rules
  return x


def _forward(x, axes, rules):
  del axes, rules
  return x, None


def _backward(axes, rules, residuals, gradient):
  del residuals
  return (constrain(gradient, axes, rules),)


constrain_gradient.defvjp(_forward, _backward)
