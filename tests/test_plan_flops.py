"""Operations of a traced program against arithmetic."""

import functools

import cases
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from model.config import REMATS
from model.flops import matmul_parameters
from model.grouped import Groups, grouped_product
from train.planning.flops import product_flops
from train.planning.keeps import keeps_of
from train.planning.operations import attention_operations, product_operations
from train.planning.program import trace
from train.setup import make_setup

A = jax.ShapeDtypeStruct((6, 10), jnp.bfloat16)
W = jax.ShapeDtypeStruct((10, 10), jnp.bfloat16)


def flops(function, *arguments) -> dict[str, int]:
  return dict(product_flops(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_a_product_is_two_operations_for_each_multiply_add():
  assert flops(jnp.matmul, A, W) == {'bfloat16': 2 * 6 * 10 * 10}


def test_a_batched_product_counts_every_batch():
  a = jax.ShapeDtypeStruct((3, 4, 5), jnp.float32)
  b = jax.ShapeDtypeStruct((3, 5, 7), jnp.float32)
  found = flops(functools.partial(jnp.einsum, 'bij,bjk->bik'), a, b)
  assert found == {'float32': 2 * 3 * 4 * 5 * 7}


def test_loops_count_as_often_as_they_run():
  def loop(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]

  assert flops(loop, A, W) == {'bfloat16': 7 * 1200}


def test_recomputation_counts():
  def loss(w, x):
    layer = jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x @ w) @ w))
    return layer(x).sum()

  # Two products forward; backward two gradients of each, and the products
  # whose results were not kept. (The second's result is needed for tanh.)
  assert flops(jax.grad(loss, (0, 1)), W, A) == {'bfloat16': (2 + 4 + 2) * 1200}


def test_of_a_branch_the_costlier_side_counts():
  def branch(p, x, w):
    return jax.lax.cond(p, lambda: (x @ w) @ w, lambda: x @ w)

  p = jax.ShapeDtypeStruct((), jnp.bool_)
  assert flops(branch, p, A, W) == {'bfloat16': 2 * 1200}


def test_a_row_meets_the_matrix_of_its_group_alone():
  def loss(x, w, sizes):
    return jax.lax.ragged_dot(x, w, sizes).astype(jnp.float32).sum()

  w = jax.ShapeDtypeStruct((4, 10, 7), jnp.bfloat16)
  sizes = jax.ShapeDtypeStruct((4,), jnp.int32)
  once = 2 * 6 * 10 * 7
  assert flops(loss, A, w, sizes) == {'bfloat16': once}
  # The gradients of rows and of matrices are as large, whatever the groups.
  assert flops(jax.grad(loss, (0, 1)), A, w, sizes) == {'bfloat16': 3 * once}


def test_megablox_counts_as_what_it_stands_for():
  def loss(x, w, sizes, kernel):
    groups = Groups('bfloat16', kernel=kernel)
    return grouped_product(x, w, sizes, groups).astype(jnp.float32).sum()

  # Whole blocks of the kernel, so that no row is added.
  x = jax.ShapeDtypeStruct((512, 10), jnp.bfloat16)
  w = jax.ShapeDtypeStruct((4, 10, 7), jnp.bfloat16)
  sizes = jax.ShapeDtypeStruct((4,), jnp.int32)
  found = {
    kernel: flops(
      jax.grad(functools.partial(loss, kernel=kernel), (0, 1)), x, w, sizes
    )
    for kernel in ('xla', 'megablox', 'megablox_interpreted')
  }
  assert found['xla'] == {'bfloat16': 3 * 2 * 512 * 10 * 7}
  assert set(map(str, found.values())) == {str(found['xla'])}


@pytest.mark.parametrize('remat', REMATS)
def test_a_mixture_multiplies_the_chosen_experts(remat):
  config = cases.tiny_train_config(
    **{
      'model.remat': remat,
      'model.compute_dtype': 'bfloat16',
      'model.moe.num_experts': 4,
      'model.moe.experts_per_token': 2,
      'model.moe.num_shared_experts': 1,
      'model.moe.expert_dim': 48,
      'mesh.data': -1,
    }
  )
  found = product_flops(trace(make_setup(config), augmented=False).jaxpr.jaxpr)
  keeps = keeps_of(config.model)
  expected = product_operations(config, keeps)
  expected += attention_operations(config, keeps, fused=False)
  # The router multiplies in float32.
  model, tokens = config.model, config.batch_size * config.sequence_length
  router = model.num_layers * model.embed_dim * model.moe.num_experts
  again = 0 if remat == 'none' else 1
  assert found['bfloat16'] == expected - tokens * router * (6 + 2 * again)


def test_a_shard_map_counts_on_every_device():
  mesh = Mesh(jax.devices()[:2], ('x',), axis_types=(AxisType.Auto,))
  mapped = jax.shard_map(
    jnp.matmul, mesh=mesh, in_specs=(P('x'), P()), out_specs=P('x')
  )
  assert flops(mapped, A, W) == {'bfloat16': 1200}


@pytest.mark.parametrize('remat', REMATS)
def test_a_step_multiplies_what_the_architecture_says(remat):
  config = cases.tiny_train_config(
    **{
      'model.remat': remat,
      'model.num_kv_heads': 2,
      'model.compute_dtype': 'bfloat16',
      'mesh.data': -1,
    }
  )
  setup = make_setup(config)
  found = product_flops(trace(setup, augmented=False).jaxpr.jaxpr)
  keeps = keeps_of(config.model)
  expected = product_operations(config, keeps)
  expected += attention_operations(config, keeps, fused=False)
  assert found['bfloat16'] == expected
  # The rest is no product with a weight: a millionth in a large model.
  assert found.total() - expected < 0.01 * expected
  tokens = config.batch_size * config.sequence_length
  assert expected > 6 * tokens * matmul_parameters(config.model)
