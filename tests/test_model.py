"""What a token sees, and what the model makes of it."""

import functools
import math

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from model import layers
from train.rows import unpack_rows

architectures = pytest.mark.parametrize('name', cases.ARCHITECTURES)


def unpack(rows_BR, isolate_documents=True):
  return unpack_rows(
    jnp.asarray(rows_BR),
    marks=cases.MARKS,
    isolate_documents=isolate_documents,
  )


@functools.cache
def compiled(name):
  """Configuration, parameters and jitted forward pass of an architecture."""
  recipe = cases.recipe(**cases.ARCHITECTURES[name])
  params = cases.random_params(recipe)
  hidden = jax.jit(functools.partial(cases.hidden_states, recipe))
  return recipe.config.model, params, functools.partial(hidden, params)


def influence(overrides, rows_BR, isolate, visible_BT=None):
  """Whether the output at b, t depends on the embedding at c, s: [BT, CS].

  Read off the gradients. Every position of every row holds a token of its own,
  so that the gradient with respect to the table is one with respect to
  positions.
  """
  recipe = cases.recipe(**overrides)
  params = cases.random_params(recipe)
  inputs = unpack(rows_BR, isolate)
  shape = inputs.tokens_BT.shape
  tokens_BT = jnp.arange(math.prod(shape)).reshape(shape)

  def hidden(table_VD):
    x_BTD = cases.hidden_states(
      recipe,
      params | {'embedding': table_VD},
      tokens_BT,
      inputs.segments_BT,
      inputs.positions_BT,
      visible_BT,
    )
    return x_BTD.reshape(tokens_BT.size, -1)

  @jax.jit
  def gradients(table_VD):
    x_PD, pullback = jax.vjp(hidden, table_VD)
    probe_PD = np.random.default_rng(1).standard_normal(x_PD.shape)
    cotangents_PPD = np.eye(len(x_PD))[:, :, None] * probe_PD
    # One after the other: vmap of this many meets a fault of XLA's CPU backend.
    return jax.lax.map(pullback, jnp.asarray(cotangents_PPD, jnp.float32))[0]

  assert tokens_BT.size == len(params['embedding'])
  return np.asarray(gradients(params['embedding']) != 0).any(-1)


def reachable(row_R, isolate, window, num_layers, visible_T=None):
  """What a token may depend on, worked out a token at a time: [T, S]."""
  T = len(row_R) - 1
  pieces, piece = [], 0
  for token in row_R[:T]:
    piece += token in (cases.BOS, cases.CONTINUE)
    pieces.append(piece if token != cases.PAD else -1)
  direct_TS = np.zeros((T, T), bool)
  for t, s in np.ndindex(T, T):
    direct_TS[t, s] = (
      (not isolate or pieces[t] == pieces[s])
      and (s <= t or (visible_T is not None and visible_T[s]))
      and (window is None or abs(t - s) < window)
    )
  seen_TS = direct_TS
  for _ in range(num_layers - 1):
    seen_TS = (direct_TS.astype(int) @ seen_TS.astype(int)) > 0
  return seen_TS


@architectures
def test_a_token_depends_on_what_it_may_see_and_on_nothing_else(name, rows_BR):
  overrides = cases.ARCHITECTURES[name]
  rows_BR = rows_BR[[2, 7]]
  seen_PP = influence(overrides, rows_BR, isolate=True)
  window = overrides.get('model.sliding_window')
  first, second = (reachable(row_R, True, window, 2) for row_R in rows_BR)
  wanted_PP = np.block([[first, first & False], [second & False, second]])
  text_P = rows_BR[:, :-1].ravel() != cases.PAD
  # Row 2 has padding; what that makes of itself is nobody's business.
  assert 0 < (~text_P).sum() < 10
  np.testing.assert_array_equal(
    seen_PP[np.ix_(text_P, text_P)], wanted_PP[np.ix_(text_P, text_P)]
  )
  assert not seen_PP[np.ix_(text_P, ~text_P)].any()
  assert not seen_PP[np.ix_(~text_P, text_P)].any()


def prefixes(rows_BR):
  """The first half of each piece, its mark included."""
  inputs = unpack(rows_BR)
  positions_BT, segments_BT = inputs.positions_BT, inputs.segments_BT
  same_BTT = segments_BT[:, :, None] == segments_BT[:, None]
  return np.asarray(2 * positions_BT < same_BTT.sum(-1))


@pytest.mark.parametrize('window', [None, 4])
def test_a_visible_prefix_is_seen_by_its_piece_and_no_further(window, rows_BR):
  rows_BR = rows_BR[[2, 7]]
  visible_BT = prefixes(rows_BR)
  seen_PP = influence(
    {'model.sliding_window': window}, rows_BR, True, jnp.asarray(visible_BT)
  )
  text_P = rows_BR[:, :-1].ravel() != cases.PAD
  wanted_PP = np.zeros_like(seen_PP)
  for row in range(2):
    span = slice(32 * row, 32 * row + 32)
    wanted_PP[span, span] = reachable(
      rows_BR[row], True, window, 2, visible_BT[row]
    )
  np.testing.assert_array_equal(
    seen_PP[np.ix_(text_P, text_P)], wanted_PP[np.ix_(text_P, text_P)]
  )
  # The rest of a piece is seen by later tokens only, whatever is visible.
  hidden_P = text_P & ~visible_BT.ravel()
  assert np.triu(seen_PP[np.ix_(text_P, text_P)], 1).any()
  assert not np.triu(seen_PP, 1)[np.ix_(text_P, hidden_P)].any()


