"""Every mesh computes what one device computes, and splits what it should."""

import dataclasses
import math

import cases
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from meshes import ONE, on_mesh, rows_on, run_gradients

from model.flops import matmul_parameters
from train.config import MESH_AXES, MeshConfig
from train.mesh import (
  batch_sharding,
  check_length,
  make_mesh,
  mesh_shape,
  split_further,
)
from train.optimizer import OPTIMIZERS
from train.state import init_state, state_shardings
from train.step import jit_train_step

CUBE = {'data': 2, 'fsdp': 2, 'tensor': 2}
FLAT = {'data': 1, 'fsdp': 2, 'tensor': 4}
MESHES = [
  pytest.param({'data': 8}, marks=pytest.mark.slow),
  pytest.param({'data': 1, 'fsdp': 8}, marks=pytest.mark.slow),
  CUBE,
  FLAT,
  {'data': 1, 'expert': 2, 'context': 2, 'tensor': 2},
  pytest.param({'data': 1, 'context': 8}, marks=pytest.mark.slow),
  # Two slices, and within each the rest.
  {'data': 1, 'dcn.data': 2, 'fsdp': 2, 'tensor': 2},
]
meshes = pytest.mark.parametrize('shape', MESHES, ids=str)

# Dropout and bias too: every mesh has to draw the same masks.
OVERRIDES = {
  'model.use_bias': True,
  'model.tie_embeddings': False,
  'model.positions': 'learned',
  'model.residual_dropout': 0.1,
}


@pytest.fixture(scope='module')
def one_device():
  return run_gradients(ONE, cases.packed_rows(), **OVERRIDES)


@meshes
def test_loss_and_gradients_are_those_of_one_device(shape, one_device, rows_BR):
  grads, sums = run_gradients(shape, rows_BR, **OVERRIDES)
  cases.assert_trees_close(sums, one_device[1], rtol=1e-6)
  cases.assert_trees_close(grads, one_device[0], rtol=1e-5)
  wanted = {
    path: leaf.shape for path, leaf in cases.leaves(one_device[0]).items()
  }
  assert {p: g.shape for p, g in cases.leaves(grads).items()} == wanted


EVERYWHERE = {
  f'model.{name}_dropout': 0.1 for name in ('embedding', 'residual', 'mlp')
}
GROUPED = {'model.num_kv_heads': 2, 'model.sliding_window': 7}
SPLASH = {'model.attention': 'splash_interpreted', 'sequence_length': 512}


@pytest.mark.parametrize(
  ('shape', 'overrides'),
  [
    (
      {'data': 1, 'context': 4, 'tensor': 2},
      {'model.context_parallelism': 'ring'} | GROUPED | EVERYWHERE,
    ),
    (
      {'data': 2, 'context': 2, 'tensor': 2},
      {'model.context_parallelism': 'ulysses', 'model.attention_dropout': 0.1},
    ),
    pytest.param(
      {'data': 1, 'fsdp': 2, 'context': 2, 'tensor': 2},
      SPLASH | GROUPED | EVERYWHERE | {'model.remat': 'attention'},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      {'data': 2, 'context': 2, 'tensor': 2},
      SPLASH | {'model.context_parallelism': 'ulysses'},
      marks=pytest.mark.slow,
    ),
  ],
  ids=str,
)
def test_rows_that_are_split_give_what_one_device_gives(shape, overrides):
  rows_BR = cases.packed_rows(tokens=overrides.get('sequence_length', 32) + 1)
  reference = overrides | {'model.attention': 'xla'}
  wanted_grads, wanted_sums = run_gradients(ONE, rows_BR, **reference)
  grads, sums = run_gradients(shape, rows_BR, **overrides)
  cases.assert_trees_close(sums, wanted_sums, rtol=1e-6)
  cases.assert_trees_close(grads, wanted_grads, rtol=1e-5)


