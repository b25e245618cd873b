"""The step: accumulation, recomputation, dropout, precision, bad numbers."""

import functools
import re

import cases
import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest

from model import layers
from model.loss import cross_entropy
from train.rows import COUNTS
from train.state import dropout_key
from train.step import eval_step, gradients, loss_fn, train_step

DROPOUTS = ('embedding', 'attention', 'residual', 'mlp')


def run_gradients(rows_BR, **overrides):
  recipe = cases.recipe(**overrides)
  function = functools.partial(gradients, recipe=recipe, marks=cases.MARKS)
  params = cases.random_params(recipe)
  return jax.jit(function)(params, rows_BR, jax.random.key(0))


@pytest.fixture(scope='module')
def plain_gradients():
  return run_gradients(cases.packed_rows())


@pytest.mark.parametrize('slices', [2, 4])
def test_slices_of_a_batch_sum_to_the_whole(slices, rows_BR, plain_gradients):
  valid_B = (rows_BR[:, 1:] > cases.CONTINUE).sum(1)
  parts = {int(valid_B[a::slices].sum()) for a in range(slices)}
  assert len(parts) == slices
  found = run_gradients(rows_BR, accumulation_steps=slices)
  cases.assert_trees_close(found, plain_gradients)
  assert found[1].tokens == valid_B.sum()


@pytest.mark.parametrize(
  'overrides',
  [{'model.remat': 'products'}, {'model.remat': 'projections'},
   {'model.remat': 'attention'}, {'model.remat': 'full'},
   {'model.scan_layers': False}],
  ids=lambda overrides: '-'.join(str(v) for v in overrides.values()),
)  # fmt: skip
def test_how_layers_are_run_does_not_change_the_gradients(
  overrides, rows_BR, plain_gradients
):
  cases.assert_trees_close(run_gradients(rows_BR, **overrides), plain_gradients)


def test_what_unrolled_layers_compute_again_stands_behind_barriers(rows_BR):
  def barriers(scan):
    recipe = cases.recipe(**{'model.scan_layers': scan})
    function = functools.partial(gradients, recipe=recipe, marks=cases.MARKS)
    lowered = jax.jit(function).lower(
      cases.random_params(recipe), rows_BR, jax.random.key(1)
    )
    return lowered.as_text().count('optimization_barrier')

  # Without them, a compiler that sees both passes keeps the float32 values.
  assert barriers(scan=False) > barriers(scan=True)


def saved(rows_BR, **overrides):
  """Shapes of what the forward pass keeps for each layer."""
  recipe = cases.recipe(**overrides)

  def pullback(params):
    loss = functools.partial(loss_fn, recipe=recipe, marks=cases.MARKS)
    return jax.vjp(lambda p: loss(p, rows_BR, None)[0], params)[1]

  arrays = jax.eval_shape(pullback, cases.random_params(recipe))
  return sorted(
    array.shape
    for array in jax.tree.leaves(arrays)
    if array.shape[:3] == (3, 8, 32)
  )


def test_rematerialisation_keeps_what_its_name_says(rows_BR):
  full, attention, projections, products, none = (
    saved(rows_BR, **{'model.num_layers': 3, 'model.remat': remat})
    for remat in ('full', 'attention', 'projections', 'products', 'none')
  )
  # Layers, batch, positions; width 32, 4 heads of 8, feed-forward 64.
  x, heads, wide = (3, 8, 32, 32), (3, 8, 32, 4, 8), (3, 8, 32, 64)
  assert full == [x]
  assert attention == sorted([x] + [heads] * 4)
  assert projections == sorted([x] + [heads] * 3 + [x] + [wide] * 2)
  assert products == sorted([*projections, heads])
  assert sum(map(np.prod, none)) > sum(map(np.prod, products))


def test_the_step_never_makes_the_logits_of_the_whole_batch(rows_BR):
  sizes = {}
  for chunk in (8, 32):
    recipe = cases.recipe(**{'model.vocab_size': 1024, 'loss.chunk': chunk})
    jaxpr = jax.make_jaxpr(
      functools.partial(train_step, recipe=recipe, marks=cases.MARKS)
    )(jax.eval_shape(recipe.init), rows_BR)
    sizes[chunk] = jaxprs.largest_array(jaxpr.jaxpr)
  assert sizes == {8: 8 * 8 * 1024, 32: 8 * 32 * 1024}


