"""The host's memory holds what it should, and the numbers stay what they were.

Two programs round alike but for the last bits. What a TPU saves is in
tests/test_plan_offload.py.
"""

import dataclasses
import types

import cases
import jax
import pytest
from etils import epath

from model.params import HOST_MEMORY
from train.checkpoint import Checkpoints
from train.checkpoint_info import Info
from train.early_stopping import NO_EVALUATION
from train.mesh import batch_sharding
from train.planning.layout import lay_out
from train.planning.memory import split_by_memory
from train.setup import check_offload, make_setup
from train.state import (
  abstract_state,
  init_state,
  state_shardings,
)
from train.step import jit_eval_step, jit_train_step

STATE = {'offload.parameters': True, 'offload.optimizer': True}
CUBE = {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2}
AVERAGE = {'optimizer.ema_decay': 0.9, 'optimizer.shard_axes': ('data',)}


def run(rows_BR, **overrides):
  """Metrics of two steps and an evaluation, and the state after them."""
  recipe = cases.recipe(**CUBE | AVERAGE | overrides)
  mesh = cases.mesh_of(recipe, 8)
  shardings = state_shardings(recipe, mesh)
  rows = batch_sharding(
    mesh,
    recipe.config.mesh.rules,
    batch_size=len(rows_BR),
    field='batch_size',
  )
  step = jit_train_step(recipe, cases.MARKS, shardings, rows)
  evaluate = jit_eval_step(recipe, cases.MARKS, shardings, rows)
  found = []
  with jax.set_mesh(mesh):
    state = jax.device_put(cases.random_state(recipe), shardings)
    rows_BR = jax.device_put(rows_BR, rows)
    for _ in range(2):
      state, metrics = step(state, rows_BR)
      found.append(metrics)
    found.append(evaluate(state.eval_params, rows_BR))
  assert places(state) == places(shardings)
  return found, state


def places(tree):
  """The memory that each leaf lies in, or is to lie in."""
  return {
    path: getattr(leaf, 'sharding', leaf).memory_kind
    for path, leaf in cases.leaves(tree).items()
  }


def on_host(state):
  """The parts of a state that lie in the host's memory."""
  return {
    path.partition('.')[0]
    for path, kind in places(state).items()
    if kind == HOST_MEMORY
  }


@pytest.fixture(scope='module')
def plain():
  return run(cases.packed_rows())


@pytest.mark.parametrize(
  ('overrides', 'parts'),
  [
    (STATE, {'params', 'opt_state', 'ema'}),
    pytest.param(
      {'offload.parameters': True}, {'params'}, marks=pytest.mark.slow
    ),
    pytest.param(
      {'offload.optimizer': True}, {'opt_state', 'ema'}, marks=pytest.mark.slow
    ),
  ],
  ids=['both', 'parameters', 'optimizer'],
)
def test_a_state_on_the_host_is_updated_as_one_on_the_devices(
  overrides, parts, rows_BR, plain
):
  found, state = run(rows_BR, **overrides)
  assert on_host(state) == parts
  assert on_host(plain[1]) == set()
  # Counters stay on the devices.
  assert state.step.sharding.memory_kind == 'device'
  cases.assert_trees_close((found, state), plain, rtol=1e-6)


@pytest.mark.parametrize(
  'overrides',
  [
    pytest.param(
      {'accumulation_steps': 2, 'batch_size': 16, 'model.num_layers': 1},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {'model.moe.num_experts': 4, 'model.moe.balance_rate': 0.01},
      marks=pytest.mark.slow,
    ),
    pytest.param({'optimizer.name': 'adafactor'}, marks=pytest.mark.slow),
    pytest.param({'optimizer.name': 'muon'}, marks=pytest.mark.slow),
    pytest.param({'model.scan_layers': False}, marks=pytest.mark.slow),
    pytest.param(
      {'mesh.stage': 2, 'mesh.data': 1, 'microbatches': 2},
      marks=pytest.mark.slow,
    ),
  ],
  ids=str,
)
def test_a_state_on_the_host_goes_with_all_else(overrides):
  rows_BR = cases.packed_rows(batch=overrides.get('batch_size', 8))
  cases.assert_trees_close(
    run(rows_BR, **overrides | STATE), run(rows_BR, **overrides), rtol=1e-6
  )