def one_step(shape, rows_BR):
  overrides = {
    'accumulation_steps': 2, 'batch_size': 16, 'optimizer.name': 'sgd',
    'optimizer.shard_axes': ('data',),
  }  # fmt: skip
  recipe, mesh = on_mesh(shape, **overrides)
  shardings = state_shardings(recipe, mesh)
  rows_BR = rows_on(mesh, recipe, rows_BR)
  step = jit_train_step(recipe, cases.MARKS, shardings, rows_BR.sharding)
  with jax.set_mesh(mesh):
    state = jax.device_put(cases.random_state(recipe), shardings)
    state, metrics = step(state, rows_BR)
  where = jax.tree.map(
    lambda leaf, wanted: leaf.sharding.is_equivalent_to(wanted, leaf.ndim),
    state,
    shardings,
  )
  assert all(jax.tree.leaves(where))
  return state, metrics


def test_a_whole_step_is_that_of_one_device():
  rows_BR = cases.packed_rows(batch=16, seed=3)
  wanted_state, wanted_metrics = one_step(ONE, rows_BR)
  state, metrics = one_step(CUBE, rows_BR)
  cases.assert_trees_close(metrics, wanted_metrics, rtol=1e-5)
  cases.assert_trees_close(state, wanted_state, rtol=1e-5)


# Shapes of one device's part: (2, 2, 2) and FLAT, width 32, 4 heads of 8.
PARTS = {
  'blocks.attention.key.weight': ((2, 16, 2, 8), (2, 16, 1, 8)),
  'blocks.attention.out.weight': ((2, 2, 8, 16), (2, 1, 8, 16)),
  'blocks.attention.query.weight': ((2, 16, 2, 8), (2, 16, 1, 8)),
  'blocks.attention.value.weight': ((2, 16, 2, 8), (2, 16, 1, 8)),
  'blocks.attention_norm.scale': ((2, 32), (2, 32)),
  'blocks.mlp.down.weight': ((2, 32, 16), (2, 16, 16)),
  'blocks.mlp.gate.weight': ((2, 16, 32), (2, 16, 16)),
  'blocks.mlp.up.weight': ((2, 16, 32), (2, 16, 16)),
  'blocks.mlp_norm.scale': ((2, 32), (2, 32)),
  'embedding': ((32, 16), (16, 16)),
  'final_norm.scale': ((32,), (32,)),
  'head': ((32, 16), (16, 16)),
}


def initial(shape, seed=0):
  recipe, mesh = on_mesh(shape, seed=seed, **{'model.tie_embeddings': False})
  return init_state(recipe, state_shardings(recipe, mesh)).params


@pytest.mark.parametrize(('shape', 'column'), [(CUBE, 0), (FLAT, 1)])
def test_each_device_holds_its_part_of_the_parameters(shape, column):
  found = {}
  for path, leaf in cases.leaves(initial(shape)).items():
    (found[path],) = {shard.data.shape for shard in leaf.addressable_shards}
    assert len(leaf.addressable_shards) == 8
  assert found == {path: parts[column] for path, parts in PARTS.items()}


def test_the_same_seed_gives_the_same_bits_on_every_mesh():
  wanted = initial(ONE)
  for shape in [CUBE, FLAT]:
    assert cases.same_bits(initial(shape), wanted)
  other = initial(ONE, seed=1)
  assert not np.array_equal(other['embedding'], wanted['embedding'])


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_moments_and_averages_lie_like_their_parameters(name):
  recipe, mesh = on_mesh(
    CUBE,
    **{
      'optimizer.name': name,
      'optimizer.ema_decay': 0.9,
      'model.tie_embeddings': False,
    },
  )
  shardings = state_shardings(recipe, mesh)
  assert shardings.ema == shardings.params
  state = jax.eval_shape(recipe.init)
  # In this model, arrays of one shape are split in one way.
  parts = {
    leaf.shape: PARTS[path][0]
    for path, leaf in cases.leaves(state.params).items()
  }
  moments = 0
  for leaf, sharding in zip(
    jax.tree.leaves(state.opt_state),
    jax.tree.leaves(shardings.opt_state),
    strict=True,
  ):
    if leaf.shape in parts:
      assert sharding.shard_shape(leaf.shape) == parts[leaf.shape]
      moments += leaf.size
    else:
      # Counters, placeholders and Muon's three coefficients.
      assert leaf.size in (1, 3)
  values = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  matrices = matmul_parameters(recipe.config.model) - 32 * 64
  wanted = {
    'adamw': 2 * values, 'lion': values, 'sgd': values, 'adafactor': values,
    'muon': 2 * values - matrices,
  }  # fmt: skip
  assert moments == wanted[name]


