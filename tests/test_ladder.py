"""Ladders: which small models are trained, on what, and what comes of it."""

import dataclasses
import itertools
import json
import math
import re
import shutil
import subprocess

import cases
import jax
import pytest
import runs

from model.flops import matmul_parameters, training_flops_per_token
from model.params import count
from train.config import train_config
from train.state import make_recipe
from train.tuning import ladder
from train.tuning.ladder import Budget, Rung, smaller_models, with_fields
from train.tuning.ladder_page import ladder_page, ladder_text
from train.tuning.ladder_result import Done, Outcome
from train.tuning.scaling_fit import Point, fit, forecast

# 12 heads of 64, 12 layers.
MODEL = {
  'steps': 10_000,
  'batch_size': 256,
  'sequence_length': 1024,
  'loss.chunk': 256,
  'model.vocab_size': 8_192,
  'model.embed_dim': 768,
  'model.num_layers': 12,
  'model.num_heads': 12,
  'model.num_kv_heads': 12,
  'model.mlp_dim': 2_048,
  'optimizer.learning_rate': 6e-4,
  'optimizer.warmup_steps': 500,
  'optimizer.schedule': 'wsd',
  'optimizer.decay_steps': 2_000,
}


def base(**overrides):
  return cases.tiny_train_config(**MODEL | overrides)


def parameters(config):
  """About as many as there are, without building the model."""
  return matmul_parameters(config.model)


def candidates(config, ratios=(20.0,), **options):
  fields = {'multiple': 1, 'stages': 1, 'count': parameters} | options
  return ladder.candidates(
    config, own=parameters(config), ratios=ratios, **fields
  )


@pytest.mark.parametrize(
  'overrides',
  [
    {},
    {'model.num_kv_heads': 4},
    {'model.num_kv_heads': 1},
    {'model.head_dim': 32},
    {'model.moe.num_experts': 4, 'model.moe.expert_dim': 1_024},
  ],
  ids=['all heads', 'grouped', 'one key head', 'narrow heads', 'experts'],
)
def test_smaller_models_have_the_shape_of_the_large_one(overrides):
  model = base(**overrides).model
  found = smaller_models(model)
  sizes = [matmul_parameters(small) for small in found]
  assert len(found) >= 10
  assert sizes == sorted(set(sizes))
  assert sizes[-1] < matmul_parameters(model)
  for small in found:
    assert small.head_dim == model.head_dim
    assert small.embed_dim * model.num_heads == (
      model.embed_dim * small.num_heads
    )
    if model.num_kv_heads > 1:
      groups = model.num_heads // model.num_kv_heads
      assert small.num_heads == groups * small.num_kv_heads
    narrow = small.embed_dim / model.embed_dim
    shallow = small.num_layers / model.num_layers
    assert 1 / 1.5 <= shallow / narrow <= 1.5
    for name in ('mlp_dim', 'moe'):
      held, has = (getattr(m, name) for m in (model, small))
      if name == 'moe':
        held, has = held.expert_dim, has.expert_dim
      assert has / held == pytest.approx(narrow, abs=4 / held)
      assert has % 8 == 0


def test_layers_of_smaller_models_fill_the_stages():
  found = smaller_models(base().model, stages=4)
  assert {small.num_layers for small in found} == {4, 8, 12}


