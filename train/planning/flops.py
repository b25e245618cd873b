"""Exact operations of the matrix products of a traced program."""

import collections
import math
from typing import Any

import jax
from jax.extend import core


def product_flops(jaxpr: Any) -> collections.Counter[str]:
  """Operations of all matrix products, by the type that is multiplied.

  A multiply-add is two operations. Recomputation counts, loops count as often
  as they run, and what stands in a shard_map counts on every device. Of a
  branch the costlier side counts. Of products with groups every row counts
  once, with the matrix of its group, and rows of no group too: a program does
  not know how many there will be. Megablox's sums over the rows of each group
  count as these do; other hand-written kernels are left out, and counted by
  what they compute (kernels.py).

  Args:
    jaxpr: of the whole program, over all devices.
  """
  total: collections.Counter[str] = collections.Counter()
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      left = equation.invars[0].aval
      depth = math.prod(left.shape[axis] for axis in contracted)
      size = math.prod(equation.outvars[0].aval.shape)
      total[left.dtype.name] += 2 * size * depth
    elif name in ('ragged_dot', 'ragged_dot_general'):
      left = equation.invars[0].aval
      total[left.dtype.name] += _grouped(equation)
    elif params.get('name') == 'tgmm':
      left, right = (variable.aval for variable in equation.invars[:2])
      total[left.dtype.name] += 2 * left.size * right.shape[1]
    elif name == 'pallas_call':
      continue
    elif name == 'cond':
      branches = [product_flops(b.jaxpr) for b in params['branches']]
      costliest = max(branches, key=lambda branch: branch.total())
      total.update(costliest)
    else:
      times = _times(name, params)
      for inner in _programs(params):
        for dtype, flops in product_flops(inner).items():
          total[dtype] += times * flops
  return total


def _grouped(equation: Any) -> int:
  """Operations of a product whose rows each meet the matrix of their group."""
  left, _, sizes = (variable.aval for variable in equation.invars[:3])
  numbers = equation.params['ragged_dot_dimension_numbers']
  (contracted, _), _ = numbers.dot_dimension_numbers
  depth = math.prod(left.shape[axis] for axis in contracted)
  size = math.prod(equation.outvars[0].aval.shape)
  # A sum over the rows of each group: every row is in one result of them all.
  summed = set(numbers.lhs_ragged_dimensions) & set(contracted)
  return 2 * size * depth // (sizes.shape[-1] if summed else 1)


def _times(name: str, params: dict[str, Any]) -> int:
  if name == 'scan':
    return params['length']
  if name == 'shard_map':
    sizes = dict(params['mesh'].shape)
    manual = params.get('manual_axes') or params.get('newly_manual_axes')
    return math.prod(sizes[axis] for axis in manual or sizes)
  return 1


def _programs(params: dict[str, Any]) -> list[Any]:
  """The programs inside an equation; of a loop only its body."""
  found = []
  for key, value in params.items():
    if key == 'cond_jaxpr':
      continue
    leaves = jax.tree.leaves(
      value, is_leaf=lambda v: isinstance(v, (core.ClosedJaxpr, core.Jaxpr))
    )
    for leaf in leaves:
      if isinstance(leaf, core.ClosedJaxpr):
        found.append(leaf.jaxpr)
      elif isinstance(leaf, core.Jaxpr):
        found.append(leaf)
  return found
