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
from model.attention_kernels import make_attend
from model.attention_splash import CausalChunks
from model.context import balanced_order, reorder, restore
from model.mask import Places, causal_mask
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


@pytest.mark.parametrize(
  ('make', 'strategy', 'axes'),
  [
    (cudnn_in_xla, 'all_gather', {}),
    (make_attend, 'ring', {'context': 4}),
    (make_attend, 'all_gather', {'context': 4}),
  ],
)
@pytest.mark.parametrize('window', [None, 37])
def test_prefixes_are_seen_from_before(make, strategy, axes, window):
  config = attention_cases.model(
    64, visible_prefixes=True, sliding_window=window,
    context_parallelism=strategy,
  )  # fmt: skip
  places = attention_cases.places(config)
  visible_BT = jnp.asarray(np.random.default_rng(2).integers(0, 2, (2, 64)) > 0)
  inputs = (
    *attention_cases.arrays(config),
    dataclasses.replace(places, visible_BT=visible_BT),
  )
  wanted = jax.jit(attention_cases.attention(config))(*inputs)
  blind = jax.jit(attention_cases.attention(config))(*inputs[:4], places)
  assert np.abs(wanted['o'] - blind['o']).max() > 0.1
  with jax.set_mesh(attention_cases.mesh(**axes)):
    found = jax.jit(attention_cases.attention(config, make))(*inputs)
  cases.assert_trees_close(found, wanted, rtol=3e-6)


def test_query_heads_may_be_split_further_than_keys():
  config, inputs, wanted = reference('grouped')
  rules = (*attention_cases.RULES[:3], ('kv_heads', ()))
  run = attention_cases.attention(
    config, cudnn_in_xla, attention='xla', axis_rules=rules
  )
  with jax.set_mesh(attention_cases.mesh(context=2, tensor=4)):
    found = jax.jit(run)(*inputs)
  cases.assert_trees_close(found, wanted, rtol=3e-6)


# The order of rows.


@pytest.mark.parametrize('parts', [2, 3, 8])
def test_the_balanced_order_gives_equal_work(parts):
  order = balanced_order(parts)
  assert sorted(order) == list(range(2 * parts))
  length = 4 * parts * 2
  index_BT = reorder(jnp.arange(length)[None], order)
  seen = np.asarray(index_BT).reshape(parts, -1).sum(1)
  assert len(set(seen.tolist())) == 1
  # As they were written, the last device has almost all of it.
  np.testing.assert_array_equal(restore(index_BT, order)[0], np.arange(length))


@pytest.mark.parametrize('window', [None, 1, 5, 16, 17, 40])
@pytest.mark.parametrize('order', [None, balanced_order(2)])
def test_the_mask_of_splash_knows_its_blocks(window, order):
  mask = CausalChunks(64, window, order)
  queries, keys = mask.q_sequence[:, None], np.arange(64)[None]
  whole = mask.mask_function(queries, keys)
  places = [
    Places(jnp.ones((1, 64), int), jnp.asarray(index)[None])
    for index in (mask.q_sequence, np.arange(64))
  ]
  np.testing.assert_array_equal(whole, causal_mask(*places, window)[0])
  for q in range(0, 64, 8):
    for k in range(0, 64, 16):
      block = (slice(q, q + 8), slice(k, k + 16))
      assert mask[block].any() == whole[block].any()
      assert mask[block].all() == whole[block].all()


@pytest.mark.parametrize('window', [None, 1, 8, 9, 10, 24])
def test_the_ring_skips_chunks_that_are_not_seen_and_no_others(window):
  ring = Ring(
    axes=(), order=balanced_order(2), window=window, softcap=None,
    prefixes=False,
  )  # fmt: skip
  index = np.arange(32)
  whole = (index[:, None] >= index) & (
    (window is None) | (index[:, None] - index < (window or 0))
  )
  for q in range(4):
    for k in range(4):
      part = whole[8 * q : 8 * q + 8, 8 * k : 8 * k + 8]
      assert ring.reach(q, k, 8) == part.any()


def test_neither_ring_nor_splash_makes_the_scores_of_a_row():
  B, N, T = 2, 4, 2048
  config = attention_cases.model(T)
  inputs = (*attention_cases.arrays(config), attention_cases.places(config))
  largest = {}
  with jax.set_mesh(attention_cases.mesh(context=2)):
    for name, fields in {
      'reference': {},
      'ring': {'context_parallelism': 'ring'},
      'splash': SPLASH,
    }.items():
      run = attention_cases.attention(config, **fields)
      largest[name] = jaxprs.largest_array(jax.make_jaxpr(run)(*inputs).jaxpr)
  assert largest['reference'] == B * N * T * T
  # Of a block of queries and one of four chunks of keys.
  assert largest['ring'] == B * N * 512 * (T // 4)
  # Nothing larger than the log-normalisers, which lie in all 128 lanes.
  assert largest['splash'] <= B * N * T * 128
