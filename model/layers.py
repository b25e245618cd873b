"""Building blocks of the transformer.

Suffixes name axes: B batch, T query position, S key position, D model width,
N query heads, K key/value heads, H head size, F feed-forward, V vocabulary,
L layers.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx, struct

from model.config import ModelConfig
from model.context import Order, reorder
from model.einsum import einsum
from model.params import declare


def keep_inputs_only(
  function: Callable[..., jax.Array], config: ModelConfig
) -> Callable[..., jax.Array]:
  """Makes the backward pass recompute a function from its inputs.

  For elementwise arithmetic in float32: the compiler fuses it into its
  neighbours, so that to recompute it is cheaper than to keep its results. Where
  layers are no loop, it would find both passes in one program, compute once and
  keep the results after all, but for a barrier.
  """
  return jax.checkpoint(function, prevent_cse=not config.scan_layers)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
  """cap * tanh(x / cap): bounds x smoothly (Gemma 2); None leaves it."""
  return x if cap is None else cap * jnp.tanh(x / cap)


def scale(x: jax.Array, factor: float) -> jax.Array:
  """x times a number, in the dtype of x; 1 leaves the program as it is."""
  return x if factor == 1 else x * factor


@struct.dataclass
class RowKeys:
  """Random keys of rows: what is drawn for one depends on no other.

  It is the same however the batch is cut, into slices, microbatches or parts on
  devices.

  Attributes:
    key: of what is drawn.
    rows_B: number of each row in the batch.
    rates: of the sites where dropout is on, numbers or arrays.
  """

  key: jax.Array
  rows_B: jax.Array
  rates: dict[str, float | jax.Array]

  def fold_in(self, number: int | jax.Array) -> 'RowKeys':
    """Keys of something else, told apart by its number."""
    return dataclasses.replace(self, key=jax.random.fold_in(self.key, number))


def dropout(
  x: jax.Array,
  site: str,
  keys: RowKeys | None,
  order: Order | None = None,
) -> jax.Array:
  """Zeroes values at the rate of a site and scales the rest; none: identity.

  Args:
    x: activations, [B, T, ...].
    site: 'embedding', 'attention', 'residual' or 'mlp'.
    keys: of the rows, with the share of the values that become zero.
    order: of the chunks of each row; a token has the mask that it would have
      if they were as they were written.
  """
  if keys is None or site not in keys.rates:
    return x
  rate = keys.rates[site]

  def draw(row):
    key = jax.random.fold_in(keys.key, row)
    return jax.random.bernoulli(key, 1 - rate, x.shape[1:])

  keep = reorder(jax.vmap(draw)(keys.rows_B), order)
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


class Linear(nnx.Module):
  """A matrix product with an optional bias, over named axes.

  Args:
    key: random key of the initial values.
    equation: as in einsum, for example 'BTD,DNH->BTNH'.
    sizes: size of each axis of the matrix.
    axes: logical name of each of them.
    config: the model's configuration.
    std: standard deviation of the initial values.
    layers: number of stacked layers.
  """

  def __init__(
    self,
    key: jax.Array,
    equation: str,
    *,
    sizes: tuple[int, ...],
    axes: tuple[str | None, ...],
    config: ModelConfig,
    std: float,
    layers: int | None,
  ):
    self.equation = equation
    self.dtype = config.compute_dtype
    self.gradient_dtype = config.gradient_dtype
    self.weight = declare(
      key, sizes, axes, kind='matrix', std=std, layers=layers
    )
    if config.use_bias:
      operands, out = equation.split('->')
      kept = [i for i, axis in enumerate(operands.split(',')[1]) if axis in out]
      self.bias = declare(
        key,
        tuple(sizes[i] for i in kept),
        tuple(axes[i] for i in kept),
        kind='bias',
        layers=layers,
      )

  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies one layer's matrix."""
    y = einsum(
      self.equation,
      x,
      self.weight[...],
      self.dtype,
      self.dtype,
      self.gradient_dtype,
    )
    return y + self.bias[...].astype(y.dtype) if hasattr(self, 'bias') else y


class Norm(nnx.Module):
  """RMSNorm (Zhang and Sennrich 2019) or LayerNorm over the last axis."""

  def __init__(
    self, key: jax.Array, size: int, config: ModelConfig, layers: int | None
  ):
    self.config = config
    self.centre = config.norm == 'layer'
    self.scale = declare(
      key, (size,), (None,), kind='norm', mean=1.0, layers=layers
    )
    if self.centre and config.use_bias:
      self.bias = declare(key, (size,), (None,), kind='bias', layers=layers)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises in float32 and returns the dtype of x."""
    bias = self.bias[...] if hasattr(self, 'bias') else None
    normalise = functools.partial(
      _normalise, centre=self.centre, epsilon=self.config.norm_epsilon
    )
    return keep_inputs_only(normalise, self.config)(x, self.scale[...], bias)


def _normalise(x, scale, bias, *, centre, epsilon):
  y = x.astype(jnp.float32)
  if centre:
    y = y - y.mean(-1, keepdims=True)
  y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + epsilon) * scale
  return (y if bias is None else y + bias).astype(x.dtype)


def rotary_angles(
  positions_BT: jax.Array, head_dim: int, theta: float
) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines [B, T, H/2] of rotary embedding (Su et al. 2021)."""
  frequencies = theta ** (-jnp.arange(0, head_dim, 2) / head_dim)
  angles = positions_BT[..., None].astype(jnp.float32) * frequencies
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BTNH: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Turns pairs (i, i + H/2) of each head by their angles, in float32."""
  cos, sin = (a[:, :, None, :] for a in angles)
  first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, axis=-1).astype(x_BTNH.dtype)
