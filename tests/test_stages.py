"""Pipeline stages: rows pass them in microbatches, and nothing else changes."""

import cases
import jax
import pytest
from meshes import ONE, on_mesh, run_gradients

from train.setup import make_setup
from train.state import state_shardings

DEEP = {'model.num_layers': 4, 'microbatches': 4, 'batch_size': 16}
DROPOUT = {
  f'model.{name}_dropout': 0.1 for name in ('embedding', 'residual', 'mlp')
}
BIASED = {'model.use_bias': True, 'model.positions': 'learned'}
EXPERTS = {
  'model.moe.num_experts': 4,
  'model.moe.num_shared_experts': 1,
  'model.moe.expert_dim': 32,
}
SPLASH = {'model.attention': 'splash_interpreted', 'sequence_length': 512}


def run(shape, **overrides):
  overrides = DEEP | overrides
  rows_BR = cases.packed_rows(
    batch=overrides['batch_size'],
    tokens=overrides.get('sequence_length', 32) + 1,
  )
  return run_gradients(shape, rows_BR, **overrides)


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ('shape', 'overrides'),
  [
    ({'data': 2, 'stage': 2, 'tensor': 2}, DROPOUT | BIASED),
    slow({'data': 1, 'stage': 2, 'fsdp': 2, 'expert': 2}, EXPERTS),
    slow({'data': 1, 'stage': 4}, {'model.tie_embeddings': False}),
    slow({'data': 1, 'stage': 2, 'dcn.stage': 2}, {'microbatches': 8}),
    slow({'data': 1, 'stage': 2, 'expert': 2, 'tensor': 2}, EXPERTS),
    slow(
      {'data': 1, 'stage': 2, 'context': 4},
      DROPOUT | {'model.context_parallelism': 'ring'},
    ),
    slow(
      {'data': 2, 'stage': 2, 'context': 2},
      {'model.context_parallelism': 'ulysses', 'model.attention_dropout': 0.1},
    ),
    slow(
      {'data': 1, 'stage': 2, 'fsdp': 2, 'context': 2},
      {'model.remat': 'attention', 'model.scan_layers': False},
    ),
    slow(
      {'data': 1, 'stage': 2, 'context': 2, 'tensor': 2},
      SPLASH | {'model.remat': 'full', 'model.sliding_window': 7},
    ),
    slow(
      {'data': 2, 'stage': 4},
      EXPERTS
      | {
        'model.residual_dropout': 0.1,
        'accumulation_steps': 2,
        'batch_size': 32,
      },
    ),
  ],
  ids=str,
)
def test_stages_give_what_one_device_gives(shape, overrides):
  reference = overrides | {'model.attention': 'xla'}
  wanted_grads, wanted_sums = run(ONE, **reference)
  grads, sums = run(shape, **overrides)
  cases.assert_trees_close(sums, wanted_sums, rtol=1e-6)
  cases.assert_trees_close(grads, wanted_grads, rtol=1e-5)


def test_microbatches_alone_change_nothing():
  # Nor do they where the mesh has no stages: slices of a smaller memory. Masks
  # are those of the rows.
  wanted_grads, wanted_sums = run(ONE, microbatches=1, **DROPOUT)
  grads, sums = run(ONE, microbatches=4, **DROPOUT)
  cases.assert_trees_close(sums, wanted_sums, rtol=1e-6)
  cases.assert_trees_close(grads, wanted_grads, rtol=1e-5)


def test_each_stage_holds_consecutive_layers():
  recipe, mesh = on_mesh({'data': 1, 'stage': 4, 'tensor': 2}, **DEEP)
  sharding = state_shardings(recipe, mesh).params['blocks']['mlp']['up'][
    'weight'
  ]
  held = sharding.devices_indices_map((4, 32, 64))
  stages = mesh.axis_names.index('stage')
  for place in range(4):
    for device in mesh.devices.take(place, axis=stages).flat:
      assert held[device][0] == slice(place, place + 1)


def setup(**overrides):
  return make_setup(
    cases.tiny_train_config(**{'model.num_layers': 4} | overrides),
    jax.devices()[:4],
  )


def test_microbatches_are_four_a_stage_unless_told():
  def found(**overrides):
    return setup(batch_size=16, **overrides).config.model.microbatches

  assert found(**{'mesh.data': 4}) == 1
  assert found(**{'mesh.data': 2, 'mesh.stage': 2}) == 8
  assert found(**{'mesh.data': 2, 'mesh.stage': -1}) == 8
  assert found(microbatches=2, **{'mesh.data': 2, 'mesh.stage': 2}) == 2


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    (
      {'microbatches': 3},
      r'microbatches = 3 is no multiple of the 2 stages \(3 = 1 x 2 \+ 1\)',
    ),
    ({'microbatches': 0}, 'microbatches is 0; it must be above 0'),
    (
      {'batch_size': 24, 'microbatches': 8},
      r'batch_size / accumulation_steps = 24 rows .* = 8 over 2 device\(s\) '
      r'\(24 = 1 x 8 x 2 \+ 8\)',
    ),
    (
      {'evaluation.batch_size': 4},
      'evaluation.batch_size = 4 rows cannot be cut into microbatches = 8',
    ),
    (
      {'model.num_layers': 3},
      r"axis 'layers' has 3 entries, which mesh.stage = 2 cannot split evenly",
    ),
  ],
)
def test_what_stages_cannot_have_is_refused(overrides, message):
  with pytest.raises(ValueError, match=message):
    setup(**{'batch_size': 16, 'mesh.data': 2, 'mesh.stage': 2} | overrides)
