"""Cross-entropy over the vocabulary without the logits of the whole batch.

On a mesh each device gathers its part of the head once, computes the loss and
both gradients of its own tokens, and the head's gradient is summed over the
devices once. Left to the compiler, it would be once for each chunk.

Suffixes: B batch, T position, C positions of a chunk, D model width, V
vocabulary.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.axes import AxisRules, partition_spec
from model.einsum import product
from model.layers import softcap as apply_softcap

Sums = tuple[jax.Array, jax.Array, jax.Array]

# In which the head's gradient is added up, at most.
_PIECES = 16


class _Loss(NamedTuple):
  """What is static about the loss; fields as in `cross_entropy`."""

  softcap: float | None
  chunk: int
  compute_dtype: str
  rules: AxisRules


def cross_entropy(
  x_BTD: jax.Array,
  head_VD: jax.Array,
  targets_BT: jax.Array,
  weights_BT: jax.Array,
  *,
  z_loss: float | jax.Array = 0.0,
  softcap: float | None = None,
  chunk: int,
  compute_dtype: str,
  rules: AxisRules = (),
) -> Sums:
  """Weighted sums of cross-entropy and z-loss over all tokens.

  Logits exist for `chunk` positions of each row at a time. When gradients are
  asked for, they are computed in the same pass, so that nothing is computed
  twice. The head's gradient is summed in float32.

  Args:
    x_BTD: hidden states.
    head_VD: output matrix.
    targets_BT: the token that follows each position.
    weights_BT: weight of each position; 0 leaves it out.
    z_loss: weight of the squared log-normaliser (Chowdhery et al. 2022).
    softcap: tanh soft-cap of the logits, or None.
    chunk: positions at a time; divides T. Where the mesh splits rows, a device
      takes the largest divisor of its positions that divides `chunk`.
    compute_dtype: type in which matrix products are multiplied.
    rules: logical axis to mesh axes; needed where there is a mesh.

  Returns:
    The loss to minimise (cross-entropy + z_loss * squared log-normaliser), and
    its two parts, for reporting: they carry no gradient.
  """
  loss = _Loss(softcap, chunk, compute_dtype, rules)
  weight = jnp.asarray(z_loss, jnp.float32)
  return _cross_entropy(loss, x_BTD, head_VD, targets_BT, weights_BT, weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(loss, *arrays):
  return _on_mesh(loss, _sums, arrays, gradients=False)


def _forward(loss, *arrays):
  sums, x_gradient_BTD, head_gradient_VD = _on_mesh(
    loss, _sums_and_gradients, arrays, gradients=True
  )
  return sums, (x_gradient_BTD, head_gradient_VD)


def _backward(loss, gradients, cotangents):
  del loss
  x_gradient_BTD, head_gradient_VD = gradients
  scale = cotangents[0]
  return (
    (x_gradient_BTD * scale).astype(x_gradient_BTD.dtype),
    head_gradient_VD * scale,
    None,
    None,
    None,
  )


_cross_entropy.defvjp(_forward, _backward)


class _Layout(NamedTuple):
  """The mesh axes that split the tokens, the vocabulary and the head's width.

  Attributes:
    tokens, vocab, embed: axes.
    scatter: the gradient of the hidden states leaves split by positions over
      the axes of the vocabulary, as the residual stream lies.
    repeats: devices that share their tokens and split the head's width.
  """

  tokens: tuple[str, ...] = ()
  vocab: tuple[str, ...] = ()
  embed: tuple[str, ...] = ()
  scatter: bool = False
  repeats: int = 1


def _on_mesh(loss, function, arrays, *, gradients):
  """Runs a function on each device's part of the arrays, or on all of them."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return function(loss, _Layout(), *arrays)
  # Refuses rules that split positions and vocabulary over the same axis.
  partition_spec(('batch', 'length', 'vocab'), loss.rules)
  table = dict(loss.rules)
  tokens = table['batch'] + table['length']
  layout = _Layout(
    tokens=tokens,
    vocab=table['vocab'],
    embed=table['embed'],
    scatter=table['residual_length'] == table['length'] + table['vocab'],
    repeats=math.prod(mesh.shape[a] for a in table['embed'] if a not in tokens),
  )
  rows = partition_spec(('batch', 'length'), loss.rules)
  head = partition_spec(('vocab', 'embed'), loss.rules)
  residual = 'residual_length' if layout.scatter else 'length'
  out = partition_spec(('batch', residual, None), loss.rules)
  nothing = jax.sharding.PartitionSpec()
  return jax.shard_map(
    functools.partial(function, loss, layout),
    mesh=mesh,
    in_specs=(rows, head, rows, rows, nothing),
    out_specs=(nothing, out, head) if gradients else nothing,
    check_vma=False,
  )(*arrays)


def _sums(loss, layout, x_BTD, head_VD, targets_BT, weights_BT, z_loss):
  head_VD = _gather(head_VD, loss, layout)

  def body(sums, chunk):
    logits, _, normaliser = _logits(chunk[0], head_VD, loss, layout)
    return _add(sums, logits, normaliser, chunk, z_loss, layout), None

  chunks = _chunks(loss.chunk, x_BTD, targets_BT, weights_BT)
  sums = jax.lax.scan(body, (jnp.zeros(()),) * 3, chunks)[0]
  return _psum(sums, layout.tokens)


