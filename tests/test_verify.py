"""`verify` passes right meshes, names wrong ones, and says what cannot be."""

import math

import jax
import pytest
from ml_collections import ConfigDict

import train.verify
from configs import base, mixtral_8x7b, tiny
from configs.check import to_dict
from model import loss
from train.config import train_config
from train.verify import (
  TOLERANCE,
  Case,
  cases,
  line,
  meshes,
  small_config,
  verify,
)


def results(config: ConfigDict, devices: int):
  return {r.mesh: r for r in verify(to_dict(config), jax.devices()[:devices])}


def test_every_factorisation_is_met_once():
  found = [tuple(m.values()) for m in meshes(8, ['data', 'fsdp', 'tensor'])]
  # 2 x 2 x 2 in three places: as many as 3 balls and 2 bars.
  assert len(found) == len(set(found)) == math.comb(5, 2)
  assert all(math.prod(shape) == 8 for shape in found)


def test_every_kernel_and_way_to_split_rows_is_met():
  config = to_dict(mixtral_8x7b.get_config())
  found = list(map(str, cases(config, 8)))
  assert len(found) == len(set(found))
  # Six axes: as many meshes as 3 balls and 5 bars.
  assert sum(',' not in name for name in found) == math.comb(8, 5)
  assert {'context 8', 'stage 2 x expert 4', 'tensor 4, splash_interpreted',
          'data 2 x context 2, ring',
          'context 2 x tensor 2, ulysses',
          'context 4, splash_interpreted, all_gather',
          'context 4, splash_interpreted, ulysses'} <= set(found)  # fmt: skip
  # All of them, but for what no model supports.
  assert not any('splash' in name and 'ring' in name for name in found)


def test_small_keeps_what_is_switched_on():
  config = mixtral_8x7b.get_config()
  config.model.sliding_window = 1_024
  config.accumulation_steps = 8
  config.model.residual_dropout = 0.1
  run = train_config(small_config(to_dict(config)))
  assert run.model.num_heads == 4 * run.model.num_kv_heads == 32
  assert run.model.moe.num_experts == 8
  assert run.model.moe.experts_per_token == 2
  assert run.model.remat == 'full'
  assert run.model.residual_dropout == 0.1
  assert run.model.sliding_window == 16
  assert run.accumulation_steps == 2
  assert run.model.rope_theta == 1_000_000
  assert config.model.embed_dim == 4_096


def test_each_stage_has_a_layer_and_a_microbatch():
  config = to_dict(tiny.get_config())
  for stages, expected in ((1, 1), (2, 2), (8, 8)):
    case = Case(shape={'stage': stages})
    run = train.verify._config(config, case, stages)
    assert run.model.num_layers == max(2, expected)
    assert run.model.microbatches == expected


@pytest.mark.slow
def test_meshes_that_are_right_or_do_not_fit():
  # Three heads, of which two devices cannot have half each.
  found = results(tiny.get_config(), 2)
  assert set(found) == {
    'stage 2', 'data 2', 'fsdp 2', 'context 2', 'tensor 2',
    'one device, splash_interpreted',
  }  # fmt: skip
  refused = found.pop('tensor 2')
  assert refused.ok
  assert "'kv_heads' has 1 entries" in line(refused)
  for result in found.values():
    assert result.ok
    assert 0 < result.gradient_error < TOLERANCE
    assert 'WRONG' not in line(result)


def test_a_mesh_that_is_wrong_is_named(monkeypatch):
  config = base.get_config()
  config.model.num_layers = 1
  monkeypatch.setattr(loss, '_psum', lambda tree, axes: tree)
  monkeypatch.setattr(
    train.verify, 'cases', lambda *_: [Case(shape={'tensor': 2})]
  )
  found = results(config, 2)
  assert not found['tensor 2'].ok
  assert line(found['tensor 2']).endswith('WRONG')
