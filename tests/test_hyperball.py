"""Matrices keep their norm, and turn by the learning rate."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_optimizer
from meshes import on_mesh, rows_on

from train.state import init_state, state_shardings
from train.step import jit_train_step

KIND = test_optimizer.KIND


def hyperball(**overrides):
  fields = {'name': 'sgd', 'momentum': 0.0, 'hyperball': True}
  return test_optimizer.optimizer(**fields | overrides)


def matrices(tree):
  """Arrays [L, rows * columns] of the matrices."""
  return {
    name: np.asarray(tree[name], np.float64).reshape(test_optimizer.LAYERS, -1)
    for name, kind in KIND.items()
    if kind == 'matrix'
  }


def test_a_step_by_hand():
  params, gradients = test_optimizer.arrays(0), test_optimizer.arrays(1)
  (update,) = test_optimizer.updates(hyperball(learning_rate=0.3), gradients)
  found = matrices(optax.apply_updates(params, update))
  slopes = matrices(gradients)
  for name, before in matrices(params).items():
    for layer, matrix in enumerate(before):
      radius = np.linalg.norm(matrix)
      slope = slopes[name][layer] / np.linalg.norm(slopes[name][layer])
      there = matrix - 0.3 * radius * slope
      wanted = radius * there / np.linalg.norm(there)
      np.testing.assert_allclose(
        found[name][layer], wanted, rtol=1e-4, atol=1e-6
      )
  # The rest is what it was.
  plain = test_optimizer.updates(
    hyperball(learning_rate=0.3, hyperball=False), gradients
  )[0]
  for name, kind in KIND.items():
    same = np.array_equal(update[name], plain[name])
    assert same == (kind != 'matrix'), name


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_norms_stay_for_many_steps_and_no_matrix_decays(name):
  optimizer = hyperball(name=name, learning_rate=0.2, weight_decay=0.5)
  params = test_optimizer.arrays(0)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, gradients):
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  for seed in range(20):
    params, state = step(params, state, test_optimizer.arrays(seed + 1))
  before = matrices(test_optimizer.arrays(0))
  for matrix, after in matrices(params).items():
    np.testing.assert_allclose(
      np.linalg.norm(after, axis=1),
      np.linalg.norm(before[matrix], axis=1),
      rtol=1e-5,
    )
    assert not np.allclose(after, before[matrix], atol=0.1)


def test_a_matrix_without_a_gradient_stays():
  params = test_optimizer.arrays(0)
  zeros = jax.tree.map(jnp.zeros_like, params)
  (update,) = test_optimizer.updates(hyperball(weight_decay=0.5), zeros)
  for name, kind in KIND.items():
    if kind == 'matrix':
      np.testing.assert_allclose(update[name], 0, atol=1e-6)


def test_every_expert_has_a_norm_of_its_own():
  recipe = cases.recipe(
    **cases.ARCHITECTURES['moe-shared'], **{'optimizer.hyperball': True}
  )
  params = cases.random_params(recipe)
  radius = recipe.optimizer.init(params)[-1].radius['blocks']['moe']
  assert radius['up'].shape == (2, 4, 1, 1)
  assert radius['router'].shape == (2, 1, 1)
  np.testing.assert_allclose(
    radius['up'][1, 3, 0, 0],
    np.linalg.norm(params['blocks']['moe']['up'][1, 3]),
    rtol=1e-6,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'overrides',
  [
    {'optimizer.hyperball': True},
    {
      'model.parametrization': 'spectral', 'model.tie_embeddings': False,
      'model.base_embed_dim': 8, 'optimizer.name': 'muon',
      'optimizer.hyperball': True,
    },
    {'model.parametrization': 'completep', 'model.base_embed_dim': 8},
  ],
  ids=str,
)  # fmt: skip
def test_a_step_on_a_mesh_is_that_of_one_device(overrides, rows_BR):
  def run(shape):
    # A gradient that is zero but for rounding has no sign that all agree on.
    recipe, mesh = on_mesh(
      shape, **overrides, **{'optimizer.epsilon': 1e-3, 'microbatches': 2}
    )
    shardings = state_shardings(recipe, mesh)
    rows = rows_on(mesh, recipe, rows_BR)
    with jax.set_mesh(mesh):
      state = init_state(recipe, shardings)
      step = jit_train_step(recipe, cases.MARKS, shardings, rows.sharding)
      for _ in range(2):
        state, _ = step(state, rows)
    return jax.device_get(state.params)

  wanted = run({'data': 1})
  found = run({'data': 1, 'stage': 2, 'fsdp': 2, 'tensor': 2})
  cases.assert_trees_close(found, wanted, rtol=1e-3)