def test_the_loss_is_the_mean_over_tokens_that_are_predicted(rows_BR):
  recipe, step = cases.plain_run()
  params = cases.random_params(recipe)
  state, metrics = step(cases.random_state(recipe), rows_BR)
  inputs_BT, targets_BT = rows_BR[:, :-1], rows_BR[:, 1:]
  weights_BT = (targets_BT > cases.CONTINUE).astype(np.float32)
  index_BT = np.tile(np.arange(32), (8, 1))
  starts = np.isin(inputs_BT, [cases.PAD, cases.BOS, cases.CONTINUE])
  x_BTD = jax.jit(functools.partial(cases.hidden_states, recipe))(
    params,
    inputs_BT,
    jnp.where(inputs_BT == 0, 0, np.cumsum(starts, 1)),
    index_BT - np.maximum.accumulate(np.where(starts, index_BT, 0), 1),
  )
  sums = cross_entropy(
    x_BTD, params['embedding'], targets_BT, weights_BT, z_loss=0.01, chunk=32,
    compute_dtype='float32',
  )  # fmt: skip
  tokens = weights_BT.sum()
  assert metrics['tokens'] == tokens
  np.testing.assert_allclose(metrics['loss'], sums[1] / tokens, rtol=1e-5)
  np.testing.assert_allclose(
    metrics['z_loss'], 0.01 * sums[2] / tokens, rtol=1e-5
  )
  assert not metrics['bad']
  assert state.step == 1


def as_augmented(rows_BR):
  """The rows as an augmented batch in which nothing is changed."""
  counts_BT = rows_BR[:, 1:] > cases.CONTINUE
  return {
    'inputs': rows_BR[:, :-1],
    'targets': rows_BR[:, 1:],
    'flags': counts_BT.astype(np.uint8) * COUNTS,
  }


@pytest.mark.parametrize('slices', [1, 2])
def test_an_augmented_batch_goes_the_same_way(slices, rows_BR, plain_gradients):
  found = run_gradients(as_augmented(rows_BR), accumulation_steps=slices)
  cases.assert_trees_close(found, plain_gradients)


# Dropout.


def test_dropout_keeps_the_scale():
  x = jnp.ones((100, 1000))
  keys = layers.RowKeys(jax.random.key(0), jnp.arange(100), {'mlp': 0.25})
  y = np.asarray(layers.dropout(x, 'mlp', keys))
  np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
  # The standard deviation of the mean is 0.002.
  np.testing.assert_allclose(y.mean(), 1, atol=0.01)
  assert layers.dropout(x, 'residual', keys) is x
  assert layers.dropout(x, 'mlp', None) is x


