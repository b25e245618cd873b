"""Optimizers on a handful of parameters, and on a fixed batch."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model.params import KINDS
from train.optimizer import OPTIMIZERS, make_optimizer
from train.parametrization import Parametrization
from train.state import init_state, state_shardings
from train.step import gradients

LAYERS, D, F, N, H = 2, 6, 10, 3, 4

SHAPES = {
  'up': ((LAYERS, D, F), ('layers', 'embed', 'mlp'), 'matrix'),
  'query': (
    (LAYERS, D, N, H), ('layers', 'embed', 'heads', 'head_dim'), 'matrix',
  ),
  'out': (
    (LAYERS, N, H, D), ('layers', 'heads', 'head_dim', 'embed'), 'matrix',
  ),
  'scale': ((LAYERS, D), ('layers', None), 'norm'),
  'bias': ((LAYERS, F), ('layers', 'mlp'), 'bias'),
  'embedding': ((12, D), ('vocab', 'embed'), 'embedding'),
  'head': ((12, D), ('vocab', 'embed'), 'head'),
}  # fmt: skip
AXES = {name: axes for name, (_, axes, _) in SHAPES.items()}
KIND = {name: kind for name, (_, _, kind) in SHAPES.items()}

every_optimizer = pytest.mark.parametrize('name', OPTIMIZERS)


def arrays(seed):
  generator = np.random.default_rng(seed)
  return {
    name: jnp.asarray(generator.standard_normal(shape), jnp.float32)
    for name, (shape, _, _) in SHAPES.items()
  }


STANDARD = Parametrization()


def optimizer(parametrization=STANDARD, **overrides):
  fields = {
    'learning_rate': 0.5, 'warmup_steps': 0, 'weight_decay': 0.0,
    'clip_norm': None,
  }  # fmt: skip
  config = cases.tiny_train_config(
    **{f'optimizer.{k}': v for k, v in (fields | overrides).items()},
    **{'model.tie_embeddings': False},
  ).optimizer
  schedule = optax.constant_schedule(config.learning_rate)
  return make_optimizer(config, parametrization, schedule, KIND, AXES)


def updates(transformation, *gradients, params=None):
  """The updates of several steps with unchanged parameters."""
  params = arrays(0) if params is None else params

  @jax.jit
  def run(gradients):
    state, found = transformation.init(params), []
    for gradient in gradients:
      update, state = transformation.update(gradient, state, params)
      found.append(update)
    return found

  return run(gradients)


def test_there_is_a_parameter_of_every_kind():
  assert set(KIND.values()) == set(KINDS)


@every_optimizer
@pytest.mark.parametrize('decay_kinds', [('matrix', 'head'), ('norm',), ()])
def test_exactly_the_decaying_kinds_shrink(name, decay_kinds):
  params = arrays(0)
  zeros = jax.tree.map(jnp.zeros_like, params)
  (update,) = updates(
    optimizer(name=name, weight_decay=0.1, decay_kinds=decay_kinds), zeros
  )
  new = optax.apply_updates(params, update)
  for parameter, value in params.items():
    if KIND[parameter] in decay_kinds:
      np.testing.assert_allclose(
        new[parameter], value - 0.5 * 0.1 * value, rtol=1e-6
      )
    else:
      assert cases.same_bits(new[parameter], value)


def test_adamw_by_hand():
  gradients = [arrays(1), arrays(2), arrays(3)]
  found = updates(
    optimizer(
      name='adamw', b1=0.8, b2=0.9, epsilon=1e-3, weight_decay=0.1,
      decay_kinds=('matrix',),
    ),
    *gradients,
  )  # fmt: skip
  for parameter, value in arrays(0).items():
    mean = squares = np.zeros(value.shape)
    for step, gradient in enumerate(gradients, 1):
      g = np.asarray(gradient[parameter], np.float64)
      mean = 0.8 * mean + 0.2 * g
      squares = 0.9 * squares + 0.1 * g**2
      wanted = mean / (1 - 0.8**step)
      wanted /= np.sqrt(squares / (1 - 0.9**step)) + 1e-3
      wanted += 0.1 * np.asarray(value) * (KIND[parameter] == 'matrix')
      np.testing.assert_allclose(
        found[step - 1][parameter], -0.5 * wanted, rtol=1e-4, atol=1e-6
      )


def test_lion_and_sgd_by_hand():
  first, second = arrays(1), arrays(2)
  lion = updates(optimizer(name='lion', b1=0.9, b2=0.8), first, second)
  sgd = updates(optimizer(name='sgd', momentum=0.7), first, second)
  for parameter, g1 in first.items():
    g2 = second[parameter]
    for found, wanted in (
      (lion[0], np.sign(g1)),
      (lion[1], np.sign(0.9 * 0.2 * g1 + 0.1 * g2)),
      (sgd[0], g1),
      (sgd[1], 0.7 * g1 + g2),
    ):
      np.testing.assert_allclose(
        found[parameter], -0.5 * wanted, rtol=1e-5, atol=1e-7
      )


def test_adafactor_follows_the_sign_and_bounds_its_steps():
  larger = jax.tree.map(lambda leaf: 100 * leaf, arrays(2))
  first, second = updates(optimizer(name='adafactor'), arrays(1), larger)
  for parameter, gradient in larger.items():
    for found, g in ((first, arrays(1)[parameter]), (second, gradient)):
      np.testing.assert_array_equal(np.sign(found[parameter]), -np.sign(g))
    # Unbounded, a gradient that grows makes a step above the learning rate.
    size = np.sqrt((np.asarray(second[parameter]) ** 2).mean())
    np.testing.assert_allclose(size, 0.5, rtol=1e-3)


@pytest.mark.parametrize('clip_norm', [0.25, 1e6])
def test_clipping_scales_down_to_the_norm_and_keeps_the_direction(clip_norm):
  gradients = arrays(1)
  (update,) = updates(
    optimizer(name='sgd', learning_rate=1.0, clip_norm=clip_norm), gradients
  )
  norm = float(optax.tree.norm(gradients))
  scale = min(1, clip_norm / norm)
  for parameter, gradient in gradients.items():
    np.testing.assert_allclose(update[parameter], -scale * gradient, rtol=1e-5)
  np.testing.assert_allclose(
    optax.tree.norm(update), min(clip_norm, norm), rtol=1e-5
  )


MATRICES = {'up': (D, F), 'query': (D, N * H), 'out': (N * H, D)}


def test_muon_makes_each_matrix_orthogonal_and_as_large_as_adam_would():
  (update,) = updates(optimizer(name='muon', learning_rate=1.0), arrays(1))
  for parameter, (rows, columns) in MATRICES.items():
    for matrix in np.asarray(update[parameter]).reshape(-1, rows, columns):
      singular = np.linalg.svd(matrix, compute_uv=False)
      size = 0.2 * max(rows, columns) ** 0.5
      # Five Newton-Schulz steps with Jordan's coefficients: 0.7 to 1.2.
      assert singular.min() > 0.65 * size
      assert singular.max() < 1.25 * size
      assert 0.15 < np.sqrt((matrix**2).mean()) < 0.25


def test_muon_goes_downhill():
  gradients = arrays(1)
  (update,) = updates(optimizer(name='muon'), gradients)
  for parameter in MATRICES:
    assert (update[parameter] * gradients[parameter]).sum() < 0


def test_muon_treats_every_layer_by_itself():
  muon = optimizer(name='muon')
  gradients = arrays(1)
  other = {
    name: leaf.at[1].multiply(-3.0).at[1].add(0.5) if name in MATRICES else leaf
    for name, leaf in gradients.items()
  }
  (first,), (second,) = updates(muon, gradients), updates(muon, other)
  for parameter in MATRICES:
    np.testing.assert_allclose(
      first[parameter][0], second[parameter][0], rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(first[parameter][1], second[parameter][1], atol=0.01)


def test_muon_leaves_the_rest_to_adamw():
  gradients = [arrays(1), arrays(2)]
  muon = updates(optimizer(name='muon'), *gradients)
  adamw = updates(optimizer(name='adamw'), *gradients)
  for parameter, kind in KIND.items():
    for found, wanted in zip(muon, adamw, strict=True):
      same = np.allclose(found[parameter], wanted[parameter], rtol=1e-6)
      assert same == (kind != 'matrix'), parameter


@pytest.fixture(scope='module')
def gradient():
  recipe, rows_BR = cases.plain_run()[0], cases.packed_rows()

  @jax.jit
  def of(params):
    grads, sums = gradients(
      params, rows_BR, jax.random.key(0), recipe=recipe, marks=cases.MARKS
    )
    return grads, sums.cross_entropy / sums.tokens

  return of


@every_optimizer
def test_every_optimizer_lowers_the_loss_of_a_batch(name, gradient):
  rate = {'adamw': 0.01, 'lion': 0.003, 'adafactor': 0.01, 'sgd': 0.05}
  recipe = cases.recipe(
    **{
      'optimizer.name': name,
      'optimizer.learning_rate': rate.get(name, 0.01),
      'optimizer.momentum': 0.8,
      'model.num_layers': 1,
    }
  )

  @jax.jit
  def step(grads, opt_state, params):
    update, opt_state = recipe.optimizer.update(grads, opt_state, params)
    return opt_state, optax.apply_updates(params, update)

  params = cases.random_params(recipe)
  opt_state, losses = recipe.optimizer.init(params), []
  for _ in range(10):
    grads, loss = gradient(params)
    losses.append(float(loss))
    opt_state, params = step(grads, opt_state, params)
  assert losses[-1] < losses[0] - 0.4, losses


def test_the_average_starts_at_the_parameters_and_follows_them(rows_BR):
  recipe, step = cases.plain_run()
  # The state as it is made: it can be given up, though two trees are equal.
  state = init_state(recipe, state_shardings(recipe, cases.mesh_of(recipe, 1)))
  average = jax.tree.map(np.array, state.params)
  assert cases.same_bits(state.ema, average)
  for _ in range(3):
    state, _ = step(state, rows_BR)
    average = jax.tree.map(
      lambda old, new: 0.75 * old + 0.25 * np.asarray(new),
      average,
      state.params,
    )
    cases.assert_trees_close(state.ema, average, rtol=1e-6)
  assert state.eval_params is state.ema
  assert state.replace(ema=None).eval_params is state.params