@pytest.mark.parametrize(
  ('remat', 'names', 'overrides'),
  [
    ('full', ('layer_input', 'query', 'context', 'mlp_up'), {}),
    pytest.param(
      'projections',
      ('layer_input', 'mlp_gate', 'mlp_out'),
      STATE,
      marks=pytest.mark.slow,
    ),
    pytest.param(
      'attention',
      ('key', 'value', 'attention_out', 'mlp_up'),
      {'model.moe.num_experts': 4},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      'full',
      ('layer_input',),
      {'mesh.stage': 2, 'mesh.data': 1, 'microbatches': 2},
      marks=pytest.mark.slow,
    ),
  ],
)
def test_activations_on_the_host_give_the_same_gradients(
  remat, names, overrides, rows_BR
):
  overrides = overrides | {'model.remat': remat}
  found = run(rows_BR, **overrides, **{'offload.activations': names})
  wanted = run(rows_BR, **overrides)
  # Another program, whose sums may be rounded in another order.
  cases.assert_trees_close(found[0], wanted[0], rtol=1e-5)
  cases.assert_trees_close(found[1], wanted[1], rtol=1e-4)


@pytest.mark.parametrize(
  ('saved', 'restored'), [({}, STATE), (STATE, {}), (STATE, STATE)]
)
def test_a_checkpoint_comes_back_to_where_the_run_keeps_it(
  saved, restored, tmp_path
):
  def laid_out(overrides):
    recipe = cases.recipe(**CUBE | AVERAGE | overrides)
    return recipe, state_shardings(recipe, cases.mesh_of(recipe, 8))

  state = init_state(*laid_out(saved))
  assert bool(on_host(state)) == bool(saved)
  info = Info(step=3, config={}, data_fingerprint='f', best=NO_EVALUATION)
  abstract = abstract_state(*laid_out(restored))
  with Checkpoints(epath.Path(tmp_path) / 'c', keep_last=2) as checkpoints:
    checkpoints.save(state, info)
    found = checkpoints.restore(3, abstract)
    params = checkpoints.restore_params(3, abstract)
  assert cases.same_bits((found, params), (state, state.ema))
  assert places(found) == places(abstract)
  assert places(params) == places(abstract.ema)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    (
      {'offload.activations': ('mlp_down',), 'model.remat': 'full'},
      r"offload\.activations has 'mlp_down'; choose from \('layer_input', ",
    ),
    (
      {'offload.activations': ('query',)},
      r"model\.remat = 'none'.*set model\.remat = 'products'",
    ),
    (
      {
        'offload.activations': ('mlp_gate',),
        'model.remat': 'full',
        'model.mlp': 'gelu',
      },
      r"'mlp_gate', and model\.mlp = 'gelu' has no gate",
    ),
  ],
)
def test_what_cannot_be_offloaded_is_told(overrides, message):
  with pytest.raises(ValueError, match=message):
    cases.tiny_train_config(**overrides)


def test_devices_without_memory_of_the_host_are_refused():
  device = types.SimpleNamespace(
    device_kind='fake',
    addressable_memories=lambda: [types.SimpleNamespace(kind='device')],
  )
  mesh = types.SimpleNamespace(devices=types.SimpleNamespace(flat=[device]))
  with pytest.raises(
    ValueError, match=r"offload\.optimizer is True.*only \['device'\].*False"
  ):
    check_offload(cases.tiny_train_config(**{'offload.optimizer': True}), mesh)
  check_offload(cases.tiny_train_config(), mesh)
  make_setup(cases.tiny_train_config(**STATE | CUBE))


def test_a_plan_counts_the_host_apart():
  plain, offloaded = (
    lay_out(cases.tiny_train_config(**CUBE | AVERAGE | more), 8)
    for more in ({}, STATE)
  )
  state = jax.eval_shape(plain.recipe.init)
  parts, host = split_by_memory(state, plain.shardings)
  assert (parts, host) == (plain.bytes, 0)
  parts, host = split_by_memory(state, offloaded.shardings)
  assert host + sum(parts.values()) == sum(plain.bytes.values())
  assert parts['parameters'] == parts['average'] == 0
  # Counters of the optimizer.
  assert 0 < parts['optimizer'] < 64
  assert dataclasses.asdict(plain.config) != dataclasses.asdict(
    offloaded.config
  )
