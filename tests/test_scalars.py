"""Numbers of a configuration as inputs of the step: nothing else changes."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.scalars import TRACED, bind, scalars_of, without_scalars
from train.step import train_step

# All that has a number is on.
EVERYTHING = {
  'model.num_layers': 1,
  'model.embedding_dropout': 0.1,
  'model.attention_dropout': 0.1,
  'model.residual_dropout': 0.1,
  'model.mlp_dropout': 0.2,
  'loss.z_loss': 1e-3,
  'optimizer.ema_decay': 0.9,
  'optimizer.clip_norm': 0.5,
}
# Other values of some of them.
OTHERS = {
  'seed': 7,
  'steps': 30,
  'loss.z_loss': 3e-3,
  'model.mlp_dropout': 0.3,
  'optimizer.learning_rate': 0.02,
  'optimizer.weight_decay': 0.3,
  'optimizer.b2': 0.99,
  'optimizer.warmup_steps': 3,
  'optimizer.clip_norm': 0.1,
  'optimizer.final_fraction': 0.3,
}
BATCHES = [cases.packed_rows(seed=seed) for seed in range(3)]


def losses_and_state(step, state):
  losses = []
  for rows_BR in BATCHES:
    state, metrics = step(state, rows_BR)
    losses.append(np.asarray(metrics['loss']))
  return np.array(losses), state


def alone(recipe):
  step = functools.partial(train_step, recipe=recipe, marks=cases.MARKS)
  return losses_and_state(jax.jit(step), jax.jit(recipe.init)())


@pytest.mark.parametrize(
  'name',
  [
    'adamw',
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ('muon', 'lion', 'sgd', 'adafactor')
    ),
  ],
)
def test_runs_side_by_side_are_what_they_are_alone(name):
  fixed = EVERYTHING | {'optimizer.name': name}
  recipes = [cases.recipe(**fixed), cases.recipe(**fixed | OTHERS)]
  scalars = [scalars_of(recipe.config) for recipe in recipes]
  scalars_K = {
    field: jnp.stack([s[field] for s in scalars]) for field in scalars[0]
  }

  def init(scalars):
    return bind(recipes[0], scalars).init()

  def step(state, rows_BR, scalars):
    recipe = bind(recipes[0], scalars)
    return train_step(state, rows_BR, recipe=recipe, marks=cases.MARKS)

  together = jax.jit(jax.vmap(step, in_axes=(0, None, 0)))
  losses_SK, state_K = losses_and_state(
    lambda state, rows_BR: together(state, rows_BR, scalars_K),
    jax.jit(jax.vmap(init))(scalars_K),
  )
  for k, recipe in enumerate(recipes):
    losses_S, state = alone(recipe)
    np.testing.assert_allclose(losses_SK[:, k], losses_S, rtol=1e-5)
    mine = jax.tree.map(lambda x_K, k=k: x_K[k], state_K)
    cases.assert_trees_close(mine.params, state.params, rtol=1e-3)
    cases.assert_trees_close(mine.ema, state.ema, rtol=1e-3)


def test_runs_that_differ_in_numbers_share_a_bucket():
  config = cases.recipe(**EVERYTHING).config
  other = cases.recipe(**EVERYTHING | OTHERS).config
  assert config != other
  assert without_scalars(config) == without_scalars(other)
  assert hash(without_scalars(config)) == hash(without_scalars(other))


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('model.num_layers', 2), ('model.mlp_dropout', 0.0), ('batch_size', 4),
    ('optimizer.name', 'muon'), ('optimizer.clip_norm', None),
    ('optimizer.ema_decay', None), ('optimizer.schedule', 'linear'),
  ],
)  # fmt: skip
def test_what_shapes_the_program_opens_a_bucket_of_its_own(field, value):
  one = cases.recipe(**EVERYTHING).config
  other = cases.recipe(**EVERYTHING | {field: value}).config
  assert without_scalars(one) != without_scalars(other)


def test_every_traced_field_is_there_and_what_is_off_is_not():
  on = scalars_of(cases.recipe(**EVERYTHING).config)
  assert set(on) == set(TRACED)
  off = scalars_of(cases.recipe(**{'optimizer.clip_norm': None}).config)
  assert set(TRACED) - set(off) == {
    'model.embedding_dropout', 'model.attention_dropout',
    'model.residual_dropout', 'model.mlp_dropout', 'optimizer.clip_norm',
    'optimizer.ema_decay',
  }  # fmt: skip


@pytest.mark.parametrize('schedule', ['constant', 'linear', 'cosine', 'wsd'])
def test_one_schedule_serves_all_lengths(schedule):
  fixed = {'optimizer.schedule': schedule, 'optimizer.decay_steps': 4}
  recipe = cases.recipe(**fixed)
  traced = jax.jit(lambda s, step: bind(recipe, s).schedule(step))
  for steps, warmup in ((20, 0), (20, 5), (12, 1), (30, 12)):
    other = cases.recipe(
      **fixed, **{'steps': steps, 'optimizer.warmup_steps': warmup}
    )
    for step in (0, 1, warmup, steps // 2, steps - 1, steps):
      np.testing.assert_allclose(
        traced(scalars_of(other.config), step), other.schedule(step), rtol=1e-6
      )
  assert traced._cache_size() == 1
