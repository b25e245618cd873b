"""How initial values and updates follow width and depth."""

import dataclasses
import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_optimizer

from train.parametrization import (
  ROLES,
  RULES,
  Factors,
  Parametrization,
  parametrization_of,
  role_of,
  scale_initial,
)
from train.scalars import TRACED, bind, scalars_of
from train.state import make_recipe
from train.step import train_step

# Of a model 4 times as wide and 9 times as deep as the base: factors of initial
# values, learning rate, weight decay, epsilon. CompleteP by table 1 of the
# paper, where initial variances are those of the base.
TABLE = {
  'completep': {
    'embedding': (1, 1, 1, 1 / 4),
    'head': (1, 1, 1, 1 / 4),
    'reads': (1 / 2, 1 / 4, 4, 1 / 36),
    'writes': (3 / 2, 1 / 4, 4, 1 / 36),
    'router': (1 / 2, 1 / 4, 4, 1 / 36),
    'in_layer': (1, 1, 1, 1 / 36),
    'final': (1, 1, 1, 1 / 4),
  },
  'spectral': {
    'embedding': (1, 1, 1, 1 / 4),
    'head': (0, 1, 1, 1 / 4),
    'reads': (1 / 2, 1 / 2, 1 / 2, 1),
    'writes': (3 / 2, 1 / 2, 1 / 2, 1),
    'router': (1 / 2, 1 / 4, 1, 1),
    'in_layer': (1, 1, 1, 1 / 36),
    'final': (1, 1, 1, 1 / 4),
  },
  'standard': dict.fromkeys(ROLES, (1, 1, 1, 1)),
}
WIDER = {'model.base_embed_dim': 8, 'model.base_num_layers': 1}
every = pytest.mark.parametrize('name', RULES)
new = pytest.mark.parametrize('name', [n for n in RULES if n != 'standard'])


def of(name, **overrides):
  """What a run with a parametrization sets."""
  return {
    'model.parametrization': name,
    'model.tie_embeddings': False,
    'optimizer.name': RULES[name].optimizer or 'adamw',
    **overrides,
  }


@every
def test_the_table_is_the_published_one(name):
  rules = RULES[name].factors(4.0, 9.0)
  assert set(rules) == set(ROLES)
  for role, factors in rules.items():
    found = (
      factors.init, factors.learning_rate, factors.weight_decay, factors.epsilon
    )  # fmt: skip
    assert found == pytest.approx(TABLE[name][role]), role


@every
def test_the_base_is_as_it_was(name):
  for role, factors in RULES[name].factors(1.0, 1.0).items():
    wanted = Factors(init=0.0) if TABLE[name][role][0] == 0 else Factors()
    assert factors == wanted, role


def test_every_parameter_has_its_role():
  recipe = cases.recipe(
    **cases.ARCHITECTURES['moe-shared'],
    **{'model.tie_embeddings': False, 'model.positions': 'learned',
       'model.norm': 'layer', 'model.qk_norm': True},
  )  # fmt: skip
  roles = cases.leaves(jax.tree.map(role_of, recipe.kinds, recipe.axes))
  wanted = {
    'embedding': 'embedding', 'positions': 'embedding', 'head': 'head',
    'final_norm.scale': 'final',
  }  # fmt: skip
  ends = {
    'out.weight': 'writes', 'down.weight': 'writes', 'down': 'writes',
    'moe.router': 'router', 'scale': 'in_layer',
  }  # fmt: skip
  for path, role in roles.items():
    by_end = [r for end, r in ends.items() if path.endswith(f'.{end}')]
    assert role == wanted.get(path, by_end[0] if by_end else 'reads'), path
  biased = cases.recipe(**cases.ARCHITECTURES['learned-layer-bias-gelu'])
  found = cases.leaves(jax.tree.map(role_of, biased.kinds, biased.axes))
  assert found['blocks.mlp.down.bias'] == 'in_layer'
  assert found['final_norm.bias'] == 'final'


@new
def test_at_its_base_the_program_is_the_standard_one(name):
  """Letter by letter: nothing is multiplied by 1."""

  def programs(**overrides):
    recipe = cases.recipe(**overrides)
    state = jax.eval_shape(recipe.init)
    rows = jax.ShapeDtypeStruct((8, 33), jnp.int32)
    step = functools.partial(train_step, recipe=recipe, marks=cases.MARKS)
    return (
      jax.jit(recipe.init).lower().as_text(),
      jax.jit(step).lower(state, rows).as_text(),
    )

  plain = of('standard', **{'optimizer.name': RULES[name].optimizer})
  zero = {'model.zero_head': True}
  assert programs(**of(name), **zero) == programs(**plain, **zero)
  assert programs(**of(name), **zero, **WIDER) != programs(**plain, **zero)


