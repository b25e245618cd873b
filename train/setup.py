"""All that a command needs before it touches data or weights, checked."""

import dataclasses
from typing import TYPE_CHECKING

from jax.sharding import Mesh, NamedSharding

from train.config import TrainConfig
from train.mesh import batch_sharding, make_mesh
from train.rows import Marks
from train.state import Recipe, TrainState, make_recipe, state_shardings

if TYPE_CHECKING:
  from input_pipeline.store import Manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """A run's static description: what is computed, and where it lies."""

  config: TrainConfig
  recipe: Recipe
  marks: Marks
  mesh: Mesh
  shardings: TrainState
  batch_sharding: NamedSharding
  evaluation_sharding: NamedSharding


def make_setup(config: TrainConfig, manifest: 'Manifest') -> Setup:
  """Fits the model to the data and lays both out on the devices.

  Raises:
    ValueError: the vocabulary, the batch or a parameter does not fit; the
      message names the field to change.
  """
  if config.model.vocab_size < manifest.tokenizer.vocab_size:
    raise ValueError(
      f'model.vocab_size = {config.model.vocab_size} is smaller than the '
      f"tokenizer's vocabulary of {manifest.tokenizer.vocab_size}. Set "
      f'model.vocab_size to {-(-manifest.tokenizer.vocab_size // 128) * 128}.'
    )
  mesh = make_mesh(config.mesh)
  rules = config.mesh.rules
  slices = config.accumulation_steps
  # The devices split one slice of the batch; the whole batch then fits too.
  batch_sharding(
    mesh,
    rules,
    batch_size=config.batch_size // slices,
    field='batch_size' if slices == 1 else 'batch_size / accumulation_steps',
  )
  recipe = make_recipe(config)
  return Setup(
    config=config,
    recipe=recipe,
    marks=Marks(
      pad_id=manifest.tokenizer.pad_id,
      bos_id=manifest.tokenizer.bos_id,
      continue_id=manifest.tokenizer.continue_id,
    ),
    mesh=mesh,
    shardings=state_shardings(recipe, mesh),
    batch_sharding=batch_sharding(
      mesh, rules, batch_size=config.batch_size, field='batch_size'
    ),
    evaluation_sharding=batch_sharding(
      mesh,
      rules,
      batch_size=config.evaluation_batch_size,
      field='evaluation.batch_size',
    ),
  )
