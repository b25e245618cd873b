"""Experts: the same on every mesh, none dropped, and balanced."""

import re

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import run_gradients

from model.axes import partition_spec
from model.grouped import Groups, from_groups, grouped_product, to_groups
from model.params import merge
from train.state import state_shardings
from train.step import jit_train_step

MOE = {
  'model.num_layers': 1,
  'model.moe.num_experts': 4,
  'model.moe.num_shared_experts': 1,
  'model.moe.balance_rate': 0.25,
  'model.moe.balance_loss': 0.3,
  'model.moe.router_z_loss': 0.2,
}
MESHES = [
  pytest.param({'data': 1, 'expert': 4}, marks=pytest.mark.slow),
  {'data': 1, 'expert': 2, 'fsdp': 2, 'tensor': 2},
  pytest.param({'data': 2, 'context': 2, 'tensor': 2}, marks=pytest.mark.slow),
  {'data': 1, 'fsdp': 2, 'expert': 2, 'context': 2},
]


def run(shape, rows_BR, params=None, **overrides):
  return run_gradients(shape, rows_BR, params, **MOE | overrides)


@pytest.fixture(scope='module')
def one_device():
  return run({'data': 1}, cases.packed_rows())


@pytest.mark.parametrize('shape', MESHES, ids=str)
def test_loss_and_gradients_are_those_of_one_device(shape, one_device, rows_BR):
  found = run(shape, rows_BR)
  cases.assert_trees_close(found, one_device, rtol=1e-5)
  grads = cases.leaves(found[0])
  assert float(jnp.abs(grads['blocks.moe.router']).max()) > 0
  assert not np.any(grads['blocks.moe.selection_bias'])


@pytest.mark.parametrize(
  'remat', [pytest.param('projections', marks=pytest.mark.slow), 'full']
)
def test_recomputed_gradients_are_the_same(remat, one_device, rows_BR):
  found = run(MESHES[1], rows_BR, **{'model.remat': remat})
  cases.assert_trees_close(found, one_device, rtol=1e-5)


def test_rules_may_split_experts_otherwise(one_device, rows_BR):
  # Experts over an axis that splits no rows: their devices see all tokens.
  found = run(
    {'data': 1, 'fsdp': 2, 'tensor': 2},
    rows_BR,
    **{
      'mesh.rules.mlp': (), 'mesh.rules.experts': ('tensor',),
      'mesh.rules.embed': (), 'mesh.rules.residual_length': (),
    },
  )  # fmt: skip
  cases.assert_trees_close(found, one_device, rtol=1e-5)


@pytest.mark.parametrize(
  'favourite', [0, pytest.param(3, marks=pytest.mark.slow)]
)
def test_no_token_is_dropped_when_all_choose_alike(favourite, rows_BR):
  """One device holds all the experts that are chosen, the other none."""
  overrides = {'model.moe.experts_per_token': 1}
  params = cases.random_params(cases.recipe(**MOE | overrides))
  bias = params['blocks']['moe']['selection_bias']
  params['blocks']['moe']['selection_bias'] = bias.at[:, favourite].set(9.0)
  wanted = run({'data': 1}, rows_BR, params, **overrides)
  found = run({'data': 1, 'expert': 2}, rows_BR, params, **overrides)
  cases.assert_trees_close(found, wanted, rtol=1e-5)
  load_LE = np.array(found[1].router.load_LE)
  assert (load_LE[:, favourite] == (rows_BR[:, :-1] != cases.PAD).sum()).all()
  assert load_LE.sum() == load_LE[:, favourite].sum()


def test_figures_leave_padding_out(one_device, rows_BR):
  router = one_device[1].router
  tokens = (rows_BR[:, :-1] != cases.PAD).sum()
  np.testing.assert_array_equal(router.load_LE.sum(-1), [2 * tokens])
  padded = np.concatenate([rows_BR, np.full_like(rows_BR, cases.PAD)])
  found = run({'data': 1}, padded, batch_size=16)
  cases.assert_trees_close(found, one_device, rtol=1e-5)


