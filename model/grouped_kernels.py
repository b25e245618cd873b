"""What multiplies rows with the matrices of their groups, and the choice.

XLA's own product (`jax.lax.ragged_dot`) is a grouped kernel on TPUs; on NVIDIA
GPUs it multiplies each row with the matrix of every group. For Hopper (H100,
H200) JAX ships kernels, written in Mosaic, that multiply it with one.

Suffixes: M rows in order of their groups, E groups, K and N the sides of a
matrix.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.custom_batching import sequential_vmap

from model.config import ModelConfig

_HOPPER = '9.0'
# Rows, columns and inner sizes that a block computes at a time, its stages in
# flight, and blocks side by side that share what they read: the fastest of ten
# tried on an H200, 32,768 rows and 8 matrices of 2,048 x 4,096. A product of
# rows reaches 690 TFLOP/s there, the gradient of matrices 656, and one dense
# product as large 772.
_ROWS = {
  'block_m': 192, 'block_n': 128, 'block_k': 64, 'max_concurrent_steps': 4,
  'grid_block_n': 16,
}  # fmt: skip
_MATRICES = _ROWS | {'block_m': 128, 'grid_block_n': 8}
# They cut a matrix into blocks on both sides.
_MULTIPLE = 128


def resolve_grouped(
  config: ModelConfig, *, device: Any, mesh_shape: Mapping[str, int]
) -> ModelConfig:
  """Decides what multiplies the rows of experts.

  Args:
    config: the model.
    device: one of the mesh's.
    mesh_shape: devices along each mesh axis.

  Returns:
    The configuration with model.moe.kernel decided.

  Raises:
    ValueError: the kernel that is asked for does not support the model; the
      message names the fields and what they may be.
  """
  moe = config.moe
  if not moe.num_experts or moe.kernel == 'xla':
    return config
  problems = list(_problems(config, device, mesh_shape))
  if moe.kernel == 'hopper' and problems:
    raise ValueError(
      f"model.moe.kernel = 'hopper' does not support {' or '.join(problems)}. "
      "Change that, or set model.moe.kernel = 'auto'."
    )
  kernel = 'xla' if problems else 'hopper'
  return dataclasses.replace(
    config, moe=dataclasses.replace(moe, kernel=kernel)
  )


def _problems(config: ModelConfig, device: Any, mesh_shape: Mapping[str, int]):
  if getattr(device, 'compute_capability', None) != _HOPPER:
    yield f'{device.device_kind} (NVIDIA H100 and H200 only)'
  if config.compute_dtype != 'bfloat16':
    yield f"model.compute_dtype = {config.compute_dtype!r} ('bfloat16' only)"
  split = math.prod(
    mesh_shape.get(axis, 1) for axis in dict(config.axis_rules)['mlp']
  )
  for field, size, parts in (
    ('model.embed_dim', config.embed_dim, 1),
    ('model.moe.expert_dim', config.moe.expert_dim, split),
  ):
    if size % (_MULTIPLE * parts):
      yield f'{field} = {size} (multiples of {_MULTIPLE * parts})'


@sequential_vmap
def hopper_product(
  x_MK: jax.Array, weight_EKN: jax.Array, sizes_E: jax.Array
) -> jax.Array:
  """Each row times the matrix of its group; sums are float32.

  Rows after the last group are not written.
  """
  from jax.experimental.pallas.ops.gpu.ragged_dot_mgpu import ragged_dot

  return ragged_dot(x_MK, weight_EKN, group_sizes=sizes_E, **_ROWS)


@sequential_vmap
def hopper_product_transposed(
  y_MN: jax.Array, weight_EKN: jax.Array, sizes_E: jax.Array
) -> jax.Array:
  """Each row times the transpose of its group's matrix, which is not moved."""
  from jax.experimental.pallas.ops.gpu.ragged_dot_mgpu import ragged_dot

  return ragged_dot(
    y_MN, weight_EKN, group_sizes=sizes_E, transpose_rhs=True, **_ROWS
  )


@sequential_vmap
def hopper_sum_over_rows(
  x_MK: jax.Array, y_MN: jax.Array, sizes_E: jax.Array
) -> jax.Array:
  """Products of columns, over the rows of each group: [E, K, N].

  Sums are float32 and rounded once, to the type of x_MK.
  """
  from jax.experimental.pallas.ops.gpu.transposed_ragged_dot_mgpu import (
    transposed_ragged_dot,
  )

  return transposed_ragged_dot(x_MK, y_MN, group_sizes=sizes_E, **_MATRICES)
