"""Every value that cannot work is refused, by the name of its field."""

import math
import re

import cases
import pytest

from model.config import DTYPES, MLPS, NORMS, POSITIONS, REMATS
from train.optimizer import OPTIMIZERS
from train.schedule import SCHEDULES

NOT_POSITIVE = [
  (f'model.{name}', value)
  for name in (
    'vocab_size', 'embed_dim', 'num_layers', 'num_heads', 'num_kv_heads',
    'head_dim', 'mlp_dim', 'sliding_window', 'base_embed_dim',
    'base_num_layers',
  )
  for value in (0, -1)
] + [
  (f'model.{name}', value)
  for name in (
    'attention_softcap', 'logits_softcap', 'rope_theta', 'norm_epsilon',
    'init_std',
  )
  for value in (0.0, -1.0, math.nan)
]  # fmt: skip
RATES = [
  (f'model.{name}_dropout', value)
  for name in ('embedding', 'attention', 'residual', 'mlp')
  for value in (-0.1, 1.0, math.nan)
]
CHOICES = [
  ('model.mlp', 'relu'), ('model.norm', 'batch'), ('model.positions', 'alibi'),
  ('model.remat', 'some'), ('model.compute_dtype', 'float16'),
  ('model.gradient_dtype', 'float16'), ('model.parametrization', 'mup'),
  ('optimizer.name', 'adam'), ('optimizer.schedule', 'exponential'),
  ('optimizer.decay_kinds', ('matrix', 'weights')),
  ('early_stopping.metric', 'accuracy'),
]  # fmt: skip
RANGES = [
  ('steps', 0), ('batch_size', 0), ('accumulation_steps', 0),
  ('sequence_length', 0), ('evaluation.every', 0), ('checkpoint.every', 0),
  ('log.every', 0), ('log.profile_start', 0), ('log.profile_steps', 0),
  ('checkpoint.keep_last', 0), ('evaluation.batch_size', 0),
  ('loss.chunk', 0), ('optimizer.learning_rate', -1.0),
  ('optimizer.learning_rate', math.nan), ('optimizer.weight_decay', -0.1),
  ('optimizer.final_fraction', 1.1), ('optimizer.epsilon', -1e-8),
  ('optimizer.b1', 1.1), ('optimizer.b2', -0.1), ('optimizer.momentum', 2.0),
  ('optimizer.ema_decay', 1.5), ('optimizer.clip_norm', 0.0),
  ('optimizer.embedding_rate', -1.0), ('optimizer.head_rate', math.nan),
  ('optimizer.warmup_steps', -1), ('optimizer.warmup_steps', 21),
  ('early_stopping.patience', 0), ('early_stopping.min_delta', -1.0),
  ('early_stopping.target', 0.0), ('early_stopping.max_tokens', 0),
  ('early_stopping.max_hours', -1.0), ('early_stopping.divergence', math.nan),
  ('early_stopping.divergence_patience', 0), ('early_stopping.overfitting', 0),
]  # fmt: skip


@pytest.mark.parametrize(
  ('field', 'value'), NOT_POSITIVE + RATES + CHOICES + RANGES, ids=str
)
def test_a_value_out_of_range_names_its_field(field, value):
  with pytest.raises(ValueError, match=re.escape(field)):
    cases.recipe(**{field: value})


@pytest.mark.parametrize(
  ('overrides', 'parts'),
  [
    (
      {'model.num_kv_heads': 3},
      ['model.num_heads = 4', 'model.num_kv_heads = 3', '4 = 1 x 3 + 1'],
    ),
    (
      {'model.embed_dim': 30},
      ['model.embed_dim = 30', 'model.num_heads = 4', 'model.head_dim'],
    ),
    ({'model.head_dim': 5}, ['model.head_dim = 5', 'even']),
    (
      {'model.zero_head': True},
      ['model.zero_head is True', 'model.tie_embeddings = True'],
    ),
    (
      {'model.parametrization': 'spectral', 'optimizer.name': 'muon'},
      ["model.parametrization = 'spectral'", 'model.tie_embeddings = True'],
    ),
    (
      {'model.parametrization': 'completep', 'optimizer.name': 'lion'},
      ["model.parametrization = 'completep'", "optimizer.name = 'adamw'",
       "'lion'"],
    ),
    (
      {'model.parametrization': 'spectral', 'model.tie_embeddings': False},
      ["model.parametrization = 'spectral'", "optimizer.name = 'muon'"],
    ),
    (
      {'model.base_embed_dim': 16},
      ['model.base_embed_dim is 16', "model.parametrization = 'standard'"],
    ),
    (
      {'optimizer.head_rate': 2.0},
      ['optimizer.head_rate is 2.0', 'model.tie_embeddings = True'],
    ),
    (
      {'model.gradient_dtype': 'bfloat16'},
      ["model.gradient_dtype = 'bfloat16'", "compute_dtype = 'float32'"],
    ),
    (
      {'batch_size': 10, 'accumulation_steps': 4},
      ['batch_size = 10', 'accumulation_steps = 4', '10 = 2 x 4 + 2'],
    ),
    (
      {'loss.chunk': 12},
      ['sequence_length = 32', 'loss.chunk = 12', '32 = 2 x 12 + 8'],
    ),
    (
      {'optimizer.schedule': 'wsd', 'optimizer.warmup_steps': 15,
       'optimizer.decay_steps': 6},
      ['optimizer.warmup_steps = 15', 'optimizer.decay_steps = 6',
       'steps = 20'],
    ),
    (
      {'log.profile_start': 19},
      ['log.profile_start = 19', 'log.profile_steps = 3', '19 to 21',
       'steps = 20'],
    ),
  ],
)  # fmt: skip
def test_two_values_that_do_not_fit_do_the_arithmetic(overrides, parts):
  with pytest.raises(ValueError, match=re.escape(parts[0])) as error:
    cases.tiny_train_config(**overrides)
  for part in parts:
    assert part in str(error.value)


@pytest.mark.parametrize(
  ('field', 'values'),
  [('model.mlp', MLPS), ('model.norm', NORMS), ('model.positions', POSITIONS),
   ('model.remat', REMATS), ('model.compute_dtype', DTYPES),
   ('model.gradient_dtype', DTYPES[1:]), ('optimizer.name', OPTIMIZERS),
   ('optimizer.schedule', SCHEDULES)],
)  # fmt: skip
def test_every_choice_is_accepted(field, values):
  for value in values:
    cases.recipe(**{field: value, 'optimizer.decay_steps': 5})


def test_what_is_derived():
  config = cases.tiny_train_config(
    **{'accumulation_steps': 2, 'model.embed_dim': 48}
  )
  assert config.model.head_dim == 12
  assert config.model.max_length == config.sequence_length == 32
  assert config.evaluation_batch_size == 4
  assert dict(config.model.axis_rules) == dict(config.mesh.rules)
  assert dict(config.mesh.rules)['batch'] == ('data', 'fsdp', 'expert')
  # A schedule without a decay of its own does not count its steps.
  cases.tiny_train_config(**{'optimizer.decay_steps': 1_000})
