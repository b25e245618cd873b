"""A step moves activations alike at any width, where it is meant to."""

import collections

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.check import to_dict
from train.config import train_config
from train.rows import unpack_rows
from train.setup import make_setup
from train.step import loss_fn
from train.tuning import coordinate_check, synthetic
from train.tuning.coordinate_check import Check, Finding, check, slope
from train.tuning.coordinates import activations

SPECTRAL = {
  'model.parametrization': 'spectral', 'model.tie_embeddings': False,
  'optimizer.name': 'muon', 'optimizer.learning_rate': 0.02,
}  # fmt: skip
COMPLETEP = {
  'model.parametrization': 'completep', 'model.tie_embeddings': False,
  'optimizer.learning_rate': 3e-3,
}  # fmt: skip


def config(**overrides):
  return to_dict(cases.tiny_config(**overrides))


def finding(**overrides):
  fields = {'name': 'mlp', 'changes': (1.0, 2.0), 'slope': 0.05}
  return Finding(**fields | overrides)


@pytest.mark.parametrize(
  ('overrides', 'ok'),
  [
    ({}, True),
    ({'slope': -0.1}, True),
    ({'slope': 0.11}, False),
    ({'slope': -0.2}, False),
    ({'slope': float('nan')}, False),
    ({'slope': 0.4, 'excuse': 'the head is the embedding'}, True),
  ],
)
def test_a_slope_counts_unless_it_is_excused(overrides, ok, tmp_path):
  found = Check(
    parametrization='spectral',
    axis='width',
    sizes=(8, 16),
    findings=(finding(), finding(**overrides)),
  )
  assert found.ok == ok
  text = coordinate_check.text_of(found)
  assert ('WRONG' in text) != ok
  assert ('alike at any width' in text) == ok
  page = coordinate_check.write_page(found, tmp_path).read_text()
  assert page.count('<path class="curve"') == 2
  assert ('class="note"' in page) != ok


def test_a_slope_is_that_of_a_power():
  sizes = [16, 32, 128]
  assert slope(sizes, [3 * n**-0.5 for n in sizes]) == pytest.approx(-0.5)
  assert np.isnan(slope(sizes, [1.0, 0.0, 1.0]))


def told(*batches):
  """A way to measure that says for each batch of seeds what it is told."""
  calls = collections.Counter()

  def compiled_changes(setup, *_, seeds, **__):
    size = setup.config.model.num_layers

    def changes(numbers):
      calls[size] += 1
      assert list(numbers) == list(range(calls[size] * 8))[-8:]
      exponent, noise = batches[min(calls[size], len(batches)) - 1]
      signs = np.resize([1.0, -1.0], seeds)
      squares = size ** (2 * exponent) * (1 + noise * signs)
      return dict.fromkeys(coordinate_check.NAMES, squares)

    return changes

  return calls, compiled_changes


@pytest.mark.parametrize(
  ('batches', 'calls', 'ok'),
  [
    # Nothing is left open, on either side.
    ([(-0.02, 0.05)], 1, True),
    ([(0.5, 0.05)], 1, False),
    # The first seeds lie; all together tell.
    ([(-0.105, 0.1), (-0.02, 0.02)], 2, True),
    ([(-0.09, 0.1), (-0.2, 0.1)], 3, False),
    # On the limit there is no telling, and an end.
    ([(-0.09, 0.9)], 8, True),
    ([(-0.11, 0.9)], 8, False),
    ([(float('nan'), 0.1)], 1, False),
  ],
)
def test_more_seeds_are_run_while_a_slope_may_lie_on_either_side(
  monkeypatch, batches, calls, ok
):
  made, compiled_changes = told(*batches)
  monkeypatch.setattr(coordinate_check, 'compiled_changes', compiled_changes)
  found = check(config(**COMPLETEP), axis='depth', sizes=(2, 4, 8))
  assert dict(made) == dict.fromkeys((2, 4, 8), calls)
  assert found.seeds == 8 * calls
  assert found.ok == ok
  assert f'over {8 * calls} seeds' in coordinate_check.text_of(found)


def test_the_error_of_a_slope_is_how_much_it_varies():
  sizes, generator = (2, 4, 8, 16), np.random.default_rng(0)
  noise_S = np.array([0.05, 0.02, 0.04, 0.01])
  slopes = [
    slope(sizes, 2 ** generator.normal(0, noise_S)) for _ in range(4_000)
  ]
  error = coordinate_check.slope_error(sizes, noise_S)
  assert error == pytest.approx(np.std(slopes), rel=0.05)


