"""What a traced program holds, through all programs inside it."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
  """Every equation, and how often it runs."""
  for equation in jaxpr.eqns:
    yield equation, times
    inner = times
    if equation.primitive.name == 'scan':
      inner *= equation.params['length']
    for value in jax.tree.leaves(
      equation.params,
      is_leaf=lambda v: isinstance(v, (core.ClosedJaxpr, core.Jaxpr)),
    ):
      if isinstance(value, core.ClosedJaxpr):
        yield from equations(value.jaxpr, inner)
      elif isinstance(value, core.Jaxpr):
        yield from equations(value, inner)


def largest_array(jaxpr: Any) -> int:
  """Values of the largest array that an equation makes."""
  return max(
    math.prod(variable.aval.shape)
    for equation, _ in equations(jaxpr)
    for variable in equation.outvars
  )


def matmul_flops(jaxpr: Any) -> int:
  """Operations of all matrix products; a multiply-add is two."""
  total = 0
  for equation, times in equations(jaxpr):
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      depth = math.prod(left[axis] for axis in contracted)
      total += times * 2 * math.prod(equation.outvars[0].aval.shape) * depth
    if equation.primitive.name == 'ragged_dot_general':
      # Each row meets one group's matrix, whose columns come last.
      rows = math.prod(equation.invars[0].aval.shape)
      total += times * 2 * rows * equation.outvars[0].aval.shape[-1]
  return total
