"""A tuned small run, taken to a large one by rules."""

import runpy

import cases
import jax
import pytest

from configs import base
from configs.check import check, default_of, to_dict
from model.flops import matmul_parameters
from model.params import count
from train.config import train_config
from train.laws.advice import setting
from train.laws.hyperparameters import WEIGHT_DECAY, change
from train.parametrization import parametrization_of
from train.state import make_recipe
from train.tuning.config_text import config_text
from train.tuning.ladder import candidates
from train.tuning.shapes import resized, sizes_of, widths_of
from train.tuning.transfer import Target, transfer, transfer_and_print
from train.workdir import flatten

SPECTRAL = {
  'model.parametrization': 'spectral', 'model.tie_embeddings': False,
  'optimizer.name': 'muon',
}  # fmt: skip
COMPLETEP = {'model.parametrization': 'completep'}
TUNED = {
  'steps': 200, 'optimizer.warmup_steps': 20, 'optimizer.learning_rate': 0.01,
  'optimizer.weight_decay': 0.1,
}  # fmt: skip
LARGE = {
  'batch_size': 256, 'steps': 10_000, 'sequence_length': 1_024,
  'loss.chunk': 256, 'model.embed_dim': 768, 'model.num_layers': 12,
  'model.num_heads': 12, 'model.num_kv_heads': 12, 'model.mlp_dim': 2_048,
  'model.base_embed_dim': 96, 'model.tie_embeddings': False,
}  # fmt: skip


def config(**overrides):
  return to_dict(cases.tiny_config(**TUNED | overrides))


def field(found, name):
  return flatten(found)[name]


def test_a_width_keeps_heads_and_proportions():
  grouped = config(
    **COMPLETEP, **{'model.num_kv_heads': 2, 'model.moe.num_experts': 4,
                    'model.moe.expert_dim': 24}
  )  # fmt: skip
  found = resized(grouped, width=128, depth=6)['model']
  assert found['head_dim'] == 8
  assert (found['num_heads'], found['num_kv_heads']) == (16, 8)
  assert (found['mlp_dim'], found['moe']['expert_dim']) == (256, 96)
  assert (found['base_embed_dim'], found['base_num_layers']) == (32, 2)
  assert found['num_layers'] == 6
  # A base that is there already stays, and a narrow model has a whole group.
  again = resized(resized(grouped, width=128), width=24)['model']
  assert again['base_embed_dim'] == 32
  assert (again['num_heads'], again['num_kv_heads']) == (3, 1)
  assert resized(config(), width=64)['model']['base_embed_dim'] is None


def test_a_width_of_no_whole_heads_is_refused():
  with pytest.raises(ValueError, match=r'Width 36 .* multiples of 8'):
    resized(config(), width=36)


def test_widths_are_doubled():
  assert widths_of(config(), [], 32, 4) == [32, 64, 128, 256]
  assert widths_of(config(), ['64', '32'], 32, 4) == [32, 64]
  one_head = {'model.num_heads': 1, 'model.num_kv_heads': 1}
  odd = config(**one_head, **{'model.embed_dim': 48})
  assert widths_of(odd, [], 64, 3) == [96, 192, 384]


@pytest.mark.parametrize('typed', [['64'], ['64', 'x'], ['8', '8'], ['0', '8']])
def test_sizes_that_are_no_comparison_are_refused(typed):
  with pytest.raises(ValueError, match='--widths='):
    sizes_of('widths', typed)
  assert sizes_of('widths', ['128', '64']) == [64, 128]


@pytest.mark.parametrize('overrides', [SPECTRAL, COMPLETEP], ids=str)
def test_nothing_changes_where_the_target_is_the_tuned_run(overrides):
  tuned = config(**overrides)
  found = flatten(transfer(tuned, Target()).config)
  base_shape = {'model.base_embed_dim': 32, 'model.base_num_layers': 2}
  assert found == flatten(tuned) | base_shape


@pytest.mark.parametrize('overrides', [SPECTRAL, COMPLETEP], ids=str)
def test_the_learning_rate_goes_with_the_root_of_the_batch_alone(overrides):
  tuned = config(**overrides)
  wide = transfer(tuned, Target(width=128, depth=6)).config
  assert field(wide, 'optimizer.learning_rate') == 0.01
  batch = transfer(tuned, Target(width=128, batch_size=32)).config
  assert field(batch, 'optimizer.learning_rate') == 0.02
  assert batch['steps'] == 50
  assert field(batch, 'optimizer.warmup_steps') == 5


def test_a_budget_makes_steps_and_shares_of_them():
  found = transfer(
    config(**COMPLETEP, **{'optimizer.schedule': 'wsd',
                           'optimizer.decay_steps': 40}),
    Target(tokens=1e6),
  )  # fmt: skip
  steps = round(1e6 / (8 * 32))
  assert found.config['steps'] == steps
  assert field(found.config, 'optimizer.warmup_steps') == steps // 10
  assert field(found.config, 'optimizer.decay_steps') == steps // 5
  assert '20 of 200' in found.rules['optimizer.warmup_steps']


