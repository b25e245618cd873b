"""The kernels of experts: which is taken, and what is done around them."""

import dataclasses
import inspect

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.gpu import (
  ragged_dot_mgpu,
  transposed_ragged_dot_mgpu,
)

from model import grouped, grouped_kernels
from model.grouped import Groups, grouped_product
from model.grouped_kernels import resolve_grouped
from train.chips import CHIPS
from train.planning.layout import lay_out
from train.planning.roofline import estimate

HOPPER, AMPERE, TPU = 'NVIDIA H200', 'NVIDIA A100-SXM4-80GB', 'TPU v5'
FITS = {
  'model.embed_dim': 256, 'model.moe.num_experts': 4,
  'model.moe.expert_dim': 512, 'model.compute_dtype': 'bfloat16',
}  # fmt: skip


def resolve(kind, mesh_shape=None, **overrides):
  model = cases.tiny_train_config(**FITS | overrides).model
  found = resolve_grouped(model, device_kind=kind, mesh_shape=mesh_shape or {})
  assert dataclasses.replace(found, moe=model.moe) == model
  return found.moe.kernel


def test_auto_takes_what_the_device_and_the_model_allow():
  assert resolve(HOPPER) == 'hopper'
  assert resolve('NVIDIA GH200 480GB') == 'hopper'
  assert resolve(TPU) == 'megablox'
  assert resolve(AMPERE) == resolve('TPU v4') == resolve('cpu') == 'xla'
  assert resolve(HOPPER, **{'model.moe.kernel': 'xla'}) == 'xla'
  assert resolve(HOPPER, **{'model.compute_dtype': 'float32'}) == 'xla'
  assert resolve(HOPPER, **{'model.moe.expert_dim': 96}) == 'xla'
  assert resolve(HOPPER, {'tensor': 4}) == 'hopper'
  assert resolve(HOPPER, {'tensor': 8}) == 'xla'


@pytest.mark.parametrize(
  ('kind', 'mesh_shape', 'overrides', 'message'),
  [
    (AMPERE, {}, {}, 'A100-SXM4-80GB .NVIDIA H100 and H200 only'),
    (TPU, {}, {}, r'TPU v5 .NVIDIA'),
    (HOPPER, {}, {'model.compute_dtype': 'float32'}, r"'bfloat16' only"),
    (HOPPER, {}, {'model.embed_dim': 192}, r'model\.embed_dim = 192'),
    (HOPPER, {'tensor': 8}, {}, r'expert_dim = 512 \(multiples of 1024\)'),
  ],
)
def test_what_the_kernel_cannot_do_is_refused(
  kind, mesh_shape, overrides, message
):
  overrides = overrides | {'model.moe.kernel': 'hopper'}
  with pytest.raises(ValueError, match=message):
    resolve(kind, mesh_shape, **overrides)


def test_megablox_is_for_tpus():
  megablox = {'model.moe.kernel': 'megablox'}
  assert resolve(TPU, **megablox) == 'megablox'
  with pytest.raises(ValueError, match=r'TPU v4 .TPUs only, from v5e'):
    resolve('TPU v4', **megablox)
  with pytest.raises(ValueError, match="'megablox' does not support cpu"):
    resolve('cpu', **megablox)


def test_an_unknown_kernel_is_named():
  with pytest.raises(ValueError, match=r'model\.moe\.kernel is .cuda.'):
    resolve(HOPPER, **{'model.moe.kernel': 'cuda'})


def not_written(rows, sizes_E):
  """Rows after the last group hold what memory held before."""
  filled_M = jnp.arange(len(rows)) < sizes_E.sum()
  return jnp.where(filled_M[:, None], rows, jnp.nan)