@pytest.mark.parametrize('multiple', [1, 8])
def test_a_rung_is_trained_like_the_run_itself(multiple):
  config = base()
  found = candidates(config, ratios=(20.0, 80.0), multiple=multiple)
  assert [len(rungs) for rungs in found] == [2] * len(found)
  for rung, long in found:
    fields = rung.fields
    assert fields['batch_size'] % multiple == 0
    assert fields['steps'] >= 50
    assert rung.tokens == fields['steps'] * fields['batch_size'] * 1024
    # As near as whole steps come.
    assert rung.tokens / rung.parameters == pytest.approx(20, rel=0.01)
    assert long.tokens / rung.parameters == pytest.approx(80, rel=0.01)
    # The same parts of the run warm up and decay.
    assert fields['optimizer.warmup_steps'] == pytest.approx(
      fields['steps'] / 20, abs=1
    )
    assert fields['optimizer.decay_steps'] == pytest.approx(
      fields['steps'] / 5, abs=1
    )
    assert fields['evaluation.every'] == fields['steps']
    assert not fields['early_stopping.enabled']
  rates = [rung.fields['optimizer.learning_rate'] for rung, _ in found]
  # Smaller models take larger steps, and shorter runs smaller batches.
  assert rates == sorted(rates, reverse=True)
  assert rates[0] > 3 * 6e-4
  rows = [rung.fields['batch_size'] for rung, _ in found]
  assert rows == sorted(rows)
  assert rows[0] < 256 / 4


def test_the_values_of_a_run_of_the_same_size_are_its_own():
  config = base()
  own = parameters(config)
  tokens = 10_000 * 256 * 1024
  rung = ladder.make_rung(
    config,
    config.model,
    parameters=own,
    held=ladder.setting(config, own),
    ratio=tokens / own,
    multiple=1,
  )
  assert (rung.tokens, rung.fields['steps']) == (tokens, 10_000)
  assert rung.fields['batch_size'] == 256
  assert rung.fields['optimizer.learning_rate'] == 6e-4
  assert rung.fields['optimizer.weight_decay'] == config.optimizer.weight_decay
  assert rung.fields['optimizer.warmup_steps'] == 500


def test_an_optimizer_that_no_law_is_of_keeps_its_values():
  for (rung,) in candidates(base(**{'optimizer.name': 'lion'})):
    assert rung.fields['optimizer.learning_rate'] == 6e-4


def test_a_table_of_the_vocabulary_is_no_small_model():
  for (rung,) in candidates(base(**{'model.vocab_size': 65_536})):
    layers = rung.parameters - 65_536 * rung.fields['model.embed_dim']
    assert layers >= 0.1 * rung.parameters


def rungs_of(*sizes):
  return [
    [Rung(name='', parameters=n, tokens=20 * n, flops=120.0 * n**2, fields={})]
    for n in sizes
  ]


def test_the_ladder_is_the_largest_that_the_budget_allows():
  found = candidates(base())
  chosen = {}
  for flops in (1e17, 3e17, 1e18):
    budget = Budget(flops=flops)
    rungs = ladder.choose(found, budget)
    assert flops / 4 < sum(rung.flops for rung in rungs) <= flops
    assert len(rungs) == len({rung.parameters for rung in rungs}) >= 5
    assert [rung.flops for rung in rungs] == sorted(r.flops for r in rungs)
    assert [rung.name for rung in rungs][:2] == ['rung-01', 'rung-02']
    assert rungs[-1].parameters >= 4 * rungs[0].parameters
    assert rungs[-1].parameters <= 40 * rungs[0].parameters
    chosen[flops] = rungs[-1].parameters
  assert list(chosen.values()) == sorted(set(chosen.values()))


def test_sizes_lie_at_even_steps():
  rungs = ladder.choose(
    rungs_of(*[int(1e6 * 1.1**k) for k in range(40)]), Budget(flops=1e30)
  )
  sizes = [rung.parameters for rung in rungs]
  steps = [b / a for a, b in itertools.pairwise(sizes)]
  assert sizes[-1] / sizes[0] == pytest.approx(32, rel=0.1)
  assert max(steps) / min(steps) < 1.22


def test_hours_count_what_a_run_takes_beside_its_steps():
  ((rung,), *_) = rungs_of(10**6)
  budget = Budget(hours=1.0, speed=1e10, overhead=36.0)
  assert budget.cost(rung) == pytest.approx(0.01 + 1.2e14 / 1e10 / 3600)
  assert Budget(flops=1e15).cost(rung) == rung.flops