def test_each_copy_of_the_model_keeps_its_share_of_the_moments():
  recipe, mesh = on_mesh(
    CUBE,
    **{
      'optimizer.ema_decay': 0.9,
      'optimizer.shard_axes': ('data',),
      'model.tie_embeddings': False,
    },
  )
  shardings = state_shardings(recipe, mesh)
  params = jax.eval_shape(recipe.init).params
  adam = next(s for s in shardings.opt_state if hasattr(s, 'mu'))
  assert adam.mu == adam.nu == shardings.ema
  for leaf, whole, share in zip(
    jax.tree.leaves(params),
    jax.tree.leaves(shardings.params),
    jax.tree.leaves(shardings.ema),
    strict=True,
  ):
    sizes = [math.prod(s.shard_shape(leaf.shape)) for s in (whole, share)]
    assert sizes == [math.prod(whole.shard_shape(leaf.shape)), sizes[0] // 2]


def test_a_share_takes_the_largest_dimension_that_fits():
  _, mesh = on_mesh(CUBE)

  def check(shape, before, after):
    sharding = NamedSharding(mesh, PartitionSpec(*before))
    found = split_further(shape, sharding, ('data',))
    wanted = NamedSharding(mesh, PartitionSpec(*after))
    assert found.is_equivalent_to(wanted, len(shape)), found

  check((64, 8, 12), (), (None, None, 'data'))
  check(
    (64, 8, 6), (None, 'fsdp', 'tensor'), (None, ('fsdp', 'data'), 'tensor')
  )
  # Layers only where nothing else divides; nothing where they do not.
  check((4, 3, 5), (), ('data',))
  check((5, 3), (), ())
  check((6,), (), ('data',))
  check((4, 8), ('data',), ('data',))


def mesh_config(rules=(('batch', ('data',)),), **sizes):
  def along(prefix):
    return tuple(sizes.get(f'{prefix}{axis}', 1) for axis in MESH_AXES)

  return MeshConfig(sizes=along(''), dcn=along('dcn_'), rules=rules)


def test_one_axis_takes_what_the_others_leave():
  def shape(**sizes):
    return mesh_shape(mesh_config(**sizes), 8)

  ones = (1,) * 6
  assert shape(data=-1, fsdp=2, tensor=2) == ((1, 2, 2, 1, 1, 2), ones)
  assert shape(stage=2, tensor=-1) == ((2, 1, 1, 1, 1, 4), ones)
  assert shape(data=8) == ((1, 8, 1, 1, 1, 1), ones)
  assert shape(fsdp=-1, dcn_data=2) == (
    (1, 1, 4, 1, 1, 1), (1, 2, 1, 1, 1, 1),
  )  # fmt: skip
  assert shape(fsdp=2, dcn_data=-1) == (
    (1, 1, 2, 1, 1, 1), (1, 4, 1, 1, 1, 1),
  )  # fmt: skip


def test_slices_lie_along_the_axes_of_the_slow_network():
  mesh = make_mesh(mesh_config(fsdp=2, tensor=2, dcn_data=2))
  ids = np.vectorize(lambda device: device.id)(mesh.devices)
  assert mesh.axis_names == MESH_AXES
  np.testing.assert_array_equal(ids.squeeze(), np.arange(8).reshape(2, 2, 2))
  # An axis of both networks: the slices are its outer part.
  mesh = make_mesh(mesh_config(data=4, dcn_data=2))
  ids = np.vectorize(lambda device: device.id)(mesh.devices)
  np.testing.assert_array_equal(ids.reshape(-1), np.arange(8))
  mesh = make_mesh(mesh_config(data=2, fsdp=2, dcn_fsdp=2))
  ids = np.vectorize(lambda device: device.id)(mesh.devices)
  np.testing.assert_array_equal(ids.squeeze(), [[0, 1, 4, 5], [2, 3, 6, 7]])


@dataclasses.dataclass(frozen=True)
class FakeDevice:
  id: int
  slice_index: int
  process_index: int = 0
  platform: str = 'gpu'
  device_kind: str = 'fake'


@pytest.mark.parametrize(
  ('slices', 'message'),
  [
    ([0, 0, 0, 0, 1, 1, 1, 1], None),
    ([0, 0, 0, 0, 0, 0, 0, 0], r'to 2 slices, .* in 1 of 8 devices each'),
    ([0, 0, 0, 0, 1, 1, 2, 2], r'to 2 slices, .* in 3 of 2 or 4 devices'),
    ([0, 0, 0, 0, 0, 1, 1, 1], r'to 2 slices, .* in 2 of 3 or 5 devices'),
  ],
)
def test_slices_that_are_not_those_of_the_mesh_are_named(slices, message):
  devices = [FakeDevice(i, s) for i, s in enumerate(slices)]
  config = mesh_config(fsdp=4, dcn_data=2)
  if message is None:
    make_mesh(config, devices)
  else:
    with pytest.raises(ValueError, match=message):
      make_mesh(config, devices)


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (
      mesh_config(data=2, fsdp=2),
      r'\(mesh\.data 2 x mesh\.fsdp 2\) asks for 4 devices.* 8',
    ),
    (mesh_config(data=-1, fsdp=3), r'a multiple of 3 devices.* 8'),
    (mesh_config(), r'\(all axes 1\) asks for 1 devices.* 8'),
    (
      mesh_config(data=-1, dcn_fsdp=-1),
      r'mesh\.data and mesh\.dcn\.fsdp are both -1',
    ),
    (mesh_config(data=0), r'mesh\.data is 0'),
    (mesh_config(data=8, dcn_tensor=-2), r'mesh\.dcn\.tensor is -2'),
    (
      mesh_config(data=8, rules=(('vocab', ('model',)),)),
      r"mesh\.rules\.vocab names the mesh axis 'model'",
    ),
  ],
)
def test_a_mesh_that_does_not_fit_says_what_to_change(config, message):
  with pytest.raises(ValueError, match=message):
    make_mesh(config)


