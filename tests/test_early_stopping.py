"""What ends a run early, on literal sequences of evaluations."""

import dataclasses
import math

import cases
import pytest

from train.early_stopping import (
  COOL_DOWN,
  END,
  FAIL,
  OFF,
  RULES,
  Best,
  Seen,
  improve,
  is_over,
  judge,
  last_step,
  observe,
  timed,
  trained,
)

STEPS, EVERY = 200, 10
# A step has 8 rows of 32 tokens.
TOKENS = 256


def run(schedule='cosine', warmup=0, decay=40, **fields):
  """A run of 200 steps, by its schedule and fields of early stopping."""
  optimizer = {
    'schedule': schedule, 'warmup_steps': warmup, 'decay_steps': decay,
  }  # fmt: skip
  return cases.tiny_train_config(
    steps=STEPS,
    **{f'optimizer.{k}': v for k, v in optimizer.items()},
    **{f'early_stopping.{k}': v for k, v in fields.items()},
  )


def follow(config, values, training=()):
  """What was seen after each evaluation (step 10, 20, ...), and said of it."""
  seen, found = Seen(), []
  for index, value in enumerate(values):
    if index < len(training):
      seen = trained(seen, EVERY * training[index], EVERY)
    seen, verdict = observe(seen, EVERY * (index + 1), {'loss': value}, config)
    found.append((seen, verdict))
  return found


@pytest.mark.parametrize(
  ('values', 'min_delta', 'stops'),
  [
    ([3, 2, 1, 0, -1], 0.0, [False] * 5),
    ([3, 2, 2, 2], 0.0, [False, False, False, True]),
    ([3, 4, 2, 4, 2], 0.0, [False, False, False, False, True]),
    # Steps of 0.4 never fall by more than 0.5 at once, but two of them do.
    ([3, 2.6, 2.2, 1.8, 1.4], 0.5, [False] * 5),
    ([3, 2.75, 2.5, 2.0], 0.5, [False, False, True, False]),
    ([math.nan, math.nan, 1], 0.0, [False, True, False]),
    ([1, math.nan, math.nan], 0.0, [False, False, True]),
    ([math.inf, 5, math.inf], 0.0, [False, False, False]),
  ],
)
def test_a_plateau_ends_the_run(values, min_delta, stops):
  config = run(enabled=True, patience=2, min_delta=min_delta)
  verdicts = [verdict for _, verdict in follow(config, values)]
  assert [verdict is not None for verdict in verdicts] == stops
  assert all(v.rule == 'plateau' and v.action == END for v in verdicts if v)


def test_the_best_and_the_wait():
  best, found = Best(None, None, 0), []
  for step, value in enumerate([math.nan, 3.0, 3.5, 2.0, 2.0, math.nan]):
    best = improve(best, value, step, 0.0)
    found.append(best)
  assert found == [
    Best(None, None, 1),
    Best(3.0, 1, 0),
    Best(3.0, 1, 1),
    Best(2.0, 3, 0),
    Best(2.0, 3, 1),
    Best(2.0, 3, 2),
  ]


NAN = math.nan
# Fields; validation and training loss of each evaluation; at which of them the
# rule speaks first (counted from 0), and what it does.
SPEAKS = [
  ('target', {'target': 2.0}, [3, 2.5, 2.0], [], 2, END),
  ('target', {'target': 2.0}, [3, 2.001, NAN], [], None, END),
  ('divergence', {'divergence': 1.0}, [3, 2, 3.1, 3.1], [], 3, FAIL),
  ('divergence', {'divergence': 1.0}, [3, 2, 3.1, 2.9, 3.1], [], None, FAIL),
  ('divergence', {'divergence': 1.0}, [2, 2, 2, 2], [3, 2, 3.1, 4], 3, FAIL),
  ('divergence', {'divergence': 1.0}, [NAN, math.inf], [], 1, FAIL),
  ('divergence', {'divergence': 1.0, 'divergence_patience': 1}, [2, 3.1], [],
   1, FAIL),
  ('overfitting', {'overfitting': 2}, [3, 2, 2.1, 2.2], [3, 2.5, 2, 1.5],
   3, END),
  # The training loss rises as well; one is lower than the best; a plateau.
  ('overfitting', {'overfitting': 2}, [3, 2, 2.1, 2.2], [3, 2, 2.5, 2.6],
   None, END),
  ('overfitting', {'overfitting': 2}, [3, 2, 2.1, 1.9, 2.1], [5, 4, 3, 2, 1],
   None, END),
  ('overfitting', {'overfitting': 2}, [2, 2, 2, 2], [5, 4, 3, 2], None, END),
  ('overfitting', {'overfitting': 1, 'min_delta': 0.5}, [2, 2.4, 2.6],
   [3, 2, 1], 2, END),
  ('budget', {'max_tokens': 30 * TOKENS}, [3, 3, 3], [], 2, END),
  ('budget', {'max_tokens': 30 * TOKENS + 1}, [3, 3, 3], [], None, END),
  # At a constant rate: not in the warm-up, and not once the rate falls.
  ('plateau', {'schedule': 'wsd', 'enabled': True}, [2] * 5, [], 3, COOL_DOWN),
  ('plateau', {'schedule': 'constant', 'enabled': True}, [2] * 5, [], 3,
   COOL_DOWN),
  ('plateau', {'schedule': 'wsd', 'enabled': True, 'warmup': 50}, [2] * 5, [],
   4, COOL_DOWN),
  ('plateau', {'schedule': 'wsd', 'enabled': True, 'decay': 160}, [2] * 9, [],
   None, COOL_DOWN),
  ('plateau', {'schedule': 'wsd', 'enabled': True, 'decay': 0}, [2] * 5, [],
   3, END),
  ('plateau', {'schedule': 'wsd'}, [2] * 9, [], None, COOL_DOWN),
]  # fmt: skip


