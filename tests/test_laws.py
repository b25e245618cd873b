"""Published laws: their own published checks, and what they may be asked."""

import dataclasses
import math

import cases
import jax
import pytest

from benchmarks.hyperparameter_laws import ratios, summary
from model.params import count
from train.laws.advice import (
  Repetition,
  advise,
  expected_loss,
  setting,
  unique_tokens,
)
from train.laws.hyperparameters import (
  BATCH_SIZE,
  LAWS,
  LEARNING_RATE,
  WEIGHT_DECAY,
  Setting,
  advised,
  carried_over,
  critical_batch,
  suggestions,
)
from train.laws.loss import (
  DEFAULT,
  LOSS_LAWS,
  effective_tokens,
  loss,
  optimum,
)

HOFFMANN, BESIROGLU, MUENNIGHOFF = LOSS_LAWS.values()


def run(parameters, tokens, **values):
  fields = {
    'with_head': parameters,
    'flops': 6 * parameters * tokens,
    'batch_tokens': 2**19,
    'learning_rate': 3e-4,
    'weight_decay': 0.1,
  }
  return Setting(parameters=parameters, tokens=tokens, **fields | values)


def test_the_data_constrained_law_gives_the_losses_of_its_repository():
  # The two models of figure 1 of the paper, as the README prints them.
  few, many = loss(MUENNIGHOFF, 6.34e9, 242e9, 25e9), 2.2256440889984477
  assert few == pytest.approx(many, rel=1e-14)
  assert loss(MUENNIGHOFF, 8.67e9, 178e9, 25e9) == pytest.approx(
    2.2269634075087867, rel=1e-14
  )


@pytest.mark.parametrize(
  ('law', 'flops', 'parameters', 'ratio', 'lowest'),
  [
    (HOFFMANN, 1e20, 644.9e6, 40.1, 2.5998),
    (HOFFMANN, 1e22, 5.160e9, 62.6, 2.1386),
    (BESIROGLU, 1e20, 853.5e6, 22.9, 2.5534),
    (MUENNIGHOFF, 1e20, 921.8e6, 19.6, 2.5874),
  ],
)
def test_the_optimum_of_a_budget(law, flops, parameters, ratio, lowest):
  best = optimum(law, flops)
  assert best.parameters == pytest.approx(parameters, rel=1e-3)
  assert best.tokens / best.parameters == pytest.approx(ratio, rel=5e-3)
  assert best.loss == pytest.approx(lowest, abs=1e-4)
  assert 6 * best.parameters * best.tokens == pytest.approx(flops)


@pytest.mark.parametrize('law', LOSS_LAWS.values(), ids=lambda law: law.name)
@pytest.mark.parametrize('unique', [None, 10e9, 1e9])
def test_no_other_size_is_better_than_the_optimum(law, unique):
  best = optimum(law, 1e20, unique)
  for factor in (0.5, 0.97, 1.03, 2):
    size = best.parameters * factor
    assert best.loss < loss(law, size, 1e20 / 6 / size, unique)


@pytest.mark.parametrize(
  ('unique', 'parameters', 'epochs'),
  [(10e9, 856e6, 1.95), (3e9, 723e6, 7.68), (1e9, 613e6, 27.2)],
)
def test_little_text_makes_the_best_model_smaller(unique, parameters, epochs):
  best = optimum(MUENNIGHOFF, 1e20, unique)
  assert best.parameters == pytest.approx(parameters, rel=2e-3)
  assert best.epochs == pytest.approx(epochs, rel=2e-3)


@pytest.mark.parametrize(
  ('epochs', 'share'),
  [(1, 1), (2, 0.98), (4, 0.93), (8, 0.83), (16, 0.66), (40, 0.38)],
)
def test_tokens_that_repeat_are_worth_less(epochs, share):
  assert effective_tokens(epochs, 1) / epochs == pytest.approx(share, abs=5e-3)


def test_repetition_never_helps_and_is_nothing_where_none_is():
  for law in LOSS_LAWS.values():
    new = loss(law, 1e9, 20e9)
    assert loss(law, 1e9, 20e9, 30e9) == pytest.approx(new, rel=1e-12)
    assert loss(law, 1e9, 20e9, 20e9) == pytest.approx(new, rel=1e-12)
    worse = [loss(law, 1e9, 20e9, 20e9 / epochs) for epochs in (2, 4, 8, 16)]
    assert worse == sorted(worse)
    assert worse[0] > new
  assert effective_tokens(1e9, 1) == pytest.approx(16.387756)


