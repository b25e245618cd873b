"""A number for the bits of an array, the same however the array lies.

Each word is mixed with its place in the array and the results are added up in
integers, which no order of addition changes: the sum is the same on any mesh
and any number of hosts. A word's mixing can be undone, so that a single wrong
word always changes the sum; more of them leave it with a chance of one in 2^32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.params import on_device

# The golden ratio, whose multiples lie far from each other.
_PLACE = 0x9E3779B9
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def fingerprint(x: jax.Array) -> jax.Array:
  """The fingerprint of one array, uint32; a pure function of its bits.

  Raises:
    TypeError: values are wider than four bytes.
  """
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  if x.dtype.itemsize not in _WORDS:
    raise TypeError(
      f'{x.dtype} has {x.dtype.itemsize} bytes a value; 1, 2 or 4'
    )
  words = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize])
  place, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place += index * np.uint32(stride % 2**32)
    stride *= x.shape[axis]
  mixed = _mix(words.astype(jnp.uint32) ^ place * np.uint32(_PLACE))
  return mixed.sum(dtype=jnp.uint32)


def _mix(h: jax.Array) -> jax.Array:
  """The finaliser of MurmurHash3 (Appleby 2011): one-to-one on 32 bits."""
  h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
  return h ^ (h >> 16)


@jax.jit
def _fingerprints(leaves: list[jax.Array]) -> jax.Array:
  return jnp.stack([fingerprint(leaf) for leaf in on_device(leaves)])


def fingerprints(tree: Any) -> dict[str, int]:
  """The fingerprint of each array of a tree, by its name; waits for them."""
  return fingerprints_later(tree)()


def fingerprints_later(tree: Any) -> Callable[[], dict[str, int]]:
  """Starts to compute the fingerprints; what it returns waits for them.

  The arrays may be given up meanwhile.
  """
  named = names(tree)
  if not named:
    return dict
  values = _fingerprints(list(named.values()))
  return lambda: dict(zip(named, np.asarray(values).tolist(), strict=True))


def names(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by the path to each, joined by dots."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
