"""The chunked loss is the plain loss."""

import collections
import functools
import math

import cases
import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest

from model.axes import partition_spec
from model.loss import cross_entropy

B, T, D, V = 2, 16, 8, 48


def arrays():
  generator = np.random.default_rng(0)
  x_BTD = generator.standard_normal((B, T, D)).astype(np.float32)
  head_VD = generator.standard_normal((V, D)).astype(np.float32)
  targets_BT = generator.integers(0, V, (B, T))
  weights_BT = generator.choice([0.0, 0.5, 1.0], (B, T)).astype(np.float32)
  assert (weights_BT == 0).any()
  return x_BTD, head_VD, targets_BT, weights_BT


def plain(x_BTD, head_VD, targets_BT, weights_BT, z_loss, softcap):
  """The three sums, with all logits at once."""
  logits = jnp.einsum('btd,vd->btv', x_BTD, head_VD)
  if softcap is not None:
    logits = softcap * jnp.tanh(logits / softcap)
  log_probabilities = jax.nn.log_softmax(logits)
  nll = -jnp.take_along_axis(log_probabilities, targets_BT[..., None], -1)
  nll = (nll[..., 0] * weights_BT).sum()
  normaliser = jnp.log(jnp.exp(logits).sum(-1))
  squared = (normaliser**2 * weights_BT).sum()
  return nll + z_loss * squared, nll, squared


def chunked(x_BTD, head_VD, targets_BT, weights_BT, z_loss, softcap, chunk):
  return cross_entropy(
    x_BTD,
    head_VD,
    targets_BT,
    weights_BT,
    z_loss=z_loss,
    softcap=softcap,
    chunk=chunk,
    compute_dtype='float32',
  )


def differentiate(function):
  """Gradients of three times the loss, and the sums beside and alone."""
  x, head, *rest = arrays()

  def scaled(x, head):
    sums = function(x, head, *rest)
    return 3 * sums[0], sums

  @jax.jit
  def run(x, head):
    gradients, sums = jax.grad(scaled, (0, 1), has_aux=True)(x, head)
    return gradients, sums, function(x, head, *rest)

  return run(x, head)


@functools.cache
def wanted(z_loss, softcap):
  return differentiate(functools.partial(plain, z_loss=z_loss, softcap=softcap))