@pytest.mark.parametrize(
  'name',
  [
    'completep-wider-deeper',
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ('learned-layer-bias-gelu', 'moe-shared')
    ),
  ],
)
def test_the_activations_are_those_of_the_model(name, rows_BR):
  recipe = cases.recipe(**cases.ARCHITECTURES[name])
  params = cases.random_params(recipe)
  found = jax.jit(
    lambda params: activations(recipe, params, rows_BR, cases.MARKS)
  )(params)
  layers, (batch, tokens) = 2, rows_BR.shape
  shape = (batch, tokens - 1, 32)
  assert found['attention'].shape == found['mlp'].shape == (layers, *shape)
  # The loss of these logits is that of the model.
  _, sums = loss_fn(params, rows_BR, None, recipe=recipe, marks=cases.MARKS)
  logs = jax.nn.log_softmax(found['logits'])
  inputs = unpack_rows(rows_BR, marks=cases.MARKS, isolate_documents=True)
  chosen = jnp.take_along_axis(logs, inputs.targets_BT[..., None], -1)[..., 0]
  np.testing.assert_allclose(
    -(chosen * inputs.weights_BT).sum(), sums.cross_entropy, rtol=1e-5
  )
  share = 1 / recipe.config.model.depth_multiplier
  np.testing.assert_allclose(
    found['residual'],
    found['embedding'] + share * (found['attention'] + found['mlp']).sum(0),
    rtol=1e-4,
    atol=1e-5,
  )


def test_what_is_checked_is_small_and_learns_as_the_run_does():
  run = config(
    **COMPLETEP, **{'model.num_layers': 12, 'model.residual_dropout': 0.1,
                    'accumulation_steps': 2, 'optimizer.ema_decay': 0.9}
  )  # fmt: skip
  small = coordinate_check.small_config(run)
  assert small['model']['num_layers'] == 2
  assert small['model']['base_embed_dim'] == 32
  assert small['model']['zero_head']
  assert small['model']['residual_dropout'] == 0.0
  assert small['optimizer']['learning_rate'] == 3e-3 / 4
  assert run['model']['num_layers'] == 12
  make_setup(train_config(small), jax.devices()[:1])


def test_slopes_are_zero():
  one_layer = config(**SPECTRAL, **{'model.num_layers': 1})
  found = check(one_layer, axis='width', sizes=(32, 128))
  names = {f.name for f in found.findings}
  assert names == {'embedding', 'attention', 'mlp', 'residual', 'logits'}
  assert found.ok, coordinate_check.text_of(found)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('overrides', 'axis', 'sizes', 'ok'),
  [
    (SPECTRAL, 'width', (32, 64, 128, 256), True),
    (COMPLETEP, 'width', (32, 64, 128, 256), True),
    (SPECTRAL | {'model.moe.num_experts': 4}, 'width', (32, 64, 128), True),
    (SPECTRAL | {'model.parametrization': 'standard'}, 'width', (32, 128),
     False),
    (COMPLETEP | {'model.parametrization': 'standard'}, 'width', (32, 128),
     False),
    (COMPLETEP, 'depth', (2, 4, 8), True),
    (SPECTRAL, 'depth', (2, 4, 8), True),
  ],
  ids=str,
)  # fmt: skip
def test_slopes_tell_what_is_right_from_what_is_not(overrides, axis, sizes, ok):
  found = check(config(**overrides), axis=axis, sizes=sizes)
  assert found.ok == ok, coordinate_check.text_of(found)
  if not ok:
    slopes = {f.name: f.slope for f in found.findings}
    assert slopes['mlp'] > 1
    assert slopes['residual'] > 0.4


def test_the_language_is_the_same_and_its_rows_are_not():
  rows = [
    synthetic.rows(vocabulary=64, count=40, length=33, seed=seed)
    for seed in (0, 0, 1)
  ]
  assert np.array_equal(rows[0], rows[1])
  assert not np.array_equal(rows[0], rows[2])
  for rows_NR in rows:
    assert (rows_NR[:, 0] == synthetic.MARKS.bos_id).all()
    assert rows_NR[:, 1:].min() == 3
    assert rows_NR.max() < 64
  # Two words in a row tell the next one better than its frequency does.
  words = np.concatenate(rows)[:, 1:25]
  before = (words[:, :-2] * 64 + words[:, 1:-1]).reshape(-1)
  after = words[:, 2:].reshape(-1)
  often = [b for b, n in collections.Counter(before.tolist()).items() if n > 9]
  assert len(often) > 5
  shares = [np.bincount(after[before == b]).max() / (before == b).sum()
            for b in often]  # fmt: skip
  assert np.mean(shares) > 0.4 > 1.5 * np.bincount(after).max() / len(after)
