"""What multiplies rows with the matrices of their groups, and the choice.

XLA's own product (`jax.lax.ragged_dot`) is a grouped kernel on TPUs. What it
has no kernel for it computes in the dense way, with every group in place of
one: on TPUs the gradient of the matrices, on NVIDIA GPUs everything. JAX ships
kernels for these: megablox (Gale et al. 2023) for TPUs, and others in Mosaic
for Hopper (H100, H200).

Suffixes: M rows in order of their groups, E groups, K and N the sides of a
matrix.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from model.config import ModelConfig

# H100, H200, GH200 and their kin, as JAX names them.
_HOPPER = re.compile(r'NVIDIA G?H\d')
# Rows, columns and inner sizes that a block computes at a time, its stages in
# flight, and blocks side by side that share what they read: the fastest of ten
# tried on an H200, 32,768 rows and 8 matrices of 2,048 x 4,096. A product of
# rows reaches 690 TFLOP/s there, the gradient of matrices 656, and one dense
# product as large 772.
_ROWS: dict[str, Any] = {
  'block_m': 192, 'block_n': 128, 'block_k': 64, 'max_concurrent_steps': 4,
  'grid_block_n': 16,
}  # fmt: skip
_MATRICES = _ROWS | {'block_m': 128, 'grid_block_n': 8}
# They cut a matrix into blocks on both sides.
_MULTIPLE = 128
# Rows, and sides of a matrix, that megablox has on the chip at a time: those of
# published recipes. Their operations a byte are what v6e needs to be busy; the
# 16 MiB of a v4 do not hold them.
_TILES = 512, 1_024, 1_024
_SMALL = 'TPU v4'


def resolve_grouped(
  config: ModelConfig, *, device_kind: str, mesh_shape: Mapping[str, int]
) -> ModelConfig:
  """Decides what multiplies the rows of experts.

  Args:
    config: the model.
    device_kind: of the mesh's devices.
    mesh_shape: devices along each mesh axis.

  Returns:
    The configuration with model.moe.kernel decided.

  Raises:
    ValueError: the kernel that is asked for does not support the model; the
      message names the fields and what they may be.
  """
  moe = config.moe
  if not moe.num_experts or moe.kernel in ('xla', 'megablox_interpreted'):
    return config
  kernel = moe.kernel
  if kernel == 'auto':
    kernel = 'megablox' if device_kind.startswith('TPU') else 'hopper'
  find = _hopper_problems if kernel == 'hopper' else _megablox_problems
  problems = list(find(config, device_kind, mesh_shape))
  if moe.kernel != 'auto' and problems:
    raise ValueError(
      f'model.moe.kernel = {kernel!r} does not support '
      f"{' or '.join(problems)}. Change that, or set model.moe.kernel = 'auto'."
    )
  if problems:
    kernel = 'xla'
  return dataclasses.replace(
    config, moe=dataclasses.replace(moe, kernel=kernel)
  )


def _megablox_problems(
  config: ModelConfig, device_kind: str, mesh_shape: Mapping[str, int]
):
  del config, mesh_shape
  if not device_kind.startswith('TPU') or device_kind == _SMALL:
    yield f'{device_kind} (TPUs only, from v5e on)'


def _hopper_problems(
  config: ModelConfig, device_kind: str, mesh_shape: Mapping[str, int]
):
  if not _HOPPER.match(device_kind):
    yield f'{device_kind} (NVIDIA H100 and H200 only)'
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


def kernel_for(kernel: str, rows: int) -> str:
  """The kernel, or 'xla' for rows so few that they fill no block of it.

  Sampling has as few.
  """
  few = kernel == 'hopper' and rows < _ROWS['block_m']
  return 'xla' if few else kernel


def _hopper_product(
  x_MK: jax.Array,
  weight_EKN: jax.Array,
  sizes_E: jax.Array,
  *,
  blocks: Mapping[str, Any],
) -> jax.Array:
  """Each row times the matrix of its group; sums are float32.

  Rows after the last group are not written.
  """
  from jax.experimental.pallas.ops.gpu.ragged_dot_mgpu import ragged_dot

  return ragged_dot(x_MK, weight_EKN, group_sizes=sizes_E, **blocks)


hopper_product = sequential_vmap(
  functools.partial(_hopper_product, blocks=_ROWS)
)
# With the transpose of each matrix, which is not moved.
hopper_product_transposed = sequential_vmap(
  functools.partial(_hopper_product, blocks=_ROWS | {'transpose_rhs': True})
)


@sequential_vmap
def _hopper_sum_over_rows(
  x_MK: jax.Array, y_MN: jax.Array, sizes_E: jax.Array
) -> jax.Array:
  """Products of columns over the rows of each group, [E, K, N].

  Sums are float32 and rounded once, to the type of x_MK.
  """
  from jax.experimental.pallas.ops.gpu.transposed_ragged_dot_mgpu import (
    transposed_ragged_dot,
  )

  return transposed_ragged_dot(x_MK, y_MN, group_sizes=sizes_E, **_MATRICES)


def _megablox_sum_over_rows(
  x_MK: jax.Array,
  y_MN: jax.Array,
  sizes_E: jax.Array,
  *,
  interpret: bool = False,
) -> jax.Array:
  """The same on TPUs, in float32."""
  from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

  rows, height, width = _TILES
  # A row of zeros belongs to no group.
  missing = ((0, -len(x_MK) % rows), (0, 0))
  x_MK, y_MN = jnp.pad(x_MK, missing), jnp.pad(y_MN, missing)
  return tgmm(
    x_MK.T,
    y_MN,
    sizes_E,
    jnp.dtype('float32'),
    (rows, min(height, x_MK.shape[1]), min(width, y_MN.shape[1])),
    interpret=interpret,
  )


# Kernel -> the gradient of the matrices: (rows x_MK, gradients y_MN, rows of
# each group) -> sums_EKN.
SUMS_OVER_ROWS: dict[str, Any] = {
  'hopper': _hopper_sum_over_rows,
  'megablox': sequential_vmap(_megablox_sum_over_rows),
  # For tests: an operation at a time.
  'megablox_interpreted': sequential_vmap(
    functools.partial(_megablox_sum_over_rows, interpret=True)
  ),
}
