"""Any two features together: right, or refused before a device is touched.

A feature is what a configuration switches on. Features that go together are
compared with one device; the default tests take them in a few groups, all at
once, and the slow ones take every pair:

    python -m pytest -m slow tests/test_features.py
"""

import itertools
import re

import cases
import jax
import pytest
from meshes import ONE, run_gradients

from train.setup import make_setup

# What every case starts from; a mesh axis that no feature splits is 1.
BASE = {
  'model.num_layers': 2,
  'model.num_heads': 4,
  'model.num_kv_heads': 4,
  'microbatches': 2,
  'batch_size': 16,
  'mesh.data': -1,
}
FEATURES = {
  'one text a row': {'isolate_documents': False},
  'accumulation': {'accumulation_steps': 2, 'batch_size': 32},
  'remat': {'model.remat': 'attention'},
  'unrolled layers': {'model.scan_layers': False},
  'experts': {'model.moe.num_experts': 4, 'model.moe.num_shared_experts': 1},
  'split experts': {'model.moe.num_experts': 4, 'mesh.expert': 2},
  'megablox': {
    'model.moe.num_experts': 4,
    'model.moe.kernel': 'megablox_interpreted',
    'mesh.expert': 2,
  },
  'context': {'mesh.context': 2},
  'ring': {'mesh.context': 2, 'model.context_parallelism': 'ring'},
  'ulysses': {'mesh.context': 2, 'model.context_parallelism': 'ulysses'},
  'stages': {'mesh.stage': 2},
  'tensor': {'mesh.tensor': 2},
  'fsdp': {'mesh.fsdp': 2},
  'splash': {'model.attention': 'splash_interpreted', 'sequence_length': 512},
  'biases': {'model.use_bias': True},
  'residual dropout': {'model.residual_dropout': 0.1},
  'attention dropout': {'model.attention_dropout': 0.1},
  'feed-forward dropout': {'model.mlp_dropout': 0.1},
  'window': {'model.sliding_window': 7},
  'soft-cap': {'model.attention_softcap': 2.0, 'model.logits_softcap': 3.0},
  'seen prefixes': {'augmentation.ul2.r_rate': 0.1},
  'learned positions': {'model.positions': 'learned'},
  'spectral': {
    'model.parametrization': 'spectral',
    'model.base_embed_dim': 8,
    'model.base_num_layers': 1,
    'model.tie_embeddings': False,
    'optimizer.name': 'muon',
  },
  'completep': {
    'model.parametrization': 'completep',
    'model.base_embed_dim': 8,
    'model.base_num_layers': 1,
  },
  'hyperball': {'optimizer.hyperball': True},
}
# Pairs that are refused, and what the error names.
UNSUPPORTED = {
  ('experts', 'biases'): 'model.use_bias is True, and experts',
  ('split experts', 'biases'): 'model.use_bias is True, and experts',
  ('experts', 'feed-forward dropout'): 'model.mlp_dropout is 0.1, and experts',
  ('split experts', 'feed-forward dropout'): 'model.mlp_dropout is 0.1',
  ('megablox', 'biases'): 'model.use_bias is True, and experts',
  ('megablox', 'feed-forward dropout'): 'model.mlp_dropout is 0.1',
  ('ring', 'splash'): "model.context_parallelism = 'ring'",
  ('ring', 'attention dropout'): 'model.attention_dropout = 0.1',
  ('splash', 'attention dropout'): 'model.attention_dropout = 0.1',
  ('splash', 'seen prefixes'): 'augmentation.ul2',
}
# Between them these hold nearly every pair that goes together.
GROUPS = [
  ('accumulation', 'remat', 'split experts', 'context', 'stages', 'window',
   'residual dropout', 'soft-cap', 'attention dropout', 'spectral'),
]  # fmt: skip
SLOW_GROUPS = [
  ('one text a row', 'unrolled layers', 'ring', 'tensor', 'stages', 'remat',
   'biases', 'feed-forward dropout', 'learned positions', 'completep'),
  ('accumulation', 'experts', 'ulysses', 'tensor', 'fsdp', 'unrolled layers',
   'window', 'soft-cap', 'attention dropout', 'residual dropout'),
  ('stages', 'splash', 'context', 'tensor', 'remat', 'window', 'soft-cap',
   'accumulation', 'biases', 'residual dropout', 'feed-forward dropout'),
  ('stages', 'splash', 'ulysses', 'megablox', 'one text a row', 'remat',
   'residual dropout', 'unrolled layers', 'learned positions'),
]  # fmt: skip


def overrides_of(*features):
  """What some features set; None where two want one field otherwise."""
  found = {}
  for feature in features:
    for field, value in FEATURES[feature].items():
      if field != 'batch_size' and found.get(field, value) != value:
        return None
      found[field] = max(value, found.get(field, value))
  return BASE | found


PAIRS = [
  pair
  for pair in itertools.combinations(FEATURES, 2)
  if overrides_of(*pair) is not None
]
SUPPORTED = [pair for pair in PAIRS if pair not in UNSUPPORTED]


@pytest.mark.parametrize('pair', UNSUPPORTED, ids=' and '.join)
def test_pairs_that_do_not_go_together_are_refused(pair):
  for feature in pair:
    make_setup(cases.tiny_train_config(**overrides_of(feature)))
  with pytest.raises(ValueError, match=re.escape(UNSUPPORTED[pair])):
    make_setup(cases.tiny_train_config(**overrides_of(*pair)))


def test_every_other_pair_is_accepted():
  for pair in SUPPORTED:
    make_setup(cases.tiny_train_config(**overrides_of(*pair)))


def check(*features):
  """Compares features on a mesh with the same ones on one device."""
  overrides = overrides_of(*features)
  mesh = {
    field.removeprefix('mesh.'): overrides.pop(field)
    for field in list(overrides)
    if field.startswith('mesh.')
  }
  split = [n for n in mesh.values() if n > 0]
  shape = mesh | {'data': 2 if len(split) < 3 else 1}
  rows_BR = cases.packed_rows(
    batch=overrides['batch_size'],
    tokens=overrides.get('sequence_length', 32) + 1,
  )
  wanted_grads, wanted_sums = run_gradients(
    ONE,
    rows_BR,
    **overrides | {'model.attention': 'xla', 'model.moe.kernel': 'xla'},
  )
  grads, sums = run_gradients(shape, rows_BR, **overrides)
  cases.assert_trees_close(sums, wanted_sums, rtol=1e-6)
  cases.assert_trees_close(grads, wanted_grads, rtol=1e-5)


@pytest.mark.parametrize(
  'features',
  [
    *GROUPS,
    *(pytest.param(group, marks=pytest.mark.slow) for group in SLOW_GROUPS),
  ],
  ids=' and '.join,
)
def test_many_features_at_once_are_right_on_a_mesh(features):
  assert len(jax.devices()) == 8
  check(*features)


@pytest.mark.slow
@pytest.mark.parametrize('pair', SUPPORTED, ids=' and '.join)
def test_every_pair_is_right_on_a_mesh(pair):
  check(*pair)