@pytest.mark.parametrize(
  ('shape', 'overrides', 'message'),
  [
    (
      {'tensor': 8},
      {},
      r"attention\.\w+\.weight: axis '\w*heads' has 4 entries, which "
      r'mesh\.tensor = 8 cannot split evenly \(4 = 0 x 8 \+ 4\).*'
      r'mesh\.rules\.\w*heads',
    ),
    (
      FLAT,
      {'model.num_kv_heads': 2},
      r"axis 'kv_heads' has 2 entries.*\(2 = 0 x 4 \+ 2\)",
    ),
    (
      {'tensor': 4},
      {'model.vocab_size': 66},
      r"embedding: axis 'vocab' has 66 entries.*\(66 = 16 x 4 \+ 2\)",
    ),
    (
      {'fsdp': 8},
      {'model.embed_dim': 36, 'model.head_dim': 8},
      r"axis 'embed' has 36 entries.*mesh\.fsdp = 8.*\(36 = 4 x 8 \+ 4\)",
    ),
    (
      CUBE,
      {'mesh.rules.heads': ('fsdp',)},
      r'twice over the same mesh axis',
    ),
  ],
)
def test_a_parameter_that_does_not_divide_is_named(shape, overrides, message):
  recipe, mesh = on_mesh(shape, **overrides)
  with pytest.raises(ValueError, match=message):
    state_shardings(recipe, mesh)


def test_a_batch_that_does_not_divide_is_named():
  recipe, mesh = on_mesh(CUBE)
  with pytest.raises(
    ValueError,
    match=r'batch_size / accumulation_steps = 6 rows .*'
    r'mesh\.data = 2 x mesh\.fsdp = 2 x mesh\.expert = 1 \(6 = 1 x 4 \+ 2\)',
  ):
    batch_sharding(
      mesh,
      recipe.config.mesh.rules,
      batch_size=6,
      field='batch_size / accumulation_steps',
    )


def test_rows_that_do_not_divide_are_named():
  recipe, mesh = on_mesh(CUBE)
  with pytest.raises(
    ValueError,
    match=r'sequence_length = 33 positions .*'
    r'mesh\.context = 1 x mesh\.tensor = 2 \(33 = 16 x 2 \+ 1\)',
  ):
    check_length(mesh, recipe.config.mesh.rules, 33)