def test_masks_are_a_function_of_seed_and_step(rows_BR):
  values = set()
  for name in DROPOUTS:
    recipe = cases.recipe(
      **{f'model.{name}_dropout': 0.3, 'model.num_layers': 1}
    )
    jitted = jax.jit(
      functools.partial(loss_fn, recipe=recipe, marks=cases.MARKS)
    )
    params, rows = cases.random_params(recipe), jnp.arange(8)
    rates = recipe.config.model.dropout_rates
    losses = [
      float(jitted(params, rows_BR, layers.RowKeys(key, rows, rates))[0])
      for key in (
        dropout_key(seed, jnp.asarray(step))
        for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
      )
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    values.update(losses)
  # Without dropout the four would agree.
  assert len(values) == 3 * len(DROPOUTS)


def test_evaluation_has_no_dropout(rows_BR):
  def program(rate):
    rates = {f'model.{name}_dropout': rate for name in DROPOUTS}
    recipe = cases.recipe(**rates)
    evaluate = functools.partial(eval_step, recipe=recipe, marks=cases.MARKS)
    train = functools.partial(train_step, recipe=recipe, marks=cases.MARKS)
    params, state = cases.random_params(recipe), jax.eval_shape(recipe.init)
    return (
      str(jax.make_jaxpr(evaluate)(params, rows_BR)),
      str(jax.make_jaxpr(train)(state, rows_BR)),
    )

  (plain_evaluation, plain_training), (evaluation, training) = (
    program(rate) for rate in (0.0, 0.3)
  )
  assert evaluation == plain_evaluation
  assert training != plain_training
  assert 'random_bits' not in evaluation


def test_every_site_of_every_layer_has_a_mask_of_its_own():
  recipe = cases.recipe(
    **{'model.use_bias': True, 'model.residual_dropout': 0.5}
  )
  # Each of the two sites of both layers adds ones, where its mask lets it.
  params = jax.tree.map(jnp.zeros_like, cases.random_params(recipe))
  for site in (
    params['blocks']['attention']['out'],
    params['blocks']['mlp']['down'],
  ):
    site['bias'] += 1
  params['final_norm']['scale'] += 1
  ones_BT = jnp.ones((8, 32), jnp.int32)
  model = cases.merge(recipe.graphdef, params)
  rates = recipe.config.model.dropout_rates
  keys = layers.RowKeys(jax.random.key(0), jnp.arange(8), rates)
  x_BTD, *_ = model(ones_BT, ones_BT, ones_BT, dropout_keys=keys)
  x_PD = np.asarray(x_BTD).reshape(256, 32)
  smallest_P1 = np.where(x_PD > 0, x_PD, np.inf).min(1, keepdims=True)
  counts_PD = x_PD / smallest_P1
  np.testing.assert_allclose(counts_PD, counts_PD.round(), atol=1e-3)
  shares = np.bincount(counts_PD.round().astype(int).ravel()) / counts_PD.size
  # Binomial: the standard deviation of the shares is below 0.006.
  np.testing.assert_allclose(shares, np.array([1, 4, 6, 4, 1]) / 16, atol=0.03)


def test_rows_have_masks_of_their_own_however_the_batch_is_cut():
  # Rows that are all alike: only their masks tell them apart.
  rows_BR = np.repeat(cases.packed_rows(batch=1), 4, axis=0)

  def run(rows, slices):
    return run_gradients(
      rows_BR[:rows],
      batch_size=rows,
      accumulation_steps=slices,
      **{f'model.{name}_dropout': 0.3 for name in DROPOUTS},
    )

  one, whole = run(1, 1), run(4, 1)
  assert abs(whole[1].cross_entropy / (4 * one[1].cross_entropy) - 1) > 1e-5
  cases.assert_trees_close(run(4, 2), whole)


# Precision.


def test_bfloat16_trains_float32_weights(rows_BR):
  losses = {}
  for dtype in ('float32', 'bfloat16'):
    recipe, step = cases.plain_run(dtype)
    state, losses[dtype] = cases.random_state(recipe), []
    for _ in range(10):
      state, metrics = step(state, rows_BR)
      losses[dtype].append(float(metrics['loss']))
    for leaf in jax.tree.leaves(state):
      assert leaf.dtype in (jnp.float32, jnp.int32)
  # A bfloat16 has 8 bits: 0.4 percent.
  np.testing.assert_allclose(
    losses['bfloat16'][0], losses['float32'][0], rtol=0.004
  )
  np.testing.assert_allclose(losses['bfloat16'], losses['float32'], rtol=0.02)
  assert losses['bfloat16'][-1] < losses['bfloat16'][0] - 0.5
  assert losses['bfloat16'] != losses['float32']


BFLOAT16 = {
  'model.compute_dtype': 'bfloat16',
  'model.qk_norm': True,
  'model.attention_softcap': 5.0,
  'model.logits_softcap': 5.0,
  'loss.z_loss': 0.01,
}


def test_gradients_of_bfloat16_are_float32_and_unrounded(rows_BR):
  recipe = cases.recipe(**BFLOAT16, **{'model.tie_embeddings': False})
  # Of the sum: to divide it by the tokens would hide that it was rounded.
  loss = functools.partial(loss_fn, recipe=recipe, marks=cases.MARKS)
  grads, _ = jax.jit(jax.grad(loss, has_aux=True))(
    cases.random_params(recipe), rows_BR, None
  )
  grads = cases.leaves(grads)
  # The sum of one or of a few rows of what flows back in bfloat16.
  assert grads.pop('embedding').dtype == jnp.float32
  for path, leaf in grads.items():
    assert leaf.dtype == jnp.float32
    rounded = leaf.astype(jnp.bfloat16).astype(jnp.float32)
    assert (np.asarray(rounded) != np.asarray(leaf)).mean() > 0.5, path


def test_gradients_of_matrices_can_be_summed_in_bfloat16(rows_BR):
  for experts in (0, 4):
    recipe = cases.recipe(
      **BFLOAT16,
      **{'model.gradient_dtype': 'bfloat16', 'model.moe.num_experts': experts},
    )
    loss = functools.partial(loss_fn, recipe=recipe, marks=cases.MARKS)
    # The compiler may leave roundings out unless told.
    grads, _ = jax.jit(
      jax.grad(loss, has_aux=True),
      compiler_options={'xla_allow_excess_precision': False},
    )(cases.random_params(recipe), rows_BR, None)
    for path, leaf in cases.leaves(grads['blocks']).items():
      assert leaf.dtype == jnp.float32
      rounded = leaf.astype(jnp.bfloat16).astype(jnp.float32)
      same = (np.asarray(rounded) == np.asarray(leaf)).mean()
      assert (same == 1) == ('norm' not in path and 'router' not in path), path


@pytest.mark.parametrize('remat', ['none', 'full'])
def test_every_matrix_product_of_a_bfloat16_step_takes_bfloat16(remat, rows_BR):
  recipe = cases.recipe(**BFLOAT16, **{'model.remat': remat})
  text = (
    jax.jit(functools.partial(train_step, recipe=recipe, marks=cases.MARKS))
    .lower(jax.eval_shape(recipe.init), rows_BR)
    .as_text()
  )
  operands = re.findall(
    r'dot_general.*: \(tensor<[\dx]*(\w+)>, tensor<[\dx]*(\w+)>\)', text
  )
  # Nine products a layer, three times (as many again for remat); the head's.
  assert len(operands) == text.count('stablehlo.dot_general') >= 9 * 3 + 3
  assert set(operands) == {('bf16', 'bf16')}


# Numbers that are not finite.


def parts_of(state):
  """What the update of a step changes."""
  return state.params, state.opt_state[:-1], state.ema


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_step_that_is_not_finite_updates_nothing(bad, rows_BR):
  recipe, step = cases.plain_run()
  state, _ = step(cases.random_state(recipe), rows_BR)
  before = jax.tree.map(np.array, state)
  spot = (rows_BR[0, 0], 0)
  good = state.params['embedding'][spot]
  state.params['embedding'] = state.params['embedding'].at[spot].set(bad)
  broken = jax.tree.map(np.array, state)
  state, metrics = step(state, rows_BR)
  assert metrics['bad']
  assert cases.same_bits(parts_of(state), parts_of(broken))
  assert state.step == 2
  state.params['embedding'] = state.params['embedding'].at[spot].set(good)
  assert cases.same_bits(parts_of(state), parts_of(before))
  state, metrics = step(state, rows_BR)
  assert not metrics['bad']
  assert state.step == 3
  changed = jax.tree.map(
    lambda a, b: not np.array_equal(a, b), parts_of(state), parts_of(before)
  )
  assert all(jax.tree.leaves(changed))


def test_a_gradient_that_is_not_finite_is_caught_where_the_loss_is(rows_BR):
  # Zeros have no direction: the gradient of their norm is 1 / sqrt(epsilon),
  # here 5e18, for each norm on the way.
  recipe = cases.recipe(
    **{
      'model.norm_epsilon': 4e-38,
      'model.tie_embeddings': False,
      'optimizer.name': 'sgd',
    }
  )
  state = cases.random_state(recipe)
  state.params['embedding'] *= 0
  before = jax.tree.map(np.array, state)
  state, metrics = cases.one_device_step(recipe)(state, rows_BR)
  assert np.isfinite(metrics['loss'])
  assert not np.isfinite(metrics['grad_norm'])
  assert metrics['bad']
  assert cases.same_bits(parts_of(state), parts_of(before))
