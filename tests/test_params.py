"""Parameters: how many, how they start, and what they cost."""

import functools

import cases
import jax
import jaxprs
import numpy as np
import pytest

from model import flops
from model.params import abstract, count, metadata
from model.transformer import Transformer
from train.state import init_state, make_recipe, state_shardings
from train.step import gradients


def described(**overrides):
  """Configuration, shapes and kinds of a model."""
  config = cases.tiny_train_config(**overrides).model

  def build():
    return Transformer(jax.random.key(0), config)

  return config, abstract(build)[1], metadata(build, 'kind')


# Vocabulary 64, width 32, 2 layers, 4 heads of 8, feed-forward 64, rows of 32.
COUNTS = [
  # Attention, gated feed-forward, two norms; embedding, final norm.
  ({}, 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 64 * 32 + 32),
  (
    {'model.tie_embeddings': False, 'model.num_kv_heads': 1},
    2 * (2 * 32 * 32 + 2 * 32 * 8 + 3 * 32 * 64 + 64) + 2 * 64 * 32 + 32,
  ),
  (
    {'model.mlp': 'gelu', 'model.norm': 'layer', 'model.use_bias': True,
     'model.positions': 'learned'},
    2 * (4 * 32 * 32 + 4 * 32 + 2 * 32 * 64 + 64 + 32 + 4 * 32)
    + 64 * 32 + 32 * 32 + 64,
  ),
  (
    {'model.qk_norm': True, 'model.head_dim': 16, 'model.num_layers': 5},
    5 * (4 * 32 * 64 + 3 * 32 * 64 + 2 * 32 + 2 * 16) + 64 * 32 + 32,
  ),
]  # fmt: skip


@pytest.mark.parametrize(('overrides', 'wanted'), COUNTS)
def test_the_number_of_parameters(overrides, wanted):
  assert count(described(**overrides)[1]) == wanted


@pytest.mark.parametrize('name', cases.ARCHITECTURES)
def test_matmul_parameters_are_matrices_and_the_head(name):
  config, shapes, kinds = described(**cases.ARCHITECTURES[name])
  sizes = {'matrix': 0, 'head': 0}
  kind_of = cases.leaves(kinds)
  moe = config.moe
  for path, leaf in cases.leaves(shapes).items():
    size = leaf.size
    if path.rpartition('.')[0] == 'blocks.moe' and leaf.ndim == 4:
      # A token meets some of the experts.
      size = size * moe.experts_per_token // moe.num_experts
    if kind_of[path] in sizes:
      sizes[kind_of[path]] += size
  if config.tie_embeddings:
    assert sizes['head'] == 0
    sizes['head'] = shapes['embedding'].size
  assert flops.matmul_parameters(config) == sizes['matrix'] + sizes['head']


def test_kinds_and_axes_name_every_parameter():
  overrides = cases.ARCHITECTURES['learned-layer-bias-gelu'] | {
    'model.qk_norm': True, 'model.tie_embeddings': False,
  }  # fmt: skip
  _, shapes, kinds = described(**overrides)
  axes = cases.recipe(**overrides).axes
  wanted = {'weight': 'matrix', 'scale': 'norm', 'bias': 'bias'}
  for path, kind in cases.leaves(kinds).items():
    name = path.rpartition('.')[2]
    special = {
      'embedding': 'embedding',
      'positions': 'embedding',
      'head': 'head',
    }
    assert kind == (wanted | special)[name], path
  sizes = {
    'layers': 2, 'embed': 32, 'heads': 4, 'kv_heads': 4, 'head_dim': 8,
    'mlp': 64, 'vocab': 64, 'length': 32,
  }  # fmt: skip
  for path, leaf in cases.leaves(shapes).items():
    names = functools.reduce(lambda node, key: node[key], path.split('.'), axes)
    for size, name in zip(leaf.shape, names, strict=True):
      assert name is None or sizes[name] == size, path
    assert (names[0] == 'layers') == path.startswith('blocks.')


