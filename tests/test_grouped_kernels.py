"""The kernels of experts: which is taken, and what is done around them."""

import dataclasses
import inspect
import types

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

HOPPER = types.SimpleNamespace(
  device_kind='NVIDIA H200', compute_capability='9.0'
)
AMPERE = types.SimpleNamespace(
  device_kind='NVIDIA A100-SXM4-80GB', compute_capability='8.0'
)
TPU = types.SimpleNamespace(device_kind='TPU v5p')
FITS = {
  'model.embed_dim': 256, 'model.moe.num_experts': 4,
  'model.moe.expert_dim': 512, 'model.compute_dtype': 'bfloat16',
}  # fmt: skip


def resolve(device, mesh_shape=None, **overrides):
  model = cases.tiny_train_config(**FITS | overrides).model
  found = resolve_grouped(model, device=device, mesh_shape=mesh_shape or {})
  assert dataclasses.replace(found, moe=model.moe) == model
  return found.moe.kernel


def test_auto_takes_what_the_device_and_the_model_allow():
  assert resolve(HOPPER) == 'hopper'
  assert resolve(AMPERE) == resolve(TPU) == 'xla'
  assert resolve(HOPPER, **{'model.moe.kernel': 'xla'}) == 'xla'
  assert resolve(HOPPER, **{'model.compute_dtype': 'float32'}) == 'xla'
  assert resolve(HOPPER, **{'model.moe.expert_dim': 96}) == 'xla'
  assert resolve(HOPPER, {'tensor': 4}) == 'hopper'
  assert resolve(HOPPER, {'tensor': 8}) == 'xla'


@pytest.mark.parametrize(
  ('device', 'mesh_shape', 'overrides', 'message'),
  [
    (AMPERE, {}, {}, 'A100-SXM4-80GB .NVIDIA H100 and H200 only'),
    (HOPPER, {}, {'model.compute_dtype': 'float32'}, r"'bfloat16' only"),
    (HOPPER, {}, {'model.embed_dim': 192}, r'model\.embed_dim = 192'),
    (HOPPER, {'tensor': 8}, {}, r'expert_dim = 512 \(multiples of 1024\)'),
  ],
)
def test_what_the_kernel_cannot_do_is_refused(
  device, mesh_shape, overrides, message
):
  overrides = overrides | {'model.moe.kernel': 'hopper'}
  with pytest.raises(ValueError, match=message):
    resolve(device, mesh_shape, **overrides)


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
    ('hopper_sum_over_rows', sum_over_rows),
  ):
    monkeypatch.setattr(grouped, name, function)


def test_what_is_asked_of_the_kernels_is_the_reference(stand_ins):
  keys = jax.random.split(jax.random.key(0), 3)
  x, weight, gradient = (
    jax.random.normal(key, shape)
    for key, shape in zip(keys, ((12, 16), (3, 16, 8), (12, 8)), strict=True)
  )
  sizes = jnp.array([5, 0, 4], jnp.int32)

  def run(kernel):
    groups = Groups('float32', kernel=kernel)
    out, pullback = jax.vjp(
      lambda x, weight: grouped_product(x, weight, sizes, groups), x, weight
    )
    return out, *pullback(gradient)

  for found, wanted in zip(run('hopper'), run('xla'), strict=True):
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
    # It knows no axis more.
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
