"""Every configuration in configs/ describes a model that can be built."""

import importlib
import json
import pathlib
import re

import jax
import pytest
from ml_collections import ConfigDict

from configs import base, check
from input_pipeline.augmentation.config import augmentation_config
from input_pipeline.config import data_config
from model.params import count
from train.config import train_config
from train.mesh import make_mesh
from train.state import make_recipe, state_shardings

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / 'configs'
NAMES = sorted(
  path.stem
  for path in CONFIGS.glob('*.py')
  if 'def get_config(' in path.read_text()
)
# Published sizes: GPT-2 with 47 padding rows of 768; Llama 2 and 3.
PARAMETERS = {
  'gpt2_124m': 124_439_808 + 47 * 768,
  'llama_1b': 1_235_814_400,
  'mixtral_8x7b': 46_702_792_704,
  'llama2_7b': 6_738_415_616,
  'llama3_8b': 8_030_261_248,
  'llama3_70b': 70_553_706_496,
  'llama3_405b': 405_853_388_800,
}


def load(name: str) -> ConfigDict:
  return importlib.import_module(f'configs.{name}').get_config()


@pytest.mark.parametrize('name', NAMES)
def test_config_builds_on_eight_devices(name):
  config = check.check(load(name))
  data_config(config)
  augmentation_config(config)
  run = train_config(config)
  recipe = make_recipe(run)
  shardings = state_shardings(recipe, make_mesh(run.mesh))
  params = jax.eval_shape(recipe.init).params
  assert jax.tree.structure(params) == jax.tree.structure(shardings.params)
  assert count(params) == PARAMETERS.get(name, count(params))


@pytest.mark.parametrize('name', NAMES)
def test_config_survives_json(name):
  config = load(name)
  again = check.from_dict(json.loads(json.dumps(check.to_dict(config))))
  assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize('name', NAMES)
def test_config_has_a_lab_notebook(name):
  notes = importlib.import_module(f'configs.{name}').__doc__
  assert name == 'base' or 'main.py' in notes


def test_unknown_field_names_the_nearest():
  config = base.get_config()
  config.optimizer.unlock()
  config.optimizer.learnin_rate = 1.0
  with pytest.raises(
    ValueError, match=r'mean config\.optimizer\.learning_rate'
  ):
    check.check(config)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('steps', 1.5, 'config.steps is 1.5, a float; it takes int'),
    ('log.tensorboard', 1, 'config.log.tensorboard is 1'),
    ('steps', True, 'config.steps is True'),
    ('model.head_dim', 'wide', 'config.model.head_dim'),
    ('data.files', [1], 'config.data.files'),
  ],
)
def test_wrong_type_names_the_field(field, value, message):
  saved = check.to_dict(base.get_config())
  node = saved
  *sections, last = field.split('.')
  for section in sections:
    node = node[section]
  node[last] = value
  with pytest.raises(ValueError, match=re.escape(message)):
    check.from_dict(saved)


def test_missing_field_is_named():
  config = base.get_config()
  del config.model.mlp_dim
  with pytest.raises(ValueError, match='mlp_dim'):
    check.check(config)


def mixed() -> ConfigDict:
  config = base.get_config()
  config.data.mixture.code = base.dataset()
  config.data.mixture.code.weights = ('0: 0.3', '500: 0.1')
  config.data.mixture.web = base.dataset()
  return config


def test_a_mixture_has_free_names_and_survives_json():
  config = check.check(mixed())
  again = check.from_dict(json.loads(json.dumps(check.to_dict(config))))
  assert again.to_dict() == config.to_dict()
  assert again.data.mixture.code.weights == ('0: 0.3', '500: 0.1')


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    (
      'code.wights',
      ('1',),
      r'no field config\.data\.mixture\.code\.wights\. '
      r'Did you mean config\.data\.mixture\.code\.weights',
    ),
    ('code.weights', 0.3, r'mixture\.code\.weights is 0\.3, a float'),
    ('code.weights', (0.3,), r'mixture\.code\.weights .* takes strings'),
    ('web.curation.profile', 5, r'mixture\.web\.curation\.profile is 5'),
    ('web', 0.3, r'mixture\.web is 0\.3; .*configs\.base\.dataset\(\)'),
  ],
)
def test_a_mistake_in_a_mixture_is_named(field, value, message):
  saved = check.to_dict(mixed())
  node = saved['data']['mixture']
  *sections, last = field.split('.')
  for section in sections:
    node = node[section]
  node[last] = value
  with pytest.raises(ValueError, match=message):
    check.from_dict(saved)


def test_fields_that_a_mixture_would_ignore_are_named():
  for field, value in (('split', 'train[:1%]'), ('files', ('a',))):
    config = mixed()
    config.data[field] = value
    with pytest.raises(
      ValueError, match=rf'config\.data\.{field} is .*for code, web'
    ):
      check.check(config)


def test_every_default_has_a_comment():
  parts = ('base.py', 'faults.py', 'model.py')
  lines = '\n'.join((CONFIGS / p).read_text() for p in parts).splitlines()
  for number, line in enumerate(lines):
    name = line.strip().partition(' = ')[0]
    section, _, field = name.partition('.')
    described = lines[number - 1].strip().startswith('#')
    listed = lines[number - 1].strip().startswith(f'{section}.')
    if field and ' = ' in line and not line.strip().endswith(')'):
      assert described or listed, f'line {number + 1}: {line}'