@pytest.mark.slow
def test_slices_of_a_batch_add_up(rows_BR):
  """All but the balancing loss, which is that of each slice."""
  one = {'model.moe.balance_loss': 0.0, 'model.moe.router_z_loss': 0.0}
  whole = run({'data': 1}, rows_BR, **one)
  parts = run({'data': 1}, rows_BR, **one, accumulation_steps=4)
  cases.assert_trees_close(parts[0], whole[0], rtol=1e-5)
  np.testing.assert_array_equal(
    parts[1].router.load_LE, whole[1].router.load_LE
  )


def test_the_balancing_loss_is_one_at_equal_load_and_grows():
  segments_BT = positions_BT = jnp.ones((2, 16), jnp.int32)
  tokens_BT = jax.random.randint(jax.random.key(0), (2, 16), 4, 64)

  def balance(scale, experts_per_token=1):
    recipe = cases.recipe(
      **MOE | {'model.moe.experts_per_token': experts_per_token}
    )
    params = cases.random_params(recipe)
    params['blocks']['moe']['selection_bias'] *= 0
    params['blocks']['moe']['router'] *= scale
    model = merge(recipe.graphdef, params)
    return float(
      model(tokens_BT, segments_BT, positions_BT).routing.balance.mean()
    )

  assert balance(0.0) == pytest.approx(1)
  # All experts for each token: equal load, whatever the scores.
  assert balance(4.0, experts_per_token=4) == pytest.approx(1)
  assert 1 < balance(4.0) < balance(60.0) <= 4


def train(recipe, rows_BR, steps):
  mesh = cases.mesh_of(recipe, 1)
  shardings = state_shardings(recipe, mesh)
  sharding = jax.sharding.NamedSharding(
    mesh, partition_spec(('batch', None), recipe.config.mesh.rules)
  )
  step = jit_train_step(recipe, cases.MARKS, shardings, sharding)
  state, history = jax.device_put(cases.random_state(recipe), shardings), []
  with jax.set_mesh(mesh):
    for _ in range(steps):
      state, metrics = step(state, rows_BR)
      history.append({k: float(v) for k, v in metrics.items()})
  return state, history


def test_the_bias_balances_without_a_loss(rows_BR):
  overrides = MOE | {
    'model.moe.balance_loss': 0.0, 'model.moe.router_z_loss': 0.0,
    'model.moe.balance_rate': 0.02, 'optimizer.learning_rate': 1e-6,
    'optimizer.weight_decay': 0.0,
  }  # fmt: skip
  recipe = cases.recipe(**overrides)
  before = np.array(
    cases.random_params(recipe)['blocks']['moe']['selection_bias']
  )
  state, history = train(recipe, rows_BR, 40)
  moved = np.asarray(state.params['blocks']['moe']['selection_bias']) - before
  steps = moved / 0.02
  np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
  spread = [h['expert_load_max'] - h['expert_load_min'] for h in history]
  assert np.mean(spread[-10:]) < spread[0] / 2, spread


def test_the_loss_balances_and_muon_trains_experts(rows_BR):
  recipe = cases.recipe(
    **MOE | {
      'model.moe.balance_loss': 1.0, 'model.moe.balance_rate': 0.0,
      'optimizer.name': 'muon', 'optimizer.learning_rate': 0.02,
    }
  )  # fmt: skip
  _, history = train(recipe, rows_BR, 20)
  assert history[-1]['loss'] < history[0]['loss'] - 1
  assert history[-1]['balance_loss'] < history[0]['balance_loss']
  assert history[-1]['balance_loss'] < 1.05