# What each law says of two runs: 109 million parameters on 2.2 billion tokens,
# and a billion on 20.
VALUES = {
  ('Step Law', LEARNING_RATE): (2.456e-3, 9.960e-4),
  ('DeepSeek LLM', LEARNING_RATE): (1.675e-3, 9.638e-4),
  ('Porian et al. 2024', LEARNING_RATE): (4.686e-3, 2.238e-3),
  ('Step Law', BATCH_SIZE): (125_300, 441_892),
  ('Power Lines', BATCH_SIZE): (237_149, 552_342),
  ('DeepSeek LLM', BATCH_SIZE): (254_018, 1_079_650),
  ('Porian et al. 2024', BATCH_SIZE): (329_698, 1_444_906),
  ('Power Lines', WEIGHT_DECAY): (3.571, 0.3909),
}


@pytest.mark.parametrize('law', LAWS, ids=lambda law: law.paper.name)
def test_a_law_gives_its_value(law):
  small, large = VALUES[law.paper.name, law.field]
  assert law.formula(run(109e6, 2.2e9)) == pytest.approx(small, rel=1e-3)
  assert law.formula(run(1e9, 20e9)) == pytest.approx(large, rel=1e-3)


def test_the_advised_learning_rate_is_near_optima_that_others_found():
  law = LAWS[0]
  assert (law.paper.name, law.field) == ('Step Law', LEARNING_RATE)
  mean, octaves = summary(ratios(law, more_tokens=True))
  assert mean == pytest.approx(1 / 1.11, abs=5e-3)
  assert octaves == pytest.approx(0.30, abs=5e-3)
  # Where it is said to be extrapolated it is far too low.
  lowest = min(ratios(law, more_tokens=False))
  assert lowest == pytest.approx(1 / 2.85, abs=5e-3)


@pytest.mark.parametrize(
  ('parameters', 'tokens', 'decay'),
  [(109e6, 2.2e9, 0.1042), (1e9, 20e9, 0.0992), (1e9, 200e9, 0.0613)],
)
def test_the_laws_together_give_the_weight_decay_of_folklore(
  parameters, tokens, decay
):
  plain = run(parameters, tokens)
  followed = dataclasses.replace(
    plain,
    learning_rate=advised(LEARNING_RATE, plain).value,
    batch_tokens=advised(BATCH_SIZE, plain).value,
  )
  found = advised(WEIGHT_DECAY, followed)
  assert found.value == pytest.approx(decay, abs=1e-4)
  # Two changes that cancel: the time scale of the average stays.
  doubled = dataclasses.replace(
    followed,
    batch_tokens=2 * followed.batch_tokens,
    learning_rate=2 * followed.learning_rate,
  )
  assert advised(WEIGHT_DECAY, doubled).value == pytest.approx(found.value)


def test_the_critical_batch_is_above_the_best_one():
  assert critical_batch(20e9) == pytest.approx(5_538_900, rel=1e-3)
  assert critical_batch(20e9) > advised(BATCH_SIZE, run(1e9, 20e9)).value


def test_a_law_says_where_it_is_extrapolated():
  inside = advised(LEARNING_RATE, run(500e6, 20e9))
  assert (inside.law, inside.outside) == ('Step Law', ())
  (tokens, ratio) = advised(LEARNING_RATE, run(500e6, 400e6)).outside
  assert tokens == '400M tokens, fitted from 4.00B'
  assert ratio == '0.800 tokens a parameter, fitted from 1'
  (size,) = advised(LEARNING_RATE, run(7e9, 100e9)).outside
  assert size == '7.00B parameters, fitted up to 1.07B'
  deepseek = suggestions(run(7e9, 2e12))[1]
  assert deepseek.outside == ('8.40e+22 FLOPs, fitted up to 2.00e+19',)


def test_values_are_carried_over_by_ratios_of_the_laws():
  held = run(1e9, 20e9)
  same = carried_over(held, run(1e9, 20e9, learning_rate=1.0, batch_tokens=1))
  assert same == held
  to = carried_over(held, run(250e6, 5e9))
  # Both a quarter.
  assert to.learning_rate == pytest.approx(3e-4 * 4 ** (1 / 3))
  assert to.batch_tokens == pytest.approx(2**19 / 4**0.571)
  scale = held.batch_tokens / (
    held.learning_rate * held.weight_decay * held.tokens
  )
  # At the same tokens a parameter the time scale of AdamW stays.
  assert to.batch_tokens / (
    to.learning_rate * to.weight_decay * to.tokens
  ) == pytest.approx(scale)