@pytest.mark.parametrize('overrides', [SPECTRAL, COMPLETEP], ids=str)
def test_the_time_scale_of_the_decay_is_the_one_of_the_law(overrides):
  """The decay of a step of a matrix, all factors included, follows the law."""

  def setting_of(run):
    shapes = jax.eval_shape(make_recipe(run).init)
    return setting(run, count(shapes.params))

  def step_decay(run):
    factors = parametrization_of(run.model).factors('matrix', ('embed', 'mlp'))
    return (
      run.optimizer.weight_decay * factors.weight_decay * factors.learning_rate
    )

  target = Target(width=128, tokens=2e6)
  before = train_config(config(**overrides))
  after = train_config(transfer(config(**overrides), target).config)
  wanted = change(WEIGHT_DECAY, setting_of(before), setting_of(after))
  assert step_decay(after) / step_decay(before) == pytest.approx(
    wanted, rel=1e-3
  )
  assert parametrization_of(after.model).decay == pytest.approx(
    step_decay(after) / after.optimizer.weight_decay
  )


def test_what_does_not_decay_stays():
  for overrides in (
    {'optimizer.weight_decay': 0.0},
    {'optimizer.hyperball': True},
  ):
    tuned = config(**SPECTRAL | overrides)
    found = transfer(tuned, Target(width=128, tokens=2e6)).config
    assert field(found, 'optimizer.weight_decay') == field(
      tuned, 'optimizer.weight_decay'
    )


def test_the_standard_parametrization_goes_by_a_law_or_not_at_all():
  found = transfer(config(), Target(width=128))
  assert field(found.config, 'optimizer.learning_rate') < 0.005
  assert 'Porian' in found.rules['optimizer.learning_rate']
  with pytest.raises(ValueError, match='no published law'):
    transfer(config(**{'optimizer.name': 'lion'}), Target(width=128))


def test_the_file_is_the_configuration_with_reasons(tmp_path, capsys):
  tuned = config(**SPECTRAL)
  transfer_and_print(
    tuned,
    Target(width=128, depth=4, batch_size=32, tokens=3e6),
    base=to_dict(base.get_config()),
    origin='configs/tuned.py',
    workdir=tmp_path,
  )
  file = tmp_path / 'transferred.py'
  assert str(file) in capsys.readouterr().out
  found = check(runpy.run_path(str(file))['get_config']())
  wanted = transfer(
    tuned, Target(width=128, depth=4, batch_size=32, tokens=3e6)
  )
  assert to_dict(found) == wanted.config
  train_config(found)
  lines = file.read_text().splitlines()
  assert max(map(len, lines)) <= 80
  assert 'configs/tuned.py' in lines[0]
  for name in wanted.rules:
    (at,) = (i for i, x in enumerate(lines) if f'config.{name} = ' in x)
    assert lines[at - 1].strip().startswith('# '), name


def test_a_file_has_mixtures_and_all_that_differs(tmp_path):
  config = base.get_config()
  for name in ('one', 'two'):
    config.data.mixture[name] = base.dataset()
  config.data.mixture.two.weights = ('0: 0.7', '8_000: 0.2')
  config.data.mixture.two.files = tuple(f'/data/part_{i:09}' for i in range(9))
  config.optimizer.clip_norm = None
  text = config_text(
    to_dict(config),
    to_dict(default_of(config.to_dict())),
    title='A mixture.',
    why={},
    notes=(),
  )
  (tmp_path / 'file.py').write_text(text)
  found = runpy.run_path(str(tmp_path / 'file.py'))['get_config']()
  assert found.to_dict() == config.to_dict()
  assert text.count('config.data.mixture.one') == 1


def test_a_ladder_takes_the_rate_to_every_rung():
  """Their base is that of the run, and its factors are not applied twice."""
  rungs = {}
  for name, overrides in (('adamw', COMPLETEP), ('muon', SPECTRAL)):
    run = train_config(config(**overrides | LARGE))
    rungs[name] = candidates(
      run, own=matmul_parameters(run.model), ratios=(20.0,), multiple=1,
      stages=1, count=lambda config: matmul_parameters(config.model),
    )  # fmt: skip
  assert len(rungs['muon']) > 5
  for (adamw,), (muon,) in zip(rungs['adamw'], rungs['muon'], strict=True):
    for fields in (adamw.fields, muon.fields):
      assert fields['model.base_embed_dim'] == 96
      assert fields['model.base_num_layers'] == 12
      root = (fields['batch_size'] / 256) ** 0.5
      assert fields['optimizer.learning_rate'] == pytest.approx(
        0.01 * root, rel=0.1
      )
    # Of the run itself 'spectral' divides by 8, of a rung by less.
    wider = muon.fields['model.embed_dim'] / 96
    assert muon.fields['optimizer.weight_decay'] == pytest.approx(
      adamw.fields['optimizer.weight_decay'] * wider / 8, rel=1e-3
    )
