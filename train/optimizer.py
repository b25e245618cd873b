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

# Update size of an orthogonalised matrix, per square root of its larger side,
# that matches AdamW's (Liu et al. 2025, "Muon is scalable", section 2.2).
_MUON_RMS = 0.2


def make_optimizer(
  config: OptimizerConfig,
  schedule: optax.Schedule,
  kinds: Params,
  axes: Params,
) -> optax.GradientTransformation:
  """Builds the optimizer.

  Weight decay is decoupled (Loshchilov and Hutter 2019): a parameter of a
  decaying kind shrinks by learning_rate * weight_decay in each step.

  Args:
    config: optimizer section.
    schedule: learning rate of each step.
    kinds: kind of each parameter, as declared.
    axes: logical axes of each parameter, as declared.

  Raises:
    ValueError: there is no such optimizer.
  """
  decays = jax.tree.map(lambda kind: kind in config.decay_kinds, kinds)
  check_choice('optimizer.name', config.name, tuple(OPTIMIZERS))
  chain = []
  if config.clip_norm is not None:
    chain.append(optax.clip_by_global_norm(config.clip_norm))
  chain += [
    OPTIMIZERS[config.name](config, kinds, axes),
    optax.add_decayed_weights(config.weight_decay, mask=decays),
    optax.scale_by_learning_rate(schedule),
  ]
  return optax.chain(*chain)


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
  inner = [
    i for i, name in enumerate(names) if name not in ('layers', 'experts')
  ]
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
