"""Bad steps: told from good ones, skipped, and never compared with."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train.step
from train.bad_steps import judge, new_history, remember

GOOD = 40


def score_of(values_N: np.ndarray, value: float) -> float:
  """The robust score by numpy, written out."""
  median = np.median(values_N)
  deviation = np.median(np.abs(values_N - median)) / 0.6745
  return (value - median) / max(deviation, 0.01 * abs(median))


def history_of(losses, norms):
  history = new_history()
  for loss, norm in zip(losses, norms, strict=True):
    history = remember(
      history, jnp.float32(loss), jnp.float32(norm), jnp.array(False)
    )
  return history


@pytest.fixture(scope='module')
def numbers():
  random = np.random.default_rng(5)
  return (
    3 + 0.1 * random.standard_normal(300).astype(np.float32),
    1 + 0.2 * random.standard_normal(300).astype(np.float32),
  )


@pytest.mark.parametrize('steps', [16, GOOD, 300])
def test_the_score_is_that_of_the_last_128_good_steps(numbers, steps):
  losses, norms = (values[:steps] for values in numbers)
  verdict = judge(
    history_of(losses, norms), jnp.float32(3.9), jnp.float32(1.1), limit=6.0
  )
  wanted = max(
    score_of(losses[-128:], 3.9), score_of(norms[-128:], np.float32(1.1))
  )
  assert wanted > 6
  np.testing.assert_allclose(verdict.score, wanted, rtol=1e-4)
  assert verdict.bad


def test_a_fall_is_no_spike(numbers):
  losses, norms = numbers
  history = history_of(losses, norms)
  assert not judge(history, jnp.float32(0.1), jnp.float32(0), limit=1.0).bad


def test_without_a_limit_only_what_is_not_finite_is_bad(numbers):
  history = history_of(*numbers)
  for loss, norm, bad in [
    (1e9, 1e9, False), (np.nan, 1, True), (3, np.inf, True), (3, np.nan, True),
  ]:  # fmt: skip
    verdict = judge(history, jnp.float32(loss), jnp.float32(norm), limit=None)
    assert verdict.bad == bad


def test_too_few_good_steps_are_no_measure(numbers):
  losses, norms = (values[:15] for values in numbers)
  verdict = judge(
    history_of(losses, norms), jnp.float32(99), jnp.float32(99), limit=6.0
  )
  assert not verdict.bad
  assert verdict.score == 0


def test_equal_values_leave_room_for_a_hundredth_each(numbers):
  history = history_of([2.0] * GOOD, [1.0] * GOOD)
  for loss, bad in [(2.11, False), (2.13, True)]:
    verdict = judge(history, jnp.float32(loss), jnp.float32(1), limit=6.0)
    assert verdict.bad == bad


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e6])
def test_a_bad_step_never_enters_the_history(numbers, value):
  before = history_of(*numbers)
  after = remember(before, jnp.float32(value), jnp.float32(1), jnp.array(True))
  np.testing.assert_array_equal(after.values_2W, before.values_2W)
  assert after.good == before.good
  assert after.bad_in_row == 1
  after = remember(after, jnp.float32(3), jnp.float32(1), jnp.array(False))
  assert after.bad_in_row == 0
  assert after.good == before.good + 1


def poisoned(monkeypatch, values: dict[int, float]):
  """Steps whose gradients are multiplied by values, by number from 0."""
  plain = train.step.gradients
  steps, factors = jnp.array(list(values)), jnp.array(list(values.values()))

  def gradients(params, batch, key, **rest):
    grads, sums = plain(params, batch, key, **rest)
    # The key of a step's dropout is the one thing here that tells its number.
    number = jnp.array(
      [
        (key == train.step.dropout_key(0, step)).all()
        for step in range(MOST_STEPS)
      ]
    ).argmax()
    factor = jnp.where(steps == number, factors, 1).prod()
    return jax.tree.map(lambda g: g * factor, grads), sums

  monkeypatch.setattr(train.step, 'gradients', gradients)


MOST_STEPS = 32


def run_steps(fields, batches):
  recipe = cases.recipe(**fields)
  step = cases.one_device_step(recipe)
  state, told = cases.random_state(recipe), []
  for rows_BR in batches:
    state, metrics = step(state, rows_BR)
    told.append({name: float(value) for name, value in metrics.items()})
  return state, told


BATCHES = [cases.packed_rows(seed=seed) for seed in range(MOST_STEPS)]
FIELDS = {
  'steps': 40,
  'optimizer.schedule': 'constant',
  'optimizer.warmup_steps': 0,
  'optimizer.ema_decay': 0.9,
}


def test_a_bad_step_costs_itself_and_nothing_else(monkeypatch):
  # Each by itself, three in a row, and one that is finite.
  values = {
    0: np.nan, 2: np.inf, 4: np.nan, 5: np.nan, 6: np.nan, 20: -np.inf, 28: 1e6
  }  # fmt: skip
  fields = FIELDS | {'bad_steps.limit': 8.0}
  good = [b for number, b in enumerate(BATCHES) if number not in values]
  # Other programs round otherwise: both have the factors, one never uses them.
  with monkeypatch.context() as patch:
    poisoned(patch, {MOST_STEPS + n: value for n, value in values.items()})
    wanted, _ = run_steps(fields, good)
  poisoned(monkeypatch, values)
  state, told = run_steps(fields, BATCHES)
  bad = [number for number, metrics in enumerate(told) if metrics['bad']]
  assert bad == list(values)
  in_row = [told[number]['bad_in_row'] for number in values]
  assert in_row == [1, 1, 1, 2, 3, 1, 1]
  for part in ('params', 'ema'):
    assert cases.same_bits(getattr(state, part), getattr(wanted, part))
  # The moments too; the count of the learning rate goes on.
  assert cases.same_bits(state.opt_state[:-1], wanted.opt_state[:-1])
  assert state.step == state.opt_state[-1].count == MOST_STEPS


def test_the_learning_rate_goes_on_where_a_step_is_skipped(monkeypatch):
  fields = FIELDS | {
    'optimizer.schedule': 'cosine', 'optimizer.name': 'sgd',
    'optimizer.momentum': 0.0,
  }  # fmt: skip
  _, clean = run_steps(fields, BATCHES[:5])
  poisoned(monkeypatch, {1: np.nan})
  state, told = run_steps(fields, BATCHES[:5])
  rates = [metrics['learning_rate'] for metrics in told]
  assert rates == [metrics['learning_rate'] for metrics in clean]
  assert len(set(rates)) == 5
  assert state.opt_state[-1].count == 5
