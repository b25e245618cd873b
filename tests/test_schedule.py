"""Learning rates on literals."""

import cases
import jax
import numpy as np
import optax
import pytest

from train.schedule import make_schedule


def rates(steps, **fields):
  """The learning rate of each step, and of the one after the last."""
  defaults = {'learning_rate': 1.0, 'warmup_steps': 0, 'final_fraction': 0.1}
  config = cases.tiny_train_config(
    steps=steps,
    **{f'optimizer.{k}': v for k, v in (defaults | fields).items()},
  )
  schedule = make_schedule(config.optimizer)
  return [float(schedule(step)) for step in range(steps + 1)]


@pytest.mark.parametrize(
  ('fields', 'wanted'),
  [
    ({'schedule': 'constant'}, [1, 1, 1, 1, 1, 1, 1, 1, 1]),
    (
      {'schedule': 'constant', 'warmup_steps': 4},
      [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1],
    ),
    (
      {'schedule': 'constant', 'warmup_steps': 1},
      [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ),
    (
      {'schedule': 'linear', 'final_fraction': 0.0},
      [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0],
    ),
    (
      {'schedule': 'linear', 'warmup_steps': 2, 'final_fraction': 0.4},
      [0.5, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    ),
    (
      {'schedule': 'cosine', 'warmup_steps': 4, 'final_fraction': 0.2},
      [0.25, 0.5, 0.75, 1, 1, 0.6 + 0.2 * 2**0.5, 0.6, 0.6 - 0.2 * 2**0.5, 0.2],
    ),
    (
      {'schedule': 'wsd', 'warmup_steps': 2, 'decay_steps': 4},
      [0.5, 1, 1, 1, 1, 0.775, 0.55, 0.325, 0.1],
    ),
    ({'schedule': 'wsd', 'decay_steps': 0}, [1, 1, 1, 1, 1, 1, 1, 1, 1]),
    (
      {'schedule': 'cosine', 'warmup_steps': 8},
      [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1],
    ),
  ],
)
def test_rates(fields, wanted):
  np.testing.assert_allclose(rates(8, **fields), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  ('schedule', 'begin', 'wanted'),
  [
    # As planned.
    ('wsd', 4, [0.5, 1, 1, 1, 1, 0.775, 0.55, 0.325, 0.1]),
    ('constant', 8, [0.5, 1, 1, 1, 1, 1, 1, 1, 1]),
    # Earlier.
    ('wsd', 2, [0.5, 1, 1, 0.775, 0.55, 0.325, 0.1, 0.1, 0.1]),
    ('constant', 2, [0.5, 1, 1, 0.775, 0.55, 0.325, 0.1, 0.1, 0.1]),
    # So late that the last step comes before the end of the decay.
    ('constant', 6, [0.5, 1, 1, 1, 1, 1, 1, 0.55, 0.1]),
  ],
)
def test_the_decay_may_begin_at_another_step(schedule, begin, wanted):
  config = cases.tiny_train_config(
    **{
      'steps': 8,
      'optimizer.schedule': schedule,
      'optimizer.learning_rate': 1.0,
      'optimizer.final_fraction': 0.1,
      'optimizer.decay_steps': 4,
    }
  )

  @jax.jit
  def rate(step, begin):
    return make_schedule(config.optimizer, begin)(step)

  found = [float(rate(step, begin)) for step in range(9)]
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  assert rate._cache_size() == 1


@pytest.mark.parametrize('schedule', ['constant', 'linear', 'cosine', 'wsd'])
def test_rates_scale_with_the_peak_and_no_step_is_void(schedule):
  fields = {'schedule': schedule, 'warmup_steps': 5, 'decay_steps': 5}
  small = rates(20, learning_rate=0.01, **fields)
  np.testing.assert_allclose(
    small, 0.01 * np.array(rates(20, **fields)), rtol=1e-5
  )
  assert min(small) > 0
  assert max(small) == pytest.approx(0.01)


def test_the_step_uses_the_schedule(rows_BR):
  recipe, step = cases.plain_run()
  state = cases.random_state(recipe)
  for wanted in (0.2, 0.4, 0.6, 0.8, 0.8):
    before = jax.tree.map(np.array, state.params)
    state, metrics = step(state, rows_BR)
    way = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
    np.testing.assert_allclose(metrics['learning_rate'], wanted, rtol=1e-6)
    np.testing.assert_allclose(
      optax.tree.norm(way), wanted * metrics['grad_norm'], rtol=1e-4
    )