def test_grouped_products_round_factors_and_keep_sums():
  generator = np.random.default_rng(0)
  x_MK = jnp.asarray(generator.standard_normal((12, 16)), jnp.bfloat16)
  weight_EKN = jnp.asarray(generator.standard_normal((3, 16, 8)), jnp.float32)
  sizes_E = jnp.array([5, 0, 4], jnp.int32)

  def total(x_MK, weight_EKN):
    y_MN = grouped_product(x_MK, weight_EKN, sizes_E, Groups('bfloat16'))
    return y_MN.astype(jnp.float32).sum(), y_MN

  (x_gradient, gradient), y_MN = jax.grad(total, (0, 1), has_aux=True)(
    x_MK, weight_EKN
  )
  rounded = np.asarray(weight_EKN.astype(jnp.bfloat16), np.float32)
  x = np.asarray(x_MK, np.float32)
  wanted = np.concatenate(
    [x[:5] @ rounded[0], x[5:9] @ rounded[2], np.zeros((3, 8))]
  )
  assert y_MN.dtype == x_gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(y_MN, np.float32), wanted, rtol=0.01)
  assert gradient.dtype == jnp.float32
  np.testing.assert_allclose(
    gradient[:, :, 0], [x[:5].sum(0), 0 * x[0], x[5:9].sum(0)], rtol=1e-5
  )
  assert not np.any(np.asarray(x_gradient[9:], np.float32))


def test_tokens_go_to_their_groups_and_back():
  generator = np.random.default_rng(0)
  x_ND = generator.standard_normal((5, 4)).astype(np.float32)
  y_MD = generator.standard_normal((10, 4)).astype(np.float32)
  order_M = generator.permutation(10)
  inverse_CN = np.argsort(order_M).reshape(2, 5)
  there, back_x = jax.vjp(lambda x: to_groups(x, order_M, inverse_CN), x_ND)
  back, there_y = jax.vjp(lambda y: from_groups(y, order_M, inverse_CN), y_MD)
  np.testing.assert_array_equal(there, np.tile(x_ND, (2, 1))[order_M])
  placed_MD = np.empty_like(y_MD)
  placed_MD[order_M] = y_MD
  wanted_ND = placed_MD[:5] + placed_MD[5:]
  np.testing.assert_allclose(back, wanted_ND, rtol=1e-6)
  # Each is the transpose of the other.
  np.testing.assert_array_equal(back_x(y_MD)[0], back)
  np.testing.assert_array_equal(there_y(x_ND)[0], there)


@pytest.mark.parametrize(
  ('remat', 'again'), [('none', 0), ('projections', 0), ('full', 2)]
)
def test_only_products_into_experts_are_computed_again(remat, again):
  """Three forward, and two for the gradients of each."""
  recipe = cases.recipe(**MOE | {'model.remat': remat})
  tokens_BT = jnp.ones((2, 16), jnp.int32)

  def total(params):
    model = merge(recipe.graphdef, params)
    return model(tokens_BT, tokens_BT, tokens_BT).x_BTD.sum()

  jaxpr = jax.make_jaxpr(jax.grad(total))(cases.random_params(recipe))
  assert str(jaxpr).count('ragged_dot_general[') == 3 + again + 6


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'moe.experts_per_token': 5}, 'experts_per_token = 5; .* = 4'),
    ({'moe.score': 'tanh'}, "model.moe.score is 'tanh'; choose one of"),
    ({'moe.expert_dim': 0}, 'model.moe.expert_dim is 0; it must be above 0'),
    ({'moe.balance_loss': -1.0}, 'model.moe.balance_loss is -1.0'),
    ({'mlp': 'gelu'}, "model.mlp is 'gelu', and experts have gates"),
    ({'use_bias': True}, 'model.use_bias is True.* set it to False'),
    ({'mlp_dropout': 0.1}, 'model.mlp_dropout is 0.1.* set it to 0.0'),
  ],
)
def test_what_experts_do_not_support_is_named(overrides, message):
  with pytest.raises(ValueError, match=message):
    cases.recipe(**MOE | {f'model.{k}': v for k, v in overrides.items()})


def test_experts_that_do_not_divide_are_named():
  recipe = cases.recipe(**MOE | {'mesh.expert': 8})
  with pytest.raises(
    ValueError, match=re.escape("'experts' has 4 entries, which mesh.expert")
  ):
    state_shardings(recipe, cases.mesh_of(recipe, 8))
