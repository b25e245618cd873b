"""What a restart compares, on literals."""

import pytest
from etils import epath

from configs import base, check
from train.checkpoint_info import Info
from train.workdir import ChangedRunError, check_same_run, differences

SAVED = {'steps': 10, 'model': {'remat': 'none', 'mlp': 'gelu'}}


def compare(config, *, fingerprint='f', allow_change=False):
  return check_same_run(
    Info(step=3, config=SAVED, data_fingerprint='f'),
    config=config,
    data_fingerprint=fingerprint,
    workdir=epath.Path('runs/x'),
    allow_change=allow_change,
  )


def test_equal_configurations_have_no_differences():
  assert compare(SAVED) == []


def test_fields_that_do_not_change_the_result_may_change():
  config = check.to_dict(base.get_config())
  changed = check.to_dict(base.get_config())
  changed['mesh']['fsdp'] = 8
  changed['log']['every'] = 1
  changed['checkpoint']['every'] = 1
  changed['data']['directory'] = 'elsewhere'
  changed['model']['remat'] = 'full'
  changed['model']['attention'] = 'xla'
  changed['model']['splash_block_q'] = 128
  assert differences(config, changed) == []
  # A name that begins like one that is free.
  changed['model']['attention_softcap'] = 30.0
  assert differences(config, changed) == [
    'model.attention_softcap: None -> 30.0'
  ]


def test_any_other_change_is_refused_with_both_values():
  changed = {'steps': 20, 'model': {'remat': 'full', 'mlp': 'swiglu'}}
  with pytest.raises(ChangedRunError) as error:
    compare(changed, fingerprint='g')
  message = str(error.value)
  for line in (
    'steps: 10 -> 20',
    'model.mlp: gelu -> swiglu',
    'data fingerprint: f -> g',
    '--allow_change',
  ):
    assert line in message
  assert 'remat' not in message


def test_an_allowed_change_is_returned_for_the_record():
  changed = {'steps': 20, 'model': {'remat': 'none', 'mlp': 'gelu'}}
  assert compare(changed, allow_change=True) == ['steps: 10 -> 20']


def test_changed_weights_come_with_a_hint():
  def mixture(*weights):
    return {'data': {'mixture': {'code': {'weights': list(weights)}}}}

  info = Info(
    step=3,
    config=mixture('0.5'),
    data_fingerprint='f',
  )
  arguments = {
    'config': mixture('0.5', '3: 0.1'),
    'data_fingerprint': 'f',
    'workdir': epath.Path('runs/x'),
  }
  with pytest.raises(ChangedRunError, match=r"another: '3: WEIGHT'"):
    check_same_run(info, **arguments, allow_change=False)
  assert check_same_run(info, **arguments, allow_change=True) == [
    "data.mixture.code.weights: ['0.5'] -> ['0.5', '3: 0.1']"
  ]


def test_new_and_removed_fields_count_as_changes():
  assert differences({'a': 1}, {'b': 2}) == ['a: 1 -> absent', 'b: absent -> 2']