def _sums_and_gradients(
  loss, layout, x_BTD, head_VD, targets_BT, weights_BT, z_loss
):
  dtype = loss.compute_dtype
  whole_VD = _gather(head_VD, loss, layout)

  def body(carry, chunk):
    sums, head_gradient_VD = carry
    x_BCD, targets_BC, weights_BC = chunk
    logits, slope, normaliser = _logits(x_BCD, whole_VD, loss, layout)
    # d(loss)/d(logits) = p (1 + 2 z_loss log Z) - [v is the target].
    gradient_BCV = jnp.exp(logits - normaliser[..., None]) * (
      1 + 2 * z_loss * normaliser[..., None]
    ) - _is_target(targets_BC, logits, layout)
    gradient_BCV = gradient_BCV * slope * weights_BC[..., None]
    gradient_BCV = gradient_BCV.astype(dtype)
    x_gradient_BCD = product('BCV,VD->BCD', gradient_BCV, whole_VD)
    head_gradient_VD += product(
      'BCV,BCD->VD', gradient_BCV, x_BCD.astype(dtype)
    )
    sums = _add(sums, logits, normaliser, chunk, z_loss, layout)
    return (sums, head_gradient_VD), x_gradient_BCD.astype(x_BCD.dtype)

  chunks = _chunks(loss.chunk, x_BTD, targets_BT, weights_BT)
  start = ((jnp.zeros(()),) * 3, jnp.zeros(whole_VD.shape, jnp.float32))
  (sums, head_gradient_VD), x_gradient = jax.lax.scan(body, start, chunks)
  x_gradient_BTD = jnp.moveaxis(x_gradient, 0, 1).reshape(x_BTD.shape)
  if layout.scatter and layout.vocab:
    x_gradient_BTD = jax.lax.psum_scatter(
      x_gradient_BTD, layout.vocab, scatter_dimension=1, tiled=True
    )
  else:
    x_gradient_BTD = _psum(x_gradient_BTD, layout.vocab)
  head_gradient_VD = _add_up(head_gradient_VD, layout)
  # Left to itself, the compiler may add up at the end of the step, and keep the
  # whole gradient until then.
  x_gradient_BTD, head_gradient_VD = jax.lax.optimization_barrier(
    (x_gradient_BTD, head_gradient_VD)
  )
  return (
    _psum(sums, layout.tokens),
    x_gradient_BTD,
    head_gradient_VD.astype(head_VD.dtype),
  )


def _add_up(head_gradient_VD, layout):
  """Sums the head's gradient over the devices, and leaves each its part.

  One piece after the other: where the compiler adds up the whole of what it is
  given before it cuts a part out, it needs room for a piece.
  """
  V, D = head_gradient_VD.shape
  others = tuple(a for a in layout.tokens if a not in layout.embed)

  def add_up(piece_VD):
    if layout.embed:
      piece_VD = jax.lax.psum_scatter(
        piece_VD / layout.repeats,
        layout.embed,
        scatter_dimension=1,
        tiled=True,
      )
    return _psum(piece_VD, others)

  pieces = math.gcd(V, _PIECES)
  parts = jax.lax.map(add_up, head_gradient_VD.reshape(pieces, -1, D))
  return parts.reshape(V, -1)


def _gather(head_VD, loss, layout):
  """This device's part of the vocabulary, rounded before it is gathered."""
  head_VD = head_VD.astype(loss.compute_dtype)
  if not layout.embed:
    return head_VD
  return jax.lax.all_gather(head_VD, layout.embed, axis=1, tiled=True)


def _logits(x_BCD, head_VD, loss, layout):
  """Capped logits and slope of the cap [B, C, V], log-normaliser [B, C]."""
  raw_BCV = product('BCD,VD->BCV', x_BCD.astype(loss.compute_dtype), head_VD)
  logits_BCV = apply_softcap(raw_BCV, loss.softcap)
  slope_BCV = (
    1.0 if loss.softcap is None else 1 - (logits_BCV / loss.softcap) ** 2
  )
  largest_BC = logits_BCV.max(-1)
  if layout.vocab:
    largest_BC = jax.lax.pmax(largest_BC, layout.vocab)
  sum_BC = _psum(
    jnp.exp(logits_BCV - largest_BC[..., None]).sum(-1), layout.vocab
  )
  return logits_BCV, slope_BCV, largest_BC + jnp.log(sum_BC)


def _add(sums, logits_BCV, normaliser_BC, chunk, z_loss, layout):
  _, targets_BC, weights_BC = chunk
  chosen_BC = _psum(
    jnp.where(_is_target(targets_BC, logits_BCV, layout), logits_BCV, 0).sum(
      -1
    ),
    layout.vocab,
  )
  nll = ((normaliser_BC - chosen_BC) * weights_BC).sum()
  z = (normaliser_BC**2 * weights_BC).sum()
  return sums[0] + nll + z_loss * z, sums[1] + nll, sums[2] + z


def _is_target(targets_BC, logits_BCV, layout):
  # A comparison, not a gather: a part of the vocabulary may lack the target.
  first = 0
  if layout.vocab:
    first = jax.lax.axis_index(layout.vocab) * logits_BCV.shape[-1]
  return targets_BC[..., None] == first + jnp.arange(logits_BCV.shape[-1])


def _psum(tree, axes: tuple[str, ...]):
  return jax.lax.psum(tree, axes) if axes else tree


def _chunks(chunk, *arrays_BT):
  """Reshapes [B, T, ...] into [T / C, B, C, ...], to scan over."""

  def split(array):
    B, T = array.shape[:2]
    C = math.gcd(chunk, T)
    return jnp.moveaxis(array.reshape(B, T // C, C, *array.shape[2:]), 1, 0)

  return tuple(split(array) for array in arrays_BT)