@pytest.fixture
def stand_ins(monkeypatch) -> None:
  """The kernels' contract, computed by XLA."""
  product = jax.lax.ragged_dot

  def transposed(x, weight, sizes):
    return not_written(product(x, weight.swapaxes(1, 2), sizes), sizes)

  def sum_over_rows(x, y, sizes):
    return jax.lax.ragged_dot_general(x, y, sizes, grouped._SUM_OVER_ROWS)

  for name, function in (
    ('hopper_product', lambda x, w, s: not_written(product(x, w, s), s)),
    ('hopper_product_transposed', transposed),
  ):
    monkeypatch.setattr(grouped, name, function)
  monkeypatch.setitem(grouped_kernels.SUMS_OVER_ROWS, 'hopper', sum_over_rows)


@pytest.mark.parametrize('kernel', ['hopper', 'megablox_interpreted'])
def test_what_is_asked_of_the_kernels_is_the_reference(kernel, stand_ins):
  keys = jax.random.split(jax.random.key(0), 3)
  x, weight, gradient = (
    jax.random.normal(key, shape)
    for key, shape in zip(keys, ((212, 16), (3, 16, 8), (212, 8)), strict=True)
  )
  sizes = jnp.array([105, 0, 99], jnp.int32)

  def run(kernel):
    groups = Groups('float32', kernel=kernel)
    out, pullback = jax.vjp(
      lambda x, weight: grouped_product(x, weight, sizes, groups), x, weight
    )
    return out, *pullback(gradient)

  for found, wanted in zip(run(kernel), run('xla'), strict=True):
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ('function', 'blocks'),
  [
    (ragged_dot_mgpu.ragged_dot, grouped_kernels._ROWS | {'transpose_rhs': 1}),
    (
      transposed_ragged_dot_mgpu.transposed_ragged_dot,
      grouped_kernels._MATRICES,
    ),
  ],
)
def test_jax_has_the_kernels(function, blocks):
  inspect.signature(function).bind(0, 0, group_sizes=0, **blocks)


def test_slots_of_a_population_take_turns(monkeypatch):
  def kernel(x, weight, *, group_sizes, **blocks):
    # It knows no further axis.
    assert x.ndim == 2
    assert blocks == grouped_kernels._ROWS
    return jax.lax.ragged_dot(x, weight, group_sizes)

  monkeypatch.setattr(ragged_dot_mgpu, 'ragged_dot', kernel)
  x = jax.random.normal(jax.random.key(0), (3, 4, 2))
  weight = jax.random.normal(jax.random.key(1), (3, 2, 2, 2))
  sizes = jnp.array([[1, 3], [4, 0], [2, 2]], jnp.int32)
  found = jax.vmap(grouped_kernels.hopper_product)(x, weight, sizes)
  for slot in range(3):
    wanted = jax.lax.ragged_dot(x[slot], weight[slot], sizes[slot])
    np.testing.assert_allclose(found[slot], wanted, rtol=1e-6)


def test_a_plan_for_gpus_counts_every_expert_where_no_kernel_is():
  def products(chip, **overrides):
    config = cases.tiny_train_config(**FITS | overrides)
    return (
      estimate(
        lay_out(config, 1), chip=CHIPS[chip], bandwidth={'data': 1.0}
      ).products
      * CHIPS[chip].matmul
    )

  one = {'model.moe.experts_per_token': 1}
  every = {'model.moe.experts_per_token': 4}
  xla = {'model.moe.kernel': 'xla'}
  assert products('h100', **one) < products('h100', **every)
  np.testing.assert_allclose(
    [products('h100', **one, **xla), products('a100', **one)],
    products('h100', **every),
  )
  assert products('v5p', **one, **xla) == products('v5p', **one)


def test_rows_of_sampling_are_too_few_for_the_kernel(stand_ins):
  x, weight = jnp.ones((2, 4)), jnp.ones((3, 4, 4))
  sizes = jnp.array([1, 0, 0], jnp.int32)
  few = grouped_product(x, weight, sizes, Groups('float32', kernel='hopper'))
  np.testing.assert_array_equal(few, [[4] * 4, [0] * 4])
  assert grouped_kernels.kernel_for('hopper', 191) == 'xla'
  assert grouped_kernels.kernel_for('hopper', 192) == 'hopper'
  assert grouped_kernels.kernel_for('megablox', 2) == 'megablox'
