"""Hyperball: matrices keep the norm that they start with.

W <- Norm(W - learning rate * Norm(u) * R) * R, with the update u of any
optimizer and the Frobenius norm R of the initial W (Wen et al. 2026, arXiv
2606.16899). The learning rate is then the angle, nearly, by which a matrix
turns in a step, whatever its size, and there is nothing left for weight decay.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from model.params import Params

# Axes along which matrices are stacked.
STACKED = ('layers', 'experts')


class HyperballState(NamedTuple):
  """State of the last stage of an optimizer.

  Attributes:
    step: steps made.
    radius: Frobenius norm of each matrix, of the parameter's shape but for
      sides of 1; nothing for other parameters.
  """

  step: jax.Array
  radius: Params


def on_hyperballs(
  schedule: optax.Schedule, kinds: Params, axes: Params
) -> optax.GradientTransformation:
  """Turns matrices, and scales other updates, by the learning rate.

  Takes the place of `optax.scale_by_learning_rate`.

  Args:
    schedule: learning rate of each step.
    kinds: kind of each parameter, as declared.
    axes: logical axes of each parameter, as declared.
  """
  # The sides of each matrix; None where a parameter is none.
  sides = jax.tree.map(
    lambda kind, names: _sides(names) if kind == 'matrix' else None, kinds, axes
  )

  def over(function: Any, *trees: Params) -> Params:
    return jax.tree.map(function, kinds, *trees, sides)

  def init(params: Params) -> HyperballState:
    radius = over(
      lambda _, p, s: optax.MaskedNode() if s is None else _norm(p, s), params
    )
    return HyperballState(jnp.zeros([], jnp.int32), radius)

  def update(
    updates: Params, state: HyperballState, params: Params | None = None
  ) -> tuple[Params, HyperballState]:
    assert params is not None
    rate = schedule(state.step)

    def move(_, u, p, radius, s):
      return -rate * u if s is None else _turn(u, p, radius, s, rate)

    moved = over(move, updates, params, state.radius)
    step = optax.safe_increment(state.step)
    return moved, HyperballState(step, state.radius)

  return optax.GradientTransformation(init, update)


def _turn(
  update: jax.Array,
  matrix: jax.Array,
  radius: jax.Array,
  sides: tuple[int, ...],
  rate: jax.Array,
) -> jax.Array:
  """What is added to a matrix; one without an update stays."""
  size = _norm(update, sides)
  there = matrix - rate * radius * update / jnp.where(size > 0, size, 1)
  return there * (radius / _norm(there, sides)) - matrix


def _norm(x: jax.Array, sides: tuple[int, ...]) -> jax.Array:
  return jnp.sqrt(jnp.sum(jnp.square(x), axis=sides, keepdims=True))


def _sides(names: tuple[str | None, ...]) -> tuple[int, ...]:
  return tuple(i for i, name in enumerate(names) if name not in STACKED)
