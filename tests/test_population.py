"""Populations: slots are independent, refilled in place, compiled once."""

import functools
import re

import cases
import jax
import numpy as np
import pytest
from test_plan_budgets import libtpu

from train.planning import topologies
from train.scalars import scalars_of
from train.step import eval_step, train_step
from train.tuning.population import Population

__all__ = ['libtpu']

FIELDS = {'model.residual_dropout': 0.1, 'model.num_layers': 1}
RATES = (0.001, 0.01, 0.05)
RECIPES = [
  cases.recipe(seed=k, **FIELDS, **{'optimizer.learning_rate': rate})
  for k, rate in enumerate(RATES)
]
EVALUATED = cases.packed_rows(seed=99)


def rows(k, step):
  return cases.packed_rows(seed=10 * k + step)


@functools.cache
def alone(k, steps):
  """Losses of a run by itself, and the one that is evaluated."""
  recipe = RECIPES[k]
  step = jax.jit(
    functools.partial(train_step, recipe=recipe, marks=cases.MARKS)
  )
  state, losses = jax.jit(recipe.init)(), []
  for number in range(steps):
    state, metrics = step(state, rows(k, number))
    losses.append(float(metrics['loss']))
  sums = eval_step(state.params, EVALUATED, recipe=recipe, marks=cases.MARKS)
  return losses, float(sums.cross_entropy)


def population(size, devices):
  made = Population(
    RECIPES[0],
    cases.MARKS,
    scalars_of(RECIPES[0].config),
    size=size,
    devices=devices,
  )
  made.compile(np.stack([rows(0, 0)] * size), EVALUATED)
  return made


def collectives(text):
  """The operations of a program that send something to other devices."""
  return re.findall(
    r' (all-\w+|collective-\w+|reduce-scatter|send|recv)[\w-]*\(', text
  )


def run(made, runs, steps):
  """Losses of the runs in the first slots, from the steps they are at."""
  losses = []
  for step in range(steps):
    batches = [rows(k, begun + step) for k, begun in runs]
    batches += [rows(0, 0)] * (made.size - len(runs))
    losses.append(np.asarray(made.step(np.stack(batches))['loss']))
  return np.array(losses)


@pytest.mark.slow
def test_a_slot_that_is_refilled_disturbs_no_other_and_compiles_nothing():
  made = population(2, jax.devices()[:1])
  made.fill(0, scalars_of(RECIPES[0].config))
  made.fill(1, scalars_of(RECIPES[1].config))
  first = run(made, [(0, 0), (1, 0)], 2)
  held = made.state(1)
  made.fill(0, scalars_of(RECIPES[2].config))
  second = run(made, [(2, 0), (1, 2)], 2)
  np.testing.assert_allclose(first[:, 0], alone(0, 2)[0], rtol=1e-5)
  np.testing.assert_allclose(second[:, 0], alone(2, 2)[0], rtol=1e-5)
  both = [*first[:, 1], *second[:, 1]]
  np.testing.assert_allclose(both, alone(1, 4)[0], rtol=1e-5)
  sums = made.evaluate(EVALUATED)
  for slot, (k, steps) in enumerate(((2, 2), (1, 4))):
    np.testing.assert_allclose(
      sums.cross_entropy[slot], alone(k, steps)[1], rtol=1e-4
    )
  # A state that was taken out goes on in any slot, bit for bit.
  made.fill(0, scalars_of(RECIPES[1].config), held)
  again = run(made, [(1, 2)], 2)
  assert again[:, 0].tolist() == second[:, 1].tolist()


@pytest.mark.slow
def test_devices_that_share_a_population_send_each_other_nothing():
  made = population(4, jax.devices()[:4])
  assert not collectives(made.step_text())
  for slot in range(3):
    made.fill(slot, scalars_of(RECIPES[slot].config))
  losses = run(made, [(0, 0), (1, 0), (2, 0)], 2)
  for k in range(3):
    np.testing.assert_allclose(losses[:, k], alone(k, 2)[0], rtol=1e-5)


@pytest.mark.slow
def test_chips_that_share_a_population_send_each_other_nothing(libtpu):
  chips = topologies.devices(topologies.parse('v5e:2x4'))
  text = population(16, chips).step_text()
  assert 'fusion' in text
  assert collectives('x = f32[2] all-gather-start(y)') == ['all-gather']
  assert not collectives(text)


def test_the_slots_are_a_multiple_of_the_devices():
  with pytest.raises(AssertionError):
    population(3, jax.devices()[:2])
