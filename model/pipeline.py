"""Layers on consecutive pipeline stages, which rows pass in microbatches.

All stages compute at once, each on another microbatch, and hand on what they
made to the next one ("GPipe", Huang et al. 2019, arXiv 1811.06965): with S
stages and M microbatches a stage is idle in S - 1 of M + S - 1 ticks. Stages
are a leading axis of every array, split over the mesh; a shift along it is what
moves between devices. The backward pass is that of the loop.

Suffixes: B batch, M microbatch, S stage; arrays of the rows of a microbatch
have its rows in front.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from model.axes import AxisRules
from model.context import split_axes

# (parameters of the stage, its number, rows) -> (rows, anything).
Stage = Callable[[Any, jax.Array, Any], tuple[Any, Any]]


def num_stages(rules: AxisRules) -> int:
  """Stages of the surrounding mesh; 1 without one."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return math.prod(sizes[axis] for axis in split_axes('layers', rules))


def outside(rules: AxisRules) -> AxisRules:
  """The rules around a pipeline: its stages split the rows too.

  What follows the layers would else be computed by every stage alike.
  """
  table = dict(rules)
  stages = tuple(a for a in table['layers'] if a not in table['batch'])
  return tuple((table | {'batch': table['batch'] + stages}).items())


def pipeline(
  stage: Stage, stack: Any, rows_B: Any, microbatches: int, rules: AxisRules
) -> tuple[Any, Any]:
  """Takes rows through all layers.

  Args:
    stage: what a stage does with a microbatch. In the ticks in which it has
      none its rows are zeros, and what it returns for them is dropped.
    stack: parameters of all layers, with a leading axis of layers.
    rows_B: arrays of the rows, which all stages need.
    microbatches: they divide the rows, and the stages divide them.
    rules: logical axis to mesh axes; those of 'layers' are the stages.

  Returns:
    The rows as the last stage returns them, split over the stages (`outside`),
    and what else each stage returned for each microbatch, with leading axes
    [M, S].
  """
  axes, S, M = split_axes('layers', rules), num_stages(rules), microbatches
  place = functools.partial(_place, axes)
  stack_S = jax.tree.map(lambda x: place(x.reshape(S, -1, *x.shape[1:])), stack)
  numbers_S = jnp.arange(S)
  run = jax.vmap(stage, spmd_axis_name=axes or None)

  def hand_on(x_S, entering_S):
    first_S = (numbers_S == 0).reshape(-1, *[1] * (x_S.ndim - 1))
    return place(jnp.where(first_S, entering_S, jnp.roll(x_S, 1, axis=0)))

  def tick(rows_S, entering_S):
    rows_S = jax.tree.map(hand_on, rows_S, entering_S)
    rows_S, extra_S = run(stack_S, numbers_S, rows_S)
    rows_S = jax.tree.map(place, rows_S)
    return rows_S, (rows_S, extra_S)

  entering = jax.tree.map(functools.partial(_enter, axes, S, M), rows_B)
  start_S = jax.tree.map(lambda x: jnp.zeros_like(x[0]), entering)
  _, (leaving, extra) = jax.lax.scan(tick, start_S, entering)
  # Stage s has microbatch m in tick m + s.
  extra = jax.tree.map(
    lambda x: x[jnp.arange(M)[:, None] + numbers_S, numbers_S], extra
  )
  return jax.tree.map(functools.partial(_leave, axes, S), leaving), extra


def _place(axes: tuple[str, ...], x: jax.Array, dimension: int = 0):
  """Splits a dimension over the stages; the compiler decides on the others."""
  if not axes:
    return x
  spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
  spec[dimension] = axes
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def _enter(axes: tuple[str, ...], S: int, M: int, x_B: jax.Array) -> jax.Array:
  """What each stage gets from outside in each tick: zeros, but for the first.

  Microbatch m has rows m, m + M, ..., so that each device keeps its own.
  """
  x_M = jnp.moveaxis(x_B.reshape(-1, M, *x_B.shape[1:]), 1, 0)
  padding = [(0, S - 1), (0, S - 1)] + [(0, 0)] * (x_M.ndim - 1)
  return _place(axes, jnp.pad(x_M[:, None], padding), 1)


def _leave(axes: tuple[str, ...], S: int, x_tick_S: jax.Array) -> jax.Array:
  """Rows of the last stage, in the order in which they came."""
  x_M = _place(axes, x_tick_S[S - 1 :, S - 1])
  return jnp.moveaxis(x_M, 0, 1).reshape(-1, *x_M.shape[2:])