@pytest.mark.parametrize(
  ('rule', 'fields', 'values', 'training', 'first', 'action'), SPEAKS
)
def test_when_a_rule_speaks(rule, fields, values, training, first, action):
  verdicts = [v for _, v in follow(run(**fields), values, training)]
  said = [i for i, verdict in enumerate(verdicts) if verdict is not None]
  assert said[:1] == ([] if first is None else [first])
  if first is not None:
    assert (verdicts[first].rule, verdicts[first].action) == (rule, action)
    assert f' at step {EVERY * (first + 1)} ({rule}): ' in verdicts[first].told(
      EVERY * (first + 1)
    )


def test_every_rule_speaks_and_can_be_switched_off():
  assert {row[0] for row in SPEAKS} == set(RULES)
  quiet = run(**{'schedule': 'wsd', 'enabled': True, 'target': 9.0} | OFF)
  found = follow(quiet, [2, 3, NAN, 90, 90, 90], [3, 2, 1, 90, 90, 90])
  assert not any(verdict for _, verdict in found)
  # What they would need to know is kept all the same.
  assert found[2][0].overfitting == 0
  assert found[1][0].overfitting == 1
  assert found[-1][0].best == Best(2, 10, 5)


@pytest.mark.parametrize('schedule', ['wsd', 'constant'])
def test_a_run_ends_with_its_cool_down(schedule):
  config = run(schedule=schedule, enabled=True, patience=2)
  found = follow(config, [2] * 7)
  assert [seen.cooldown for seen, _ in found] == [None, None] + [30] * 5
  assert [seen for seen, v in found if v is not None] == [
    found[2][0],
    found[6][0],
  ]
  seen, verdict = found[-1]
  assert (verdict.rule, verdict.action) == ('plateau', END)
  assert last_step(found[1][0], config) == STEPS
  assert last_step(found[2][0], config) == last_step(seen, config) == 70
  assert not is_over(seen, 69, config)
  assert is_over(seen, 70, config)


def test_a_cool_down_that_begins_late_ends_with_the_last_step():
  config = run(schedule='constant', enabled=True)
  seen = Seen(best=Best(2.0, 140, 3))
  _, verdict = observe(seen, 180, {'loss': 2.0}, config)
  assert 'at step 200' in verdict.why
  assert last_step(Seen(cooldown=180), config) == STEPS


def test_the_tokens_end_a_run_at_the_step_that_reaches_them():
  for tokens, step in ((30 * TOKENS, 30), (30 * TOKENS + 1, 31), (1, 1)):
    config = run(max_tokens=tokens)
    assert last_step(Seen(), config) == step
    assert [is_over(Seen(), s, config) for s in (step - 1, step)] == [
      False,
      True,
    ]
  assert last_step(Seen(), run(max_tokens=10**9)) == STEPS


def test_the_hours_end_a_run_at_the_step_at_which_they_were_found_over():
  config = run(max_hours=0.5)
  assert timed(Seen(), 10, 1799, config) == Seen()
  seen = timed(Seen(), 11, 1800, config)
  assert timed(seen, 12, 1900, config) == seen
  assert (seen.out_of_time, seen.seconds) == (11, 1800)
  assert last_step(seen, config) == 11
  assert judge(seen, 11, config).rule == 'budget'
  # Given more of them it goes on, until these are over.
  longer = run(max_hours=1.0)
  assert not is_over(seen, 11, longer)
  seen = timed(seen, 99, 3600, longer)
  assert last_step(seen, longer) == 99
  assert timed(seen, 100, 10**6, run()) == seen


def test_the_training_loss_is_the_mean_of_the_steps_between_evaluations():
  config = run(divergence=1.0)
  seen = trained(trained(trained(Seen(), 1.0), 2.0), 6.0, 3)
  seen, _ = observe(seen, 5, {'loss': 4.0}, config)
  assert seen.lowest_training == seen.training_at_best == 9.0 / 5
  assert (seen.loss_sum, seen.loss_count) == (0.0, 0)
  # Without a step in between there is none.
  after, _ = observe(seen, 6, {'loss': 5.0}, config)
  assert after == dataclasses.replace(seen, best=Best(4.0, 5, 1))