@pytest.mark.parametrize(
  ('z_loss', 'softcap', 'chunk'),
  [(0.0, None, T // 4), (0.0, None, T // 2), (0.0, None, T),
   (0.01, 2.0, T // 4), (0.01, 2.0, T // 2), (0.01, 2.0, T),
   (0.01, None, T // 4), (0.0, 2.0, T // 4)],
)  # fmt: skip
def test_values_and_gradients_equal_the_plain_loss(z_loss, softcap, chunk):
  gradients, sums, alone = differentiate(
    functools.partial(chunked, z_loss=z_loss, softcap=softcap, chunk=chunk)
  )
  wanted_gradients, wanted_sums, _ = wanted(z_loss, softcap)
  np.testing.assert_allclose(sums, wanted_sums, rtol=1e-5)
  np.testing.assert_allclose(alone, wanted_sums, rtol=1e-5)
  for found, gradient in zip(gradients, wanted_gradients, strict=True):
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-5)


def test_a_token_of_weight_zero_has_no_gradient_and_no_say():
  x, head, targets, weights = arrays()

  @jax.jit
  def gradients(x, targets):
    def loss(x, head):
      return chunked(x, head, targets, weights, 0.01, 2.0, T // 4)[0]

    return jax.grad(loss, (0, 1))(x, head)

  first = gradients(x, targets)
  np.testing.assert_array_equal((first[0] != 0).any(-1), weights != 0)
  other_x = np.where(weights[..., None] == 0, x + 1, x)
  other_targets = np.where(weights == 0, 0, targets)
  assert cases.same_bits(gradients(other_x, other_targets), first)


@pytest.mark.parametrize('chunk', [T // 4, T // 2, T])
def test_logits_exist_for_a_chunk_at_a_time(chunk):
  x, head, *rest = arrays()

  def loss(x, head):
    return chunked(x, head, *rest, 0.01, 2.0, chunk)[0]

  for function in (loss, jax.grad(loss, (0, 1))):
    jaxpr = jax.make_jaxpr(function)(x, head).jaxpr
    assert jaxprs.largest_array(jaxpr) == max(B * chunk * V, V * D)


def test_the_reported_parts_carry_no_gradient():
  x, head, *rest = arrays()
  for part in (1, 2):
    gradient = jax.grad(
      lambda x, part=part: chunked(x, head, *rest, 0.01, None, T)[part]
    )(x)
    assert not gradient.any()


def sharded(shape, **rules):
  """The loss on a mesh, and its arguments as they lie there."""
  recipe = cases.recipe(
    **{f'mesh.{axis}': size for axis, size in shape.items()},
    **{f'mesh.rules.{axis}': axes for axis, axes in rules.items()},
  )
  mesh = cases.mesh_of(recipe, math.prod(shape.values()))
  rules = recipe.config.mesh.rules
  function = functools.partial(
    cross_entropy,
    z_loss=0.01, softcap=2.0, chunk=4, compute_dtype='float32', rules=rules,
  )  # fmt: skip
  axes = [('batch', 'residual_length', None), ('vocab', 'embed')]
  axes += [('batch', 'length')] * 2
  placed = [
    jax.device_put(
      array, jax.sharding.NamedSharding(mesh, partition_spec(names, rules))
    )
    for array, names in zip(arrays(), axes, strict=True)
  ]
  return mesh, function, placed


@pytest.mark.parametrize(
  ('shape', 'rules'),
  [
    ({'data': 2, 'fsdp': 1, 'tensor': 2}, {}),
    ({'data': 1, 'fsdp': 2, 'context': 2, 'tensor': 2}, {}),
    # The gradient leaves whole in positions.
    ({'data': 1, 'fsdp': 2, 'tensor': 2}, {'residual_length': ()}),
    # Devices that share tokens split the head's width.
    ({'data': 1, 'fsdp': 2, 'tensor': 2}, {'vocab': (), 'embed': ('tensor',)}),
    ({'data': 1, 'tensor': 4}, {'vocab': (), 'embed': ()}),
  ],
)
def test_every_mesh_gives_the_same_values_and_gradients(shape, rules):
  mesh, function, (x, head, *rest) = sharded(shape, **rules)

  def scaled(x, head):
    sums = function(x, head, *rest)
    return 3 * sums[0], sums

  @jax.jit
  def run(x, head):
    gradients, sums = jax.grad(scaled, (0, 1), has_aux=True)(x, head)
    return gradients, sums, function(x, head, *rest)

  with jax.set_mesh(mesh):
    found = run(x, head)
  for part, other in zip(found, wanted(0.01, 2.0), strict=True):
    for one, another in zip(part, other, strict=True):
      np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-5)


def test_the_head_is_gathered_once_and_its_gradient_summed_once():
  mesh, function, (x, head, *rest) = sharded({'data': 1, 'fsdp': 2})
  with jax.set_mesh(mesh):
    jaxpr = jax.make_jaxpr(
      jax.grad(lambda x, head: function(x, head, *rest)[0], (0, 1))
    )(x, head)
  # Of the gradient the pieces together.
  moved = collections.Counter()
  for equation, count in jaxprs.equations(jaxpr.jaxpr):
    name = equation.primitive.name
    if 'fsdp' in equation.params.get('axis_name', ()):
      whole = max(equation.invars[0].aval.size, equation.outvars[0].aval.size)
      moved[name] += count * whole
  assert moved == {'all_gather': V * D, 'reduce_scatter': V * D}