@pytest.mark.parametrize(
  ('parameters', 'tokens', 'unique', 'value', 'why'),
  [
    (70e9, 400e9, None, 2.0176, '70.0B parameters, fitted up to 16.0B'),
    (1e9, 20e9, 10e9, 2.5321, None),
    (1e6, 1e11, None, None, '1.00M parameters, fitted from 44.0M'),
    (1e9, 1e6, None, None, '1.00M tokens, fitted from 1.00B'),
    (1e9, 20e9, 1.2e9, None, 'read 16.7 times, asked up to 16'),
  ],
)
def test_a_loss_is_expected_where_a_law_may_be_asked(
  parameters, tokens, unique, value, why
):
  found = expected_loss(BESIROGLU, parameters, tokens, unique)
  assert found.loss == (value and pytest.approx(value, abs=1e-4))
  assert found.extrapolated == ((why,) if why else ())


def test_the_law_gives_the_loss_of_chinchilla():
  # 70 billion parameters, 1.4e12 tokens, with the constants of the paper that
  # replicated it: 1.8172 + 482.01 / 70e9^0.3478 + 2085.43 / 1.4e12^0.3658.
  assert LOSS_LAWS[DEFAULT] is BESIROGLU
  assert loss(BESIROGLU, 70e9, 1.4e12) == pytest.approx(1.9739, abs=1e-4)


@pytest.mark.parametrize(
  ('epochs', 'words'),
  [
    (4.0, None),
    (4.1, 'at 4.1, tokens teach 93% of what new ones do'),
    (16.5, 'past 16 no law tells the loss, which may rise'),
  ],
)
def test_repetition_is_warned_of(epochs, words):
  part = Repetition(name='', unique=1e6, epochs=epochs)
  warning = part.warning(600)
  assert (warning is None) == (words is None)
  if words:
    assert words in warning
    assert warning.startswith(f'The data will be read {epochs:.1f} times by')
    named = dataclasses.replace(part, name='code').warning(600)
    assert 'Dataset code' in named
    assert 'a lower weight' in named


def test_unique_tokens_of_a_mixture_are_those_that_are_read():
  code = Repetition(name='code', unique=100, epochs=3.0)
  text = Repetition(name='text', unique=1000, epochs=0.7)
  assert unique_tokens((), 1000) is None
  assert unique_tokens((code, text), 1000) == pytest.approx(800)
  # The run's own count of tokens is what shares are taken of.
  assert unique_tokens((code,), 600) == pytest.approx(200)


LARGE = {
  'steps': 10_000,
  'batch_size': 256,
  'sequence_length': 2048,
  'loss.chunk': 256,
  'model.vocab_size': 32_000,
  'model.embed_dim': 1024,
  'model.num_layers': 12,
  'model.num_heads': 16,
  'model.num_kv_heads': 16,
  'model.mlp_dim': 4096,
}


def parameters_of(**overrides):
  recipe = cases.recipe(**LARGE | overrides)
  return count(jax.eval_shape(recipe.init).params)


@pytest.mark.parametrize(
  'overrides',
  [
    {},
    {'model.tie_embeddings': False},
    {'model.positions': 'learned'},
  ],
  ids=['tied', 'untied', 'learned positions'],
)
def test_the_laws_see_the_layers_of_a_model(overrides):
  config = cases.tiny_train_config(**LARGE | overrides)
  found = setting(config, parameters_of(**overrides))
  # Projections, a gated feed-forward layer and two norms; one more at the end.
  layer = 4 * 1024**2 + 3 * 1024 * 4096 + 2 * 1024
  assert found.parameters == 12 * layer + 1024
  assert found.with_head == found.parameters + 32_000 * 1024
  assert found.tokens == 10_000 * 256 * 2048
  assert found.batch_tokens == 256 * 2048
  # 6 operations a parameter, and attention over half of the row.
  products = 6 * 12 * (layer - 2 * 1024)
  attention = 12 * 12 * 1024 * (2048 + 1) / 2
  assert found.flops == pytest.approx(found.tokens * (products + attention))


def test_advice_is_of_all_laws_and_of_the_data():
  config, parameters = cases.tiny_train_config(**LARGE), parameters_of()
  data = (Repetition(name='', unique=1e9, epochs=5.24288),)
  advice = advise(config, parameters=parameters, data=data)
  assert len(advice.suggestions) == len(LAWS)
  assert advice.losses[0].law == DEFAULT
  assert {e.law for e in advice.losses} == set(LOSS_LAWS)
  assert len(advice.warnings) == 1
  new = advise(config, parameters=parameters)
  assert new.warnings == ()
  for some, more in zip(advice.losses, new.losses, strict=True):
    assert math.isfinite(some.loss)
    assert some.loss > more.loss


@pytest.mark.parametrize(
  'overrides', [{'optimizer.name': 'lion'}, {'optimizer.learning_rate': 0.0}]
)
def test_no_law_is_asked_that_is_not_of_the_run(overrides):
  config = cases.tiny_train_config(**LARGE | overrides)
  assert advise(config, parameters=10**8).suggestions == ()