@new
def test_initial_values_follow_the_table(name):
  recipe = cases.recipe(**of(name), **WIDER)
  rules = parametrization_of(recipe.config.model)
  assert (rules.width, rules.depth) == (4.0, 2.0)
  plain = cases.random_params(recipe)
  scaled = scale_initial(rules, plain, recipe.kinds, recipe.axes)
  found, wanted = cases.leaves(scaled), cases.leaves(plain)
  factors = cases.leaves(jax.tree.map(rules.factors, recipe.kinds, recipe.axes))
  assert {f.init for f in factors.values()} >= {1.0, 0.5, 0.5 * 2**0.5}
  for path, value in found.items():
    np.testing.assert_allclose(
      value, wanted[path] * factors[path].init, rtol=1e-6, err_msg=path
    )
  assert found['head'].any() == (name == 'completep')


@every
def test_a_head_may_start_at_zero(name):
  untied = {'model.tie_embeddings': False, 'model.zero_head': True}
  rules = parametrization_of(
    cases.tiny_train_config(**of(name, **untied)).model
  )
  assert rules.factors('head', ('vocab', 'embed')).init == 0


@new
def test_an_update_is_the_plain_one_with_other_hyper_parameters(name):
  rules = Parametrization(name=name, width=4.0, depth=9.0)
  plain = {
    'name': RULES[name].optimizer, 'epsilon': 0.1, 'weight_decay': 0.3,
    'learning_rate': 0.5,
  }  # fmt: skip

  def update(rules, fields):
    optimizer = test_optimizer.optimizer(rules, **fields)
    return test_optimizer.updates(optimizer, test_optimizer.arrays(1))[0]

  found = update(rules, plain)

  @functools.cache
  def wanted(factors):
    scaled = plain | {
      'epsilon': plain['epsilon'] * factors.epsilon,
      'learning_rate': plain['learning_rate'] * factors.learning_rate,
      'weight_decay': plain['weight_decay'] * factors.weight_decay,
    }
    return update(test_optimizer.STANDARD, scaled)

  for parameter, kind in test_optimizer.KIND.items():
    factors = rules.factors(kind, test_optimizer.AXES[parameter])
    np.testing.assert_allclose(
      found[parameter],
      wanted(dataclasses.replace(factors, init=1.0))[parameter],
      rtol=2e-5,
      atol=1e-6,
    )


def test_ends_have_rates_of_their_own_and_the_same_decay():
  fields = {'weight_decay': 0.1, 'learning_rate': 0.5}
  gradients = test_optimizer.arrays(1)
  plain, decayed, rated = (
    test_optimizer.updates(test_optimizer.optimizer(**f), gradients)[0]
    for f in (
      fields | {'weight_decay': 0.0},
      fields,
      fields | {'embedding_rate': 3.0, 'head_rate': 0.25},
    )
  )
  rates = {'embedding': 3.0, 'head': 0.25}
  for parameter, update in plain.items():
    decay = decayed[parameter] - update
    np.testing.assert_allclose(
      rated[parameter], rates.get(parameter, 1) * update + decay, rtol=1e-5
    )


def test_numbers_of_the_new_fields_may_be_arrays():
  fields = ('optimizer.embedding_rate', 'optimizer.head_rate')
  assert set(fields) <= set(TRACED)
  untied = {'model.tie_embeddings': False}
  recipe = cases.recipe(**untied)
  rated = cases.tiny_train_config(
    **untied, **dict(zip(fields, (3.0, 0.5), strict=True))
  )
  params = cases.random_params(recipe)

  def update(optimizer):
    gradients = jax.tree.map(jnp.ones_like, params)
    state = optimizer.init(params)
    return optimizer.update(gradients, state, params)[0]

  traced = jax.jit(lambda scalars: update(bind(recipe, scalars).optimizer))
  cases.assert_trees_close(
    traced(scalars_of(rated)), jax.jit(lambda: update(_optimizer(rated)))()
  )


def _optimizer(config) -> optax.GradientTransformation:
  return make_recipe(config).optimizer
