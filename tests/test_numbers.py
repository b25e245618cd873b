"""Every number of the configuration is refused where it means nothing."""

import functools
import math

import pytest
import test_main

from configs import base
from configs.check import check, fields, from_dict, to_dict
from input_pipeline.augmentation.config import augmentation_config
from input_pipeline.config import training_data
from train.config import train_config
from train.planning.command import plan_run

MIXTURE = 'data.mixture.one.'


@functools.cache
def default(mixed):
  """The default, alone or with a mixture; made once, as that takes long."""
  config = base.get_config()
  if mixed:
    config.data.mixture.one = base.dataset()
  return config


def numbers(kind):
  """Names of the fields that hold such numbers."""
  found = fields(default(False)) | fields(default(True))
  return [name for name, (_, wanted) in found.items() if wanted is kind]


def read(config):
  """All that reads a configuration before a device is touched."""
  check(config)
  run = train_config(config)
  training_data(config)
  augmentation_config(config)
  plan_run(
    run, topology='v5p:2x2x1', prices=dict(config.planning.prices),
    cache=None, augmented=False, searched=config.planning.searched,
    workdir=None, as_json=True,
  )  # fmt: skip


class Planned(Exception):
  """The configuration was found to be good."""


@pytest.fixture(autouse=True)
def plan_nothing(monkeypatch):
  """Stops once nothing is left to be checked."""

  def search(*arguments, **named):
    raise Planned

  monkeypatch.setattr('train.planning.command.search', search)


def refusal(name, value):
  """The message that refuses a value, and names its field."""
  config = default(name.startswith(MIXTURE))
  before = config.to_dict()
  config.update_from_flattened_dict({name: value})
  try:
    with pytest.raises(ValueError, match=name.rpartition('.')[2]) as error:
      read(config)
  finally:
    config.update(before)
  return str(error.value)


@pytest.mark.parametrize('mixed', [False, True])
def test_the_defaults_are_good(mixed):
  with pytest.raises(Planned):
    read(default(mixed))
  assert len(numbers(float)) > 150
  assert len(numbers(int)) > 60


@pytest.mark.parametrize('value', ['nan', '1e400'])
def test_no_field_takes_what_is_no_finite_number(value):
  for name in numbers(float):
    assert 'finite' in refusal(name, float(value)), name


def test_no_field_is_negative_but_those_that_say_so():
  for kind in (int, float):
    for name in numbers(kind):
      # -1: what the other axes leave.
      if not name.startswith('mesh.'):
        refusal(name, kind(-1))


def test_whole_numbers_have_64_bits_and_seeds_32():
  for name in numbers(int):
    refusal(name, 10**400)
  # JAX would take it for another seed, without a word.
  assert 'it must lie in 0 to 4294967295' in refusal('seed', 1 << 32)


def test_a_saved_configuration_is_checked_like_a_given_one():
  saved = to_dict(default(False))
  saved['optimizer']['learning_rate'] = math.nan
  with pytest.raises(ValueError, match=r'config\.optimizer\.learning_rate is'):
    from_dict(saved)


@pytest.mark.parametrize('override', ['optimizer.epsilon=1e400', 'seed=-1'])
def test_the_command_line_is_no_exception(override, tmp_path):
  message = test_main.fails(
    test_main.CONFIG, f'--config.{override}', f'--workdir={tmp_path / "run"}'
  )
  assert override.partition('=')[0] in message
