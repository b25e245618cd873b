"""Matrix products of rows in groups, each group with its own matrix.

Suffixes: M rows in order of their groups, E groups (experts), K and N the sides
of a matrix. Of tokens: N tokens, C groups that a token goes to, D width.
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
    all_rows: every row belongs to a group.
  """

  compute_dtype: str
  gradient_dtype: str = 'float32'
  gathers: Gathers = ()
  kernel: str = 'xla'
  all_rows: bool = False


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
  if groups.all_rows:
    return y_MN
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
def to_groups(
  x_N: jax.Array, order_M: jax.Array, inverse_CN: jax.Array
) -> jax.Array:
  """Brings copies of tokens into the order of their groups.

  This and its counterpart are gathers, as is the gradient of each, which is the
  other. Left to themselves their gradients would be scatters.

  Args:
    x_N: tokens, [N, ...].
    order_M: which of the C x N choices stands at each place.
    inverse_CN: the place of each choice.

  Returns:
    x_M, [C * N, ...].
  """
  del inverse_CN
  return x_N[order_M % len(x_N)]


@jax.custom_vjp
def from_groups(
  y_M: jax.Array, order_M: jax.Array, inverse_CN: jax.Array
) -> jax.Array:
  """Brings rows back to their tokens: y_N, the sum over a token's choices."""
  del order_M
  # Choices are the first axis, and added one by one: as the last axis but one,
  # where they are few, they would fill a small part of the tiles of a TPU.
  return sum(y_N.astype(jnp.float32) for y_N in y_M[inverse_CN]).astype(
    y_M.dtype
  )


def _forward_to(x_N, order_M, inverse_CN):
  return to_groups(x_N, order_M, inverse_CN), (order_M, inverse_CN)


def _backward_to(residuals, gradient_M):
  return from_groups(gradient_M, *residuals), None, None


def _forward_from(y_M, order_M, inverse_CN):
  return from_groups(y_M, order_M, inverse_CN), (order_M, inverse_CN)


def _backward_from(residuals, gradient_N):
  return to_groups(gradient_N, *residuals), None, None


to_groups.defvjp(_forward_to, _backward_to)
from_groups.defvjp(_forward_from, _backward_from)
