"""Matrix products in a low precision, forward and backward."""

import functools

import jax
import jax.numpy as jnp


def product(
  equation: str, x: jax.Array, y: jax.Array, out_dtype: str = 'float32'
) -> jax.Array:
  """Sum of products of two arrays, summed in float32 on a device.

  Args:
    equation: 'x axes,y axes->result axes'; each axis in at least two of them.
    x, y: the operands, of one dtype.
    out_dtype: type of the result, and of its sum over devices.
  """
  operands, out = equation.split('->')
  x_axes, y_axes = operands.split(',')
  summed = set(x_axes) & set(y_axes) - set(out)
  # The left operand is summed over its last axes. Where neither lies that way,
  # the smaller one is transposed.
  if x_axes[-1] not in summed and (y_axes[-1] in summed or y.size < x.size):
    x, y, x_axes, y_axes = y, x, y_axes, x_axes
  batch = [axis for axis in out if axis in x_axes and axis in y_axes]
  inner = [axis for axis in x_axes if axis in summed]
  x_outer = [axis for axis in x_axes if axis not in y_axes]
  y_outer = [axis for axis in y_axes if axis not in x_axes]
  x = _hold(_transpose(x, x_axes, [*batch, *x_outer, *inner]))
  y = _transpose(y, y_axes, [*batch, *inner, *y_outer])
  leading = tuple(range(len(batch)))
  result = jax.lax.dot_general(
    x,
    y,
    (
      (
        tuple(range(x.ndim - len(inner), x.ndim)),
        tuple(range(len(batch), len(batch) + len(inner))),
      ),
      (leading, leading),
    ),
    preferred_element_type=jnp.dtype(out_dtype),
  )
  return _transpose(_hold(result), [*batch, *x_outer, *y_outer], out)


def _transpose(x, axes, wanted):
  return x.transpose([list(axes).index(axis) for axis in wanted])


def _hold(x: jax.Array) -> jax.Array:
  """Keeps the CPU compiler from folding transpositions into a product.

  It multiplies bfloat16 with a float32 result in a library that cannot read a
  transposed left operand, and finds that out when the program runs (jaxlib
  0.10: "Unsupported element type for DotThunk"). Elsewhere this does nothing.
  """
  return jax.lax.platform_dependent(
    x, cpu=jax.lax.optimization_barrier, default=lambda x: x
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4, 5))
def einsum(
  equation: str,
  x: jax.Array,
  y: jax.Array,
  compute_dtype: str,
  out_dtype: str,
  gradient_dtype: str = 'float32',
) -> jax.Array:
  """Product of two arrays in compute_dtype, forward and backward.

  Sums are kept in float32. The backward products round the incoming gradient
  to compute_dtype first: left to itself, a product with a float32 result gets
  a float32 gradient, and its backward products run at float32 speed. The
  gradients come back unrounded, in the dtype of x and of y.

  Args:
    equation: as in `product`.
    x, y: the operands.
    compute_dtype: type in which both are multiplied.
    out_dtype: type of the result.
    gradient_dtype: type in which the gradient of y is summed over devices.
  """
  del gradient_dtype
  x, y = x.astype(compute_dtype), y.astype(compute_dtype)
  return product(equation, x, y).astype(out_dtype)


def _forward(equation, x, y, *dtypes):
  return einsum(equation, x, y, *dtypes), (x, y)


def _backward(
  equation, compute_dtype, out_dtype, gradient_dtype, residuals, gradient
):
  del out_dtype
  x, y = residuals
  operands, out = equation.split('->')
  x_axes, y_axes = operands.split(',')
  x_gradient = einsum(
    f'{out},{y_axes}->{x_axes}', gradient, y, compute_dtype, x.dtype.name
  )
  y_gradient = product(
    f'{x_axes},{out}->{y_axes}',
    x.astype(compute_dtype),
    gradient.astype(compute_dtype),
    gradient_dtype,
  )
  return x_gradient, y_gradient.astype(y.dtype)


einsum.defvjp(_forward, _backward)