@pytest.mark.parametrize(
  ('length', 'window', 'wanted'),
  [(4, None, 2.5), (4, 2, 7 / 4), (4, 1, 1.0), (4, 4, 2.5), (4, 9, 2.5),
   (5, 3, 12 / 5)],
)  # fmt: skip
def test_mean_context(length, window, wanted):
  config = cases.tiny_train_config(
    **{'sequence_length': length, 'model.sliding_window': window,
       'loss.chunk': length}
  ).model  # fmt: skip
  assert flops.mean_context(config) == pytest.approx(wanted)


@pytest.mark.parametrize(
  'overrides',
  [{}, cases.ARCHITECTURES['learned-layer-bias-gelu'],
   cases.ARCHITECTURES['mqa-window-untied'] | {'model.scan_layers': False},
   {'model.head_dim': 16, 'model.num_layers': 3, 'loss.chunk': 32},
   cases.ARCHITECTURES['moe-shared']],
)  # fmt: skip
def test_flops_are_those_of_the_traced_program(overrides, rows_BR):
  recipe = cases.recipe(**overrides)
  config = recipe.config.model
  jaxpr = jax.make_jaxpr(
    functools.partial(gradients, recipe=recipe, marks=cases.MARKS)
  )(cases.random_params(recipe), rows_BR, jax.random.key(0))
  # The program multiplies scores that the mask then hides: 32 for each token
  # in place of those it sees. Forward and twice backward, scores and sum.
  hidden = 32 - flops.mean_context(config)
  scores = 12 * config.num_layers * config.num_heads * config.head_dim
  wanted = flops.training_flops_per_token(config) + scores * hidden
  assert jaxprs.matmul_flops(jaxpr.jaxpr) == pytest.approx(8 * 32 * wanted)


@pytest.fixture(scope='module')
def initial():
  recipe = cases.recipe(
    **{'model.num_layers': 8, 'model.init_std': 0.05,
       'model.tie_embeddings': False, 'model.positions': 'learned',
       'model.use_bias': True, 'model.norm': 'layer'}
  )  # fmt: skip
  mesh = cases.mesh_of(recipe, 1)
  return cases.leaves(init_state(recipe, state_shardings(recipe, mesh)).params)


def test_initial_values_have_the_configured_spread(initial):
  for path, leaf in initial.items():
    values = np.asarray(leaf)
    assert values.dtype == np.float32
    if path.endswith('scale'):
      assert (values == 1).all()
    elif path.endswith('bias'):
      assert (values == 0).all()
    else:
      residual = path.endswith(('out.weight', 'down.weight'))
      std = 0.05 / (2 * 8) ** 0.5 if residual else 0.05
      # The error of a spread from n values is 1 / sqrt(2 n) of it.
      error = 5 / (2 * values.size) ** 0.5
      np.testing.assert_allclose(values.std(), std, rtol=error, err_msg=path)
      np.testing.assert_allclose(
        values.mean(), 0, atol=5 * std / values.size**0.5, err_msg=path
      )


def test_no_two_parameters_and_no_two_layers_start_alike(initial):
  spread = [
    (path, layer)
    for path, leaf in initial.items()
    if not path.endswith(('scale', 'bias'))
    for layer in (leaf if path.startswith('blocks.') else [leaf])
  ]
  assert len(spread) == 7 * 8 + 3
  starts = [
    np.asarray(leaf).ravel()[:64] / np.asarray(leaf).std() for _, leaf in spread
  ]
  correlation = np.corrcoef(np.stack(starts)) - np.eye(len(starts))
  # 0.125 is the standard deviation for 64 independent values.
  assert np.abs(correlation).max() < 0.7


def test_a_recipe_makes_no_array_and_a_state_starts_at_zero():
  recipe = make_recipe(cases.tiny_train_config())
  state = jax.eval_shape(recipe.init)
  assert not any(
    isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(recipe.graphdef)
  )
  assert state.ema is None
  assert state.step.shape == ()