SIX = rungs_of(*(10**6 * 2**k for k in range(6)))


@pytest.mark.parametrize(
  ('found', 'flops', 'sizes', 'message'),
  [
    (SIX, 1e17, 4, r'--sizes is 4; at least 5'),
    (SIX[:4], 1e30, 6, r'There are 4 smaller models'),
    (SIX, 1e16, 6, r'takes 4\.1e\+16 FLOPs, and 1e\+16 FLOPs are given'),
    (
      rungs_of(*(10**6 + k for k in range(6))),
      1e30,
      6,
      r'have 1,000,000 to 1,000,005 parameters; the largest needs at least 4',
    ),
  ],
)
def test_a_ladder_that_tells_nothing_is_refused(found, flops, sizes, message):
  with pytest.raises(ValueError, match=message):
    ladder.choose(found, Budget(flops=flops), sizes=sizes)


def test_what_a_ladder_is_said_to_take_is_enough():
  with pytest.raises(ValueError, match='takes') as refused:
    ladder.choose(SIX, Budget(flops=1e16))
  named = float(re.search(r'takes (\S+) FLOPs', str(refused.value))[1])
  assert len(ladder.choose(SIX, Budget(flops=named))) == 5
  # What three digits hold is not rounded.
  assert Budget(hours=1.0).enough(2.5) == '2.5 hours'
  assert Budget(hours=1.0).enough(0.012341) == '0.0124 hours'


def test_a_ladder_reaches_only_so_far():
  rungs = [rung for (rung,) in SIX]
  most = rungs[-1].flops
  ladder.check_reach(rungs, 9_999 * most)
  with pytest.raises(ValueError, match=r'30,000 times .* give the ladder 3\.0'):
    ladder.check_reach(rungs, 30_000 * most)


@pytest.mark.parametrize(
  'given', [{}, {'flops': 1e15, 'hours': 1.0}, {'hours': 0.0}, {'flops': -1.0}]
)
def test_a_budget_is_flops_or_hours(given):
  with pytest.raises(ValueError, match=r'--flops=1e15 or --hours=0\.5'):
    Budget(**given)


def test_fields_change_a_configuration_and_not_the_one_given():
  config = json.loads(cases.tiny_config(**MODEL).to_json_best_effort())
  before = json.dumps(config)
  run = train_config(config)
  for (rung,) in candidates(run)[::5]:
    small = train_config(with_fields(config, rung.fields))
    # The planner's model is the one that is built.
    assert matmul_parameters(small.model) == rung.parameters
    assert training_flops_per_token(small.model) * rung.tokens == rung.flops
    assert small.steps * small.batch_size * 1024 == rung.tokens
    recipe = make_recipe(small)
    built = count(jax.eval_shape(recipe.init).params)
    assert built == pytest.approx(rung.parameters, rel=0.01)
  assert json.dumps(config) == before


def outcome(noise=1e-3, ratios=(20.0,), **changes):
  done, points = [], []
  for number, ((rung,), ratio) in enumerate(
    (rungs, ratio) for ratio in ratios for rungs in SIX
  ):
    rung = dataclasses.replace(
      rung,
      name=f'rung-{number + 1:02}',
      tokens=int(ratio * rung.parameters),
      fields={'batch_size': 8, 'optimizer.learning_rate': 1e-3},
    )
    loss = 1.8 + 300 / rung.parameters**0.35 + 900 / rung.tokens**0.37
    loss *= math.exp(noise * math.sin(number * 7))
    done.append(Done(rung=rung, loss=loss, epochs=0.5, seconds=60.0))
    points.append(Point(rung.parameters, rung.tokens, loss))
  fitted = fit(points, replicates=20)
  fields = {
    'name': 'small <ladder>',
    'done': tuple(done),
    'fitted': fitted,
    'forecast': forecast(fitted, parameters=10**9, tokens=2e10),
    'target_flops': 1.2e20,
    'remarks': ('A remark & more.',),
  }
  return Outcome(**fields | changes)


