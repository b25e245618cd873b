"""Every kernel computes what the reference computes, or is refused."""

import dataclasses
import functools

import attention_cases
import cases
import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest

from model import attention_cudnn, attention_splash
from model.attention_kernels import KERNELS, make_attend, resolve_attention

features = pytest.mark.parametrize('name', attention_cases.FEATURES)


@functools.cache
def reference(name, length=256):
  """A model, inputs, and what the reference makes of them."""
  config = attention_cases.model(length, **attention_cases.FEATURES[name])
  inputs = (*attention_cases.arrays(config), attention_cases.places(config))
  return config, inputs, jax.jit(attention_cases.attention(config))(*inputs)


@features
@pytest.mark.parametrize('fused', [False, True])
def test_splash_is_the_reference(name, fused):
  config, inputs, wanted = reference(name)
  run = attention_cases.attention(
    config,
    attention='splash_interpreted',
    splash_block_q=128,
    splash_block_kv=128,
    splash_fused_backward=fused,
  )
  cases.assert_trees_close(jax.jit(run)(*inputs), wanted, rtol=2e-6)
