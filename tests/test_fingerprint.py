"""A fingerprint tells bits apart, and not how an array lies on devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from train.fingerprint import fingerprint, fingerprints

DTYPES = ['float32', 'bfloat16', 'int32', 'uint8', 'bool']


def values(dtype, shape=(8, 6, 4)):
  bits = np.random.default_rng(0).integers(0, 2, (*shape, 32))
  return jnp.asarray(bits @ (0.5 ** np.arange(32)) * 100 % 2, dtype)


@pytest.mark.parametrize('dtype', DTYPES)
def test_it_is_the_same_on_every_mesh(dtype):
  x = values(dtype)
  wanted = fingerprints({'x': x})
  for shape, spec in [
    ((8,), PartitionSpec('a')),
    ((4, 2), PartitionSpec('a', 'b')),
    ((2, 4), PartitionSpec(None, 'a', 'b')),
    ((2, 2, 2), PartitionSpec('c', 'b')),
    ((8,), PartitionSpec()),
  ]:
    mesh = jax.make_mesh(shape, ('a', 'b', 'c')[: len(shape)])
    lying = jax.device_put(x, NamedSharding(mesh, spec))
    assert fingerprints({'x': lying}) == wanted


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'uint8'])
def test_every_single_bit_changes_it(dtype):
  x = np.asarray(values(dtype, (3, 5)))
  jitted = jax.jit(fingerprint)
  seen = {int(jitted(x))}
  bits = x.dtype.itemsize * 8
  for place in range(x.size):
    for bit in range(bits):
      flipped = x.copy()
      words = flipped.view(f'uint{bits}').reshape(-1)
      words[place] ^= np.array(1 << bit, words.dtype)
      seen.add(int(jitted(flipped)))
  # None is that of the array as it was, and none that of another flip.
  assert len(seen) == x.size * bits + 1


def test_places_matter_and_zeros_of_both_signs_differ():
  x = values('float32')
  jitted = jax.jit(fingerprint)
  assert jitted(x) != jitted(x[::-1])
  assert jitted(x) != jitted(x.swapaxes(0, 2).reshape(x.shape))
  assert jitted(jnp.float32(0.0)) != jitted(jnp.float32(-0.0))


def test_names_are_paths_and_wide_values_are_refused():
  tree = {'a': [jnp.ones(2), {'b': jnp.zeros(())}]}
  assert set(fingerprints(tree)) == {'a.0', 'a.1.b'}
  assert fingerprints({}) == {}
  with pytest.raises(TypeError, match='8 bytes a value'):
    fingerprint(np.zeros(2, np.float64))
