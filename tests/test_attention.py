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

from model import attention_cudnn
from model.attention_kernels import KERNELS, make_attend, resolve_attention
from model.attention_splash import CausalChunks
from model.context import balanced_order, reorder, restore
from model.mask import causal_mask
from model.ring import Ring

slow = pytest.mark.slow
# Parts of batch, row and heads.
SPLIT = {'data': 2, 'context': 2, 'tensor': 2}


@functools.cache
def reference(name, length=256):
  """A model, inputs, and what the reference makes of them."""
  config = attention_cases.model(length, **attention_cases.FEATURES[name])
  inputs = (*attention_cases.arrays(config), attention_cases.places(config))
  return config, inputs, jax.jit(attention_cases.attention(config))(*inputs)


def cudnn_in_xla(config, places):
  """What is asked of cuDNN, computed without it."""
  return attention_cudnn.make_attend(config, places, implementation='xla')


SPLASH = {
  'attention': 'splash_interpreted',
  'splash_block_q': 128,
  'splash_block_kv': 128,
}


@pytest.mark.parametrize(
  ('name', 'fused'),
  [
    ('documents', False),
    ('grouped-window-softcap', False),
    ('one_kv_head-window', True),
    pytest.param('one_text', False, marks=slow),
    pytest.param('grouped', False, marks=slow),
    pytest.param('one_kv_head-window', False, marks=slow),
    pytest.param('documents', True, marks=slow),
    pytest.param('grouped-window-softcap', True, marks=slow),
  ],
)
def test_splash_is_the_reference(name, fused):
  config, inputs, wanted = reference(name)
  run = attention_cases.attention(config, **SPLASH, splash_fused_backward=fused)
  cases.assert_trees_close(jax.jit(run)(*inputs), wanted, rtol=2e-6)


@pytest.mark.parametrize(
  'name', ['documents', 'one_text', 'one_kv_head-window']
)
def test_what_is_asked_of_cudnn_is_the_reference(name):
  config, inputs, wanted = reference(name)
  run = attention_cases.attention(config, cudnn_in_xla)
  cases.assert_trees_close(jax.jit(run)(*inputs), wanted, rtol=2e-6)


@pytest.mark.parametrize(
  ('name', 'strategy', 'features'),
  [
    ('xla', 'all_gather', 'grouped-window-softcap'),
    ('xla', 'ulysses', 'documents'),
    ('xla', 'ring', 'grouped-window-softcap'),
    ('cudnn', 'all_gather', 'one_text'),
    ('cudnn', 'ulysses', 'documents'),
    pytest.param('xla', 'ring', 'documents', marks=slow),
    pytest.param('xla', 'ring', 'one_text', marks=slow),
    pytest.param('cudnn', 'all_gather', 'documents', marks=slow),
    pytest.param('cudnn', 'ulysses', 'one_text', marks=slow),
    ('splash_interpreted', 'all_gather', 'grouped-window-softcap'),
    pytest.param('splash_interpreted', 'ulysses', 'documents', marks=slow),
    pytest.param('splash_interpreted', 'all_gather', 'one_text', marks=slow),
  ],
)
def test_rows_split_over_devices_are_the_reference(name, strategy, features):
  length = 512 if name == 'splash_interpreted' else 256
  config, inputs, wanted = reference(features, length)
  make = cudnn_in_xla if name == 'cudnn' else make_attend
  fields = SPLASH if name == 'splash_interpreted' else {'attention': 'xla'}
  run = attention_cases.attention(
    config, make, **fields, context_parallelism=strategy
  )
  with jax.set_mesh(attention_cases.mesh(**SPLIT)):
    found = jax.jit(run)(*inputs)
  cases.assert_trees_close(found, wanted, rtol=3e-6)