@pytest.mark.parametrize('ratios', [(20.0,), (20.0, 80.0)])
def test_page_text_and_json_tell_the_same(ratios):
  made = outcome(ratios=ratios)
  page, text, found = ladder_page(made), ladder_text(made), made.as_json()
  told = found['forecast']
  for part in (
    f'{told["loss"]:.3f} nats a token, {told["low"]:.3f} to {told["high"]:.3f}',
    f'{found["runs"][0]["loss"]:.4f}',
    f'{found["law"]["irreducible"]:.3f}',
    'rung-06',
  ):
    assert part in text
    assert part in page
  assert 'A remark & more.' in text
  assert 'A remark &amp; more.' in page
  assert '<ladder>' not in page
  assert page.count('<circle r="4"') == len(made.done)
  assert page.count('opacity:.15" d=') == len(ratios)
  assert not re.search(r'(src|href)=|url\(|nan', page)
  assert json.loads(json.dumps(found))['noise'] == found['noise']


def test_a_forecast_that_says_nothing_is_not_on_the_page_as_one():
  made = outcome()
  wide = dataclasses.replace(made.forecast, low=1.0, high=4.0)
  refused = dataclasses.replace(made, forecast=wide)
  page = ladder_page(refused)
  assert 'The ladder does not tell the loss of 1,000,000,000 parameters' in page
  assert 'is 1' in refused.refusal
  assert refused.as_json()['forecast']['says_nothing'] is True


def run_ladder(folder, *flags):
  """Trains a ladder of models so small that they may not follow a law."""
  fields = {
    'model.num_heads': 4, 'model.num_kv_heads': 4, 'model.embed_dim': 64,
    'model.num_layers': 4, 'model.mlp_dim': 128, 'steps': 400,
    'optimizer.learning_rate': 8e-3, 'log.every': 20, 'checkpoint.every': 1000,
    'model.embedding_dropout': 0.0, 'model.attention_dropout': 0.0,
    'model.residual_dropout': 0.0, 'model.mlp_dropout': 0.0,
  }  # fmt: skip
  # There are five such models, and these FLOPs take all of them.
  flags = ('--flops=1.2e12', '--sizes=5', '--tokens_per_parameter=4', *flags)
  return subprocess.run(
    runs.command('ladder', folder, 'ladder', *flags, **fields),
    cwd=folder,
    env=runs.environment(),
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.slow
def test_a_ladder_is_trained_and_goes_on(tmp_path):
  first = run_ladder(tmp_path)
  workdir = tmp_path / 'ladder'
  found = json.loads((workdir / 'ladder.json').read_text())['outcome']
  if found['forecast']['says_nothing']:
    assert first.returncode == 64
    assert 'does not tell the loss of' in first.stderr
  else:
    assert first.returncode == 0, first.stderr
    assert 'Forecast for' in first.stdout
  trained = found['runs']
  assert len(trained) == 5
  assert trained[-1]['loss'] < trained[0]['loss']
  assert found['forecast']['parameters'] > trained[-1]['parameters']
  assert (workdir / 'ladder.html').exists()
  assert (workdir / 'rung-01' / 'report.html').exists()
  # What was trained is not trained again; what is missing is, with the same
  # result.
  shutil.rmtree(workdir / 'rung-02')
  again = run_ladder(tmp_path)
  assert 'Rung 2 of 5' in again.stderr
  assert 'Rung 1 of 5' not in again.stderr
  assert 'Rung 3 of 5' not in again.stderr
  repeated = json.loads((workdir / 'ladder.json').read_text())['outcome']
  assert [r['loss'] for r in repeated['runs']] == [r['loss'] for r in trained]
  assert repeated['forecast'] == found['forecast']
  other = run_ladder(tmp_path, '--config.seed=7')
  assert other.returncode == 64
  assert 'holds a ladder that differs' in other.stderr
  assert 'seed: 0 -> 7' in other.stderr
