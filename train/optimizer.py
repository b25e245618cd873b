"""Optimizers: gradients to updates, by optax.

Every optimizer is the same chain: clip, precondition, decay, learning rate. To
add one, write its preconditioner and enter it in `OPTIMIZERS`.
"""

import math
from collections.abc import Callable

import jax
import optax

from model.params import Params
from train.config import OptimizerConfig, check_choice
from train.hyperball import STACKED, on_hyperballs
from train.parametrization import Factors, Parametrization

# Update size of an orthogonalised matrix, per square root of its larger side,
# that matches AdamW's (Liu et al. 2025, "Muon is scalable", section 2.2).
_MUON_RMS = 0.2


def make_optimizer(
  config: OptimizerConfig,
  parametrization: Parametrization,
  schedule: optax.Schedule,
  kinds: Params,
  axes: Params,
) -> optax.GradientTransformation:
  """Builds the optimizer.

  Weight decay is decoupled (Loshchilov and Hutter 2019): a parameter of a
  decaying kind shrinks by learning_rate * weight_decay in each step, whatever
  its embedding_rate or head_rate.

  Args:
    config: optimizer section.
    parametrization: factors of each parameter.
    schedule: learning rate of each step.
    kinds: kind of each parameter, as declared.
    axes: logical axes of each parameter, as declared.

  Raises:
    ValueError: there is no such optimizer.
  """
  check_choice('optimizer.name', config.name, tuple(OPTIMIZERS))
  factors = jax.tree.map(parametrization.factors, kinds, axes)
  chain = []
  if config.clip_norm is not None:
    chain.append(optax.clip_by_global_norm(config.clip_norm))
  chain += [
    _with_epsilons(OPTIMIZERS[config.name](config, kinds, axes), factors),
    _scale_and_decay(config, kinds, factors),
    on_hyperballs(schedule, kinds, axes)
    if config.hyperball
    else optax.scale_by_learning_rate(schedule),
  ]
  return optax.chain(*chain)


def _with_epsilons(
  preconditioner: optax.GradientTransformation, factors: Params
) -> optax.GradientTransformation:
  """Gives each parameter its own epsilon.

  What Adam makes of g / f with epsilon, it makes of g with f * epsilon.
  """

  def update(gradients, state, params=None):
    gradients = jax.tree.map(
      lambda g, of: _times(g, 1 / of.epsilon), gradients, factors
    )
    return preconditioner.update(gradients, state, params)

  return optax.GradientTransformation(preconditioner.init, update)


def _scale_and_decay(
  config: OptimizerConfig, kinds: Params, factors: Params
) -> optax.GradientTransformation:
  """Multiplies updates by the factors of rates, and adds weight decay."""
  rates = {'embedding': config.embedding_rate, 'head': config.head_rate}
  # On a hyperball there is nothing for it to do.
  kept = ('matrix',) if config.hyperball else ()
  decaying = set(config.decay_kinds).difference(kept)
  if isinstance(config.weight_decay, (int, float)) and not config.weight_decay:
    decaying = set()

  def one(update: jax.Array, param: jax.Array, kind: str, of: Factors):
    update = _times(update, of.learning_rate)
    update = _times(update, rates.get(kind, 1.0))
    if kind not in decaying:
      return update
    decay = _times(config.weight_decay, of.learning_rate * of.weight_decay)
    return update + decay * param

  def apply(updates, params):
    return jax.tree.map(one, updates, params, kinds, factors)

  # Masked for nothing: checkpoints hold the state of add_decayed_weights.
  return optax.masked(
    optax.stateless(apply), jax.tree.map(lambda _: True, kinds)
  )


def _times(value, factor):
  """A product; a factor that is 1 leaves the program as it is."""
  return value if isinstance(factor, float) and factor == 1 else value * factor


def _adamw(config, kinds, axes):
  """Adam (Kingma and Ba 2015)."""
  del kinds, axes
  return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon)


def _lion(config, kinds, axes):
  """Lion (Chen et al. 2023)."""
  del kinds, axes
  return optax.scale_by_lion(b1=config.b1, b2=config.b2)


def _adafactor(config, kinds, axes):
  """Adafactor (Shazeer and Stern 2018), without relative step sizes."""
  del config, kinds, axes
  return optax.chain(
    optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)
  )


def _sgd(config, kinds, axes):
  """Stochastic gradient descent with momentum."""
  del kinds, axes
  return optax.trace(decay=config.momentum)


def _muon(config, kinds, axes):
  """Muon (Jordan et al. 2024) for matrices inside layers, AdamW elsewhere."""
  dimensions = jax.tree.map(
    lambda kind, names: _muon_dimensions(names) if kind == 'matrix' else None,
    kinds,
    axes,
  )
  muon = optax.chain(
    optax.contrib.scale_by_muon(
      beta=config.momentum,
      weight_dimension_numbers=lambda updates: _only_arrays(
        dimensions, updates
      ),
    ),
    _scale_by_larger_side(dimensions),
  )
  parts = jax.tree.map(
    lambda kind: 'matrix' if kind == 'matrix' else 'rest', kinds
  )
  return optax.partition(
    {'matrix': muon, 'rest': _adamw(config, kinds, axes)}, parts
  )


def _muon_dimensions(names: tuple[str | None, ...]):
  """Which axes of a stacked weight make up its rows, and which its columns."""
  inner = [i for i, name in enumerate(names) if name not in STACKED]
  # An attention output reads (heads, head_dim); all others read one axis.
  reads = 2 if names[inner[0]] == 'heads' else 1
  return optax.contrib.MuonDimensionNumbers(
    reduction_axis=tuple(inner[:reads]), output_axis=tuple(inner[reads:])
  )


def _only_arrays(dimensions: Params, updates: Params) -> Params:
  """Dimensions where the update is an array, the update's mask elsewhere."""

  def is_masked(node):
    return isinstance(node, optax.MaskedNode)

  return jax.tree.map(
    lambda update, dimension: update if is_masked(update) else dimension,
    updates,
    dimensions,
    is_leaf=is_masked,
  )


def _scale_by_larger_side(dimensions: Params) -> optax.GradientTransformation:
  """Scales an orthogonal update to the size of AdamW's (Liu et al. 2025)."""

  def scale(update, dimension):
    if isinstance(update, optax.MaskedNode):
      return update
    rows, columns = (
      math.prod(update.shape[i] for i in sides) for sides in dimension
    )
    return update * _MUON_RMS * max(rows, columns) ** 0.5

  def apply(updates, params=None):
    del params
    return jax.tree.map(
      scale,
      updates,
      dimensions,
      is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )

  return optax.stateless(apply)


OPTIMIZERS: dict[
  str,
  Callable[[OptimizerConfig, Params, Params], optax.GradientTransformation],
] = {
  'adamw': _adamw,
  'lion': _lion,
  'adafactor': _adafactor,
  'sgd': _sgd,
  'muon': _muon,
}
