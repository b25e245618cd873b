"""Numbers of a configuration as inputs of the compiled step.

A number that is baked into a program makes another program of each of its
values. Those below may be arrays instead: one compiled step then serves every
value, and, with a leading axis, many values at a time.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.config import TrainConfig
from train.state import Recipe, with_numbers

# Fields that are numbers of the step and no part of its shape; 'seed' and
# 'steps' are whole numbers, all others float32.
TRACED = (
  'seed', 'steps', 'loss.z_loss', 'model.attention_dropout',
  'model.embedding_dropout', 'model.mlp_dropout', 'model.residual_dropout',
  'model.moe.balance_loss', 'model.moe.router_z_loss', 'optimizer.b1',
  'optimizer.b2', 'optimizer.clip_norm', 'optimizer.decay_steps',
  'optimizer.ema_decay', 'optimizer.embedding_rate', 'optimizer.epsilon',
  'optimizer.final_fraction', 'optimizer.head_rate', 'optimizer.learning_rate',
  'optimizer.momentum', 'optimizer.warmup_steps', 'optimizer.weight_decay',
)  # fmt: skip
_WHOLE = ('seed', 'steps')
# Where one of these is 0 or None, the step leaves something out.
_SWITCHES = tuple(
  field
  for field in TRACED
  if field.endswith(('_dropout', '.clip_norm', '.ema_decay'))
)

Scalars = dict[str, jax.Array]


def scalars_of(config: TrainConfig) -> dict[str, np.ndarray]:
  """The numbers of a run, by field; what is switched off is not among them."""
  found = {field: _get(config, field) for field in TRACED}
  return {
    field: np.asarray(value, np.uint32 if field in _WHOLE else np.float32)
    for field, value in found.items()
    if not (field in _SWITCHES and not value)
  }


def without_scalars(config: TrainConfig) -> TrainConfig:
  """What runs of one compiled step have in common: their bucket.

  Two runs whose results here are equal differ in `scalars_of` only.
  """
  for field in scalars_of(config):
    config = _set(config, field.split('.'), 0.5)
  # The run's last step is written in two places.
  return _set(config, ['optimizer', 'steps'], 0.5)


def bind(recipe: Recipe, scalars: Mapping[str, Any]) -> Recipe:
  """The recipe with numbers of its configuration replaced, unchecked.

  Args:
    recipe: of any run of the bucket.
    scalars: as `scalars_of` gives them, numbers or arrays without axes.
  """
  config = recipe.config
  for field, value in scalars.items():
    config = _set(config, field.split('.'), value)
  if 'steps' in scalars:
    steps = jnp.asarray(scalars['steps'], jnp.float32)
    config = _set(config, ['optimizer', 'steps'], steps)
  return with_numbers(recipe, config)


def _get(config: Any, field: str) -> Any:
  for name in field.split('.'):
    config = getattr(config, name)
  return config


def _set(config: Any, path: list[str], value: Any) -> Any:
  """A copy with another value; what checks values takes no arrays."""
  name, *rest = path
  changed = copy.copy(config)
  if rest:
    value = _set(getattr(config, name), rest, value)
  assert name in {field.name for field in dataclasses.fields(config)}
  object.__setattr__(changed, name, value)
  return changed
