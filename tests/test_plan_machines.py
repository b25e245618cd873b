"""Machines to plan for: names, the chip table, the compiler's options."""

import dataclasses

import pytest

from train import chips, compiler_options
from train.planning import topologies


@pytest.mark.parametrize(
  ('name', 'chip', 'shape', 'devices'),
  [
    ('v4:2x2x1', 'v4', (2, 2, 1), 4),
    ('v5e:16x16', 'v5e', (16, 16), 256),
    ('v5p:4x4x4', 'v5p', (4, 4, 4), 64),
    ('v5p:8x4x12', 'v5p', (8, 4, 12), 384),
    ('v6e:1x1', 'v6e', (1, 1), 1),
    ('tpu7x:4x4x4', 'tpu7x', (4, 4, 4), 128),
    ('h100:8x8', 'h100', (8, 8), 64),
  ],
)
def test_a_name_says_chip_and_shape(name, chip, shape, devices):
  found = topologies.parse(name)
  assert (found.chip.name, found.shape, found.devices) == (chip, shape, devices)
  assert str(found) == name
  assert found.devices == found.chips * found.chip.devices


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('v7:2x2', "no chip 'v7'; there are v4, v5e, v5p, v6e, tpu7x, a100"),
    ('v5:4x4x4', 'Did you mean v5'),
    ('V5P:4x4x4', 'Did you mean v5p'),
    ('v5p', 'chips along each dimension, as in v4:4x4x4'),
    ('v5p:4x4', 'v5p has no slice 4x4; there are 2x2x1, 2x2x2'),
    ('v5p:4x4x5', 'multiples of 4'),
    ('v5e:3x3', 'v5e has no slice 3x3; there are 1x1, 2x2'),
    ('v5e:0x4', 'chips along each dimension'),
    ('v5p-128', '64 chips), and not how they are joined. It may be v5p:4x4x4'),
    ('v5e-16', 'counts chips (16 chips)'),
    ('h100:8', 'hosts and GPUs of a host, such as h100:8x8'),
  ],
)
def test_an_unknown_machine_is_told_which_there_are(name, message):
  with pytest.raises(ValueError, match='--topology') as error:
    topologies.parse(name)
  assert message in str(error.value)


def test_slices_are_those_of_the_mesh():
  two = topologies.parse('v5e:2x2', (1, 2, 1, 1, 1, 1))
  assert (two.chips, str(two)) == (8, '2 x v5e:2x2')
  # The name of GPUs counts all of them.
  assert topologies.parse('h100:2x8', (1, 2, 1, 1, 1, 1)).chips == 16
  with pytest.raises(ValueError, match=r'mesh\.dcn is \(1, -1\)'):
    topologies.parse('v5e:2x2', (1, -1))


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(topologies, 'libtpu_version', lambda: None)
  with pytest.raises(ValueError, match=r'requirements/tpu\.txt'):
    topologies.devices(topologies.parse('v5p:4x4x4'))


def test_a_device_knows_its_chip():
  assert chips.chip_of('TPU v5 lite') is chips.CHIPS['v5e']
  assert chips.chip_of('cpu') is None
  # A TPU7x chip is two devices.
  assert chips.peak_flops('TPU7x') == 2307e12 / 2
  assert chips.peak_flops('NVIDIA H100 80GB HBM3') == 989e12
  assert chips.peak_flops('cpu') is None


def test_the_table_is_whole_and_plausible():
  kinds = [kind for chip in chips.CHIPS.values() for kind in chip.device_kinds]
  assert len(kinds) == len(set(kinds))
  for chip in chips.CHIPS.values():
    assert 0.85 * chip.hbm < chip.usable_hbm <= chip.hbm
    assert chip.dcn_bandwidth < chip.ici_bandwidth < chip.hbm_bandwidth
    # Between 100 and 400 operations for a byte: all of them are balanced so.
    assert 100 < chip.peaks['bfloat16'] / chip.hbm_bandwidth < 600
    # No chip reaches its peak, nor leaves a third of it.
    assert 2 / 3 < chip.matmul / chip.peaks['bfloat16'] < 1
    assert chip.host_bandwidth < chip.ici_bandwidth
    assert (chip.hides == 1) == chip.is_tpu
    assert chip.is_tpu == (chip.name in compiler_options.COMPILER_OPTIONS)
    assert (chip.clock > 0) == chip.is_tpu == (chip.wraps_at > 0)


def test_options_are_those_of_the_chip():
  options = compiler_options.compiler_options
  assert options('TPU v6 lite') is compiler_options.COMPILER_OPTIONS['v6e']
  assert options('cpu') == {}
  assert options('NVIDIA H200') == {}


def test_a_refused_option_is_named():
  options = {'xla_tpu_one': '1', 'xla_tpu_one_more': 'true'}
  error = RuntimeError(
    "INVALID_ARGUMENT: No such compile option: 'xla_tpu_one_more'\n  trace"
  )
  refused = compiler_options.refused_option(error, options, 'TPU v5')
  assert refused is not None
  assert 'refuses xla_tpu_one_more=true for TPU v5: No such' in str(refused)
  assert 'xla_tpu_one=' not in str(refused)
  assert 'trace' not in str(refused)
  assert isinstance(refused, ValueError)


@pytest.mark.parametrize(
  'message',
  [
    'INTERNAL: something else',
    'RESOURCE_EXHAUSTED: out of memory with xla_tpu_one',
  ],
)
def test_another_error_blames_no_option(message):
  options = {'xla_tpu_one': '1'}
  refused = compiler_options.refused_option
  assert refused(RuntimeError(message), options, 'TPU v5') is None


def test_a_torus_dimension_of_another_chip_is_its_own():
  chip = dataclasses.replace(chips.CHIPS['v5e'], devices=2)
  assert topologies.Topology(chip, (2, 2)).devices == 8
