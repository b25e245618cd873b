"""Cross-entropy over the vocabulary without the logits of the whole batch.

Suffixes: B batch, T position, C positions of a chunk, D model width, V
vocabulary.
"""

import functools

import jax
import jax.numpy as jnp

from model.einsum import product
from model.layers import softcap as apply_softcap

Sums = tuple[jax.Array, jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def cross_entropy(
  x_BTD: jax.Array,
  head_VD: jax.Array,
  targets_BT: jax.Array,
  weights_BT: jax.Array,
  z_loss: float,
  softcap: float | None,
  chunk: int,
  compute_dtype: str,
) -> Sums:
  """Weighted sums of cross-entropy and z-loss over all tokens.

  Logits exist for `chunk` positions of each row at a time. When gradients are
  asked for, they are computed in the same pass, so that nothing is computed
  twice; the batch axis is never folded into the time axis, so that it stays
  split over the mesh. The head's gradient is summed in float32.

  Args:
    x_BTD: hidden states.
    head_VD: output matrix.
    targets_BT: the token that follows each position.
    weights_BT: weight of each position; 0 leaves it out.
    z_loss: weight of the squared log-normaliser (Chowdhery et al. 2022).
    softcap: tanh soft-cap of the logits, or None.
    chunk: positions at a time; divides T.
    compute_dtype: type in which matrix products are multiplied.

  Returns:
    The loss to minimise (cross-entropy + z_loss * squared log-normaliser), and
    its two parts, for reporting: they carry no gradient.
  """

  def body(sums, chunk_inputs):
    logits, _, normaliser = _logits(
      chunk_inputs, head_VD, softcap, compute_dtype
    )
    return _add(sums, logits, normaliser, chunk_inputs, z_loss), None

  xs = _chunks(chunk, x_BTD, targets_BT, weights_BT)
  return jax.lax.scan(body, (jnp.zeros(()),) * 3, xs)[0]


def _logits(chunk_inputs, head_VD, softcap, compute_dtype):
  """Capped logits and slope of the cap [B, C, V], log-normaliser [B, C]."""
  x_BCD = chunk_inputs[0]
  raw_BCV = product(
    'BCD,VD->BCV', x_BCD.astype(compute_dtype), head_VD.astype(compute_dtype)
  )
  logits_BCV = apply_softcap(raw_BCV, softcap)
  slope_BCV = 1.0 if softcap is None else 1 - (logits_BCV / softcap) ** 2
  return logits_BCV, slope_BCV, jax.nn.logsumexp(logits_BCV, axis=-1)


def _add(sums, logits_BCV, normaliser_BC, chunk_inputs, z_loss):
  _, targets_BC, weights_BC = chunk_inputs
  chosen_BC = jnp.where(_is_target(targets_BC, logits_BCV), logits_BCV, 0).sum(
    -1
  )
  nll = ((normaliser_BC - chosen_BC) * weights_BC).sum()
  z = (normaliser_BC**2 * weights_BC).sum()
  return sums[0] + nll + z_loss * z, sums[1] + nll, sums[2] + z


def _is_target(targets_BC, logits_BCV):
  # A comparison, not a gather: it stays local where the vocabulary is split.
  return targets_BC[..., None] == jnp.arange(logits_BCV.shape[-1])


def _chunks(chunk, *arrays_BT):
  """Reshapes [B, T, ...] into [T / C, B, C, ...], to scan over."""

  def split(array):
    B, T = array.shape[:2]
    assert T % chunk == 0, f'{T} positions in chunks of {chunk}'
    return jnp.moveaxis(
      array.reshape(B, T // chunk, chunk, *array.shape[2:]), 1, 0
    )

  return tuple(split(array) for array in arrays_BT)


def _forward(
  x_BTD, head_VD, targets_BT, weights_BT, z_loss, softcap, chunk, compute_dtype
):
  def body(carry, chunk_inputs):
    sums, head_gradient_VD = carry
    x_BCD, targets_BC, weights_BC = chunk_inputs
    logits, slope, normaliser = _logits(
      chunk_inputs, head_VD, softcap, compute_dtype
    )
    # d(loss)/d(logits) = p (1 + 2 z_loss log Z) - [v is the target].
    gradient_BCV = jnp.exp(logits - normaliser[..., None]) * (
      1 + 2 * z_loss * normaliser[..., None]
    ) - _is_target(targets_BC, logits)
    gradient_BCV = gradient_BCV * slope * weights_BC[..., None]
    gradient_BCV = gradient_BCV.astype(compute_dtype)
    x_gradient_BCD = product(
      'BCV,VD->BCD', gradient_BCV, head_VD.astype(compute_dtype)
    )
    head_gradient_VD += product(
      'BCV,BCD->VD', gradient_BCV, x_BCD.astype(compute_dtype)
    )
    sums = _add(sums, logits, normaliser, chunk_inputs, z_loss)
    return (sums, head_gradient_VD), x_gradient_BCD.astype(x_BCD.dtype)

  xs = _chunks(chunk, x_BTD, targets_BT, weights_BT)
  start = ((jnp.zeros(()),) * 3, jnp.zeros(head_VD.shape, jnp.float32))
  (sums, head_gradient_VD), x_gradient = jax.lax.scan(body, start, xs)
  x_gradient_BTD = jnp.moveaxis(x_gradient, 0, 1).reshape(x_BTD.shape)
  return sums, (x_gradient_BTD, head_gradient_VD.astype(head_VD.dtype))


def _backward(z_loss, softcap, chunk, compute_dtype, gradients, cotangents):
  del z_loss, softcap, chunk, compute_dtype
  x_gradient_BTD, head_gradient_VD = gradients
  scale = cotangents[0]
  return (
    (x_gradient_BTD * scale).astype(x_gradient_BTD.dtype),
    head_gradient_VD * scale,
    None,
    None,
  )


cross_entropy.defvjp(_forward, _backward)