@pytest.mark.parametrize('name', ['rope-rms-swiglu', 'learned-window-gqa'])
def test_the_model_with_a_prefix_equals_the_equations(name, rows_BR):
  rows_BR = rows_BR[[2, 7]]
  config, params, hidden = compiled(name)
  inputs, visible_BT = unpack(rows_BR), prefixes(rows_BR)
  arrays = (inputs.tokens_BT, inputs.segments_BT, inputs.positions_BT)
  x_BTD = hidden(*arrays, jnp.asarray(visible_BT))
  params = jax.tree.map(np.asarray, params)
  for b in range(2):
    row = [np.asarray(array[b]) for array in arrays]
    wanted_TD = reference.hidden_states(params, *row, config, visible_BT[b])
    text_T = row[0] != cases.PAD
    np.testing.assert_allclose(x_BTD[b][text_T], wanted_TD[text_T], atol=3e-5)


def test_without_isolation_a_row_is_one_text(rows_BR):
  rows_BR = rows_BR[[2, 7]]
  seen_PP = influence({'model.sliding_window': 5}, rows_BR, isolate=False)
  for row, row_R in enumerate(rows_BR):
    span = slice(32 * row, 32 * row + 32)
    wanted_TS = reachable(row_R, False, 5, 2)
    np.testing.assert_array_equal(seen_PP[span, span], wanted_TS)


@architectures
def test_the_model_equals_the_equations(name, rows_BR):
  config, params, hidden = compiled(name)
  inputs = unpack(rows_BR[[2, 7]])
  arrays = (inputs.tokens_BT, inputs.segments_BT, inputs.positions_BT)
  x_BTD = hidden(*arrays)
  params = jax.tree.map(np.asarray, params)
  for b in range(2):
    row = [np.asarray(array[b]) for array in arrays]
    wanted_TD = reference.hidden_states(params, *row, config)
    text_T = row[0] != cases.PAD
    np.testing.assert_allclose(x_BTD[b][text_T], wanted_TD[text_T], atol=3e-5)


@architectures
def test_a_document_is_the_same_alone_and_packed_after_others(name, rows_BR):
  row_R = rows_BR[7]
  start, stop = np.flatnonzero(row_R == cases.BOS)[2:4]
  alone_R = np.full_like(row_R, cases.PAD)
  alone_R[: stop - start] = row_R[start:stop]
  inputs = unpack(np.stack([row_R, alone_R]))
  x_BTD = compiled(name)[2](
    inputs.tokens_BT, inputs.segments_BT, inputs.positions_BT
  )
  np.testing.assert_allclose(
    x_BTD[0, start:stop], x_BTD[1, : stop - start], atol=1e-5
  )


@pytest.mark.parametrize(
  ('overrides', 'relative'),
  [({}, True), ({'model.positions': 'learned'}, False)],
  ids=['rope', 'learned'],
)
def test_rotary_positions_are_relative_and_learned_ones_are_not(
  overrides, relative
):
  recipe = cases.recipe(**overrides)
  params = cases.random_params(recipe)
  tokens_BT = jnp.asarray(np.random.default_rng(0).integers(4, 64, (1, 16)))
  hidden = jax.jit(
    lambda positions: cases.hidden_states(
      recipe, params, tokens_BT, jnp.ones((1, 16), jnp.int32), positions
    )
  )
  index_BT = jnp.arange(16)[None]
  shifted = np.abs(hidden(index_BT + 9) - hidden(index_BT)).max()
  assert (shifted < 1e-4) == relative
  # Twice the distances are other distances.
  assert np.abs(hidden(index_BT * 2) - hidden(index_BT)).max() > 0.01


def test_rotary_embedding_on_literals():
  x_BTNH = jnp.array([1.0, 0.0, 0.0, 2.0])[None, None, None]
  angles = layers.rotary_angles(jnp.array([[3]]), 4, 100.0)
  # Pairs are (0, 2) and (1, 3); frequencies 1 and 1/10.
  np.testing.assert_allclose(
    layers.rotate(x_BTNH, angles)[0, 0, 0],
    [math.cos(3), -2 * math.sin(0.3), math.sin(3), 2 * math.cos(0.3)],
    rtol=1e-6,
  )


def test_softcap_bounds_and_leaves_small_values():
  x = jnp.array([-1e6, -1e-3, 0.0, 1e-3, 1e6])
  np.testing.assert_allclose(
    layers.softcap(x, 3.0), [-3, -1e-3, 0, 1e-3, 3], rtol=1e-6
  )
  assert layers.softcap(x, None) is x
