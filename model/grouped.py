"""Matrix products of rows in groups, each group with its own matrix.

Suffixes: M rows in order of their groups, E groups (experts), K and N the sides
of a matrix.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.grouped_kernels import (
  SUMS_OVER_ROWS,
  hopper_product,
  hopper_product_transposed,
  kernel_for,
)

# Axis of a parameter -> mesh axes over which its parts are gathered for use.
Gathers = tuple[tuple[int, tuple[str, ...]], ...]

_SUM_OVER_ROWS = jax.lax.RaggedDotDimensionNumbers(
  dot_dimension_numbers=(((0,), (0,)), ((), ())),
  lhs_ragged_dimensions=[0],
  rhs_group_dimensions=[],
)


class Groups(NamedTuple):
  """What is static about products in groups.

  Attributes:
    compute_dtype: type of both factors and of the result; sums are float32.
    gradient_dtype: type in which the gradient of the matrices is summed over
      devices.
    gathers: where the rest of the matrices lies.
    kernel: what multiplies, as resolve_grouped decided.
  """

  compute_dtype: str
  gradient_dtype: str = 'float32'
  gathers: Gathers = ()
  kernel: str = 'xla'


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def grouped_product(
  x_MK: jax.Array, weight_EKN: jax.Array, sizes_E: jax.Array, groups: Groups
) -> jax.Array:
  """Each row times the matrix of its group, in compute_dtype.

  The matrices are rounded before they are gathered, gathered again for the
  backward pass, and their gradient is summed over devices and shared out once.

  Args:
    x_MK: rows; the first sizes_E[0] belong to group 0, and so on. The result of
      rows after the last group is zero, and so is their gradient.
    weight_EKN: the matrices, or this device's part of them.
    sizes_E: rows of each group.
    groups: types and layout.

  Returns:
    y_MN.
  """
  return _product(x_MK, _gather(weight_EKN, groups), sizes_E, groups)


def _product(x_MK, weight_EKN, sizes_E, groups, transposed=False):
  """Rows times matrices of compute_dtype, or times their transposes."""
  x_MK = x_MK.astype(groups.compute_dtype)
  if kernel_for(groups.kernel, len(x_MK)) == 'hopper':
    product = hopper_product_transposed if transposed else hopper_product
    y_MN = product(x_MK, weight_EKN, sizes_E)
  else:
    # The kernel of TPUs sums in float32 whatever it writes. A float32 result is
    # kept as it is, in place of its rounding, and takes twice the memory.
    y_MN = jax.lax.ragged_dot(
      x_MK,
      weight_EKN.swapaxes(1, 2) if transposed else weight_EKN,
      sizes_E,
      preferred_element_type=groups.compute_dtype,
    )
  # Kernels need not write the rows after the last group.
  filled_M = jnp.arange(y_MN.shape[0]) < sizes_E.sum()
  return jnp.where(filled_M[:, None], y_MN, 0)


def _gather(weight_EKN, groups):
  weight_EKN = weight_EKN.astype(groups.compute_dtype)
  for axis, mesh_axes in groups.gathers:
    weight_EKN = jax.lax.all_gather(
      weight_EKN, mesh_axes, axis=axis, tiled=True
    )
  return weight_EKN


def _forward(x_MK, weight_EKN, sizes_E, groups):
  y_MN = grouped_product(x_MK, weight_EKN, sizes_E, groups)
  return y_MN, (x_MK, weight_EKN, sizes_E)


def _sum_over_rows(x_MK, gradient_MN, sizes_E, groups):
  """This device's part of the gradient of the matrices."""
  x_MK, gradient_MN = (
    rows.astype(groups.compute_dtype) for rows in (x_MK, gradient_MN)
  )
  kernel = kernel_for(groups.kernel, len(x_MK))
  if kernel in SUMS_OVER_ROWS:
    sums_EKN = SUMS_OVER_ROWS[kernel](x_MK, gradient_MN, sizes_E)
    return sums_EKN.astype(groups.gradient_dtype)
  return jax.lax.ragged_dot_general(
    x_MK,
    gradient_MN,
    sizes_E,
    _SUM_OVER_ROWS,
    preferred_element_type=jnp.dtype(groups.gradient_dtype),
  )


def _backward(groups, residuals, gradient_MN):
  x_MK, weight_EKN, sizes_E = residuals
  gathered_EKN = _gather(weight_EKN, groups)
  x_gradient_MK = _product(
    gradient_MN, gathered_EKN, sizes_E, groups, transposed=True
  )
  weight_gradient_EKN = _sum_over_rows(x_MK, gradient_MN, sizes_E, groups)
  for axis, mesh_axes in reversed(groups.gathers):
    weight_gradient_EKN = jax.lax.psum_scatter(
      weight_gradient_EKN, mesh_axes, scatter_dimension=axis, tiled=True
    )
  return (
    x_gradient_MK.astype(x_MK.dtype),
    weight_gradient_EKN.astype(weight_EKN.dtype),
    None,
  )


grouped_product.defvjp(_forward, _backward)


@jax.custom_vjp
def permute(x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
  """Rows of x in another order.

  Its gradient is a permutation too; left to itself it would be a scatter.

  Args:
    x: rows.
    order: the row of x that stands at each place.
    inverse: the place of each row of x.
  """
  del inverse
  return x[order]


permute.defvjp(
  lambda x, order, inverse: (x[order], inverse),
  lambda inverse, gradient: (gradient[inverse], None, None),
)
