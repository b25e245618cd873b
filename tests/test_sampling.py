"""Decoding with a cache is the full forward pass, a token at a time."""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.params import merge
from model.sampling import (
  SamplingConfig,
  choose,
  decode,
  filter_logits,
  generate,
  prefill,
)

LENGTHS = np.array([3, 7, 1, 5])
T, MADE, V = 7, 6, 64
ALLOWED = np.arange(V) >= cases.EOS


def prompts(lengths=LENGTHS, width=T):
  """Random prompts at the right end of their rows; what is left is padding."""
  tokens_BT = np.random.default_rng(0).integers(4, V, (len(lengths), width))
  for row_T, length in zip(tokens_BT, lengths, strict=True):
    row_T[: width - length] = cases.PAD
    row_T[width - length] = cases.BOS
  return jnp.asarray(tokens_BT, jnp.int32)


@functools.cache
def forward(name):
  """A model, its parameters, and the logits of whole texts without a cache."""
  recipe = cases.recipe(**cases.ARCHITECTURES[name])
  params = cases.random_params(recipe)

  @jax.jit
  def logits(texts_BT):
    index_BT = jnp.broadcast_to(jnp.arange(texts_BT.shape[1]), texts_BT.shape)
    x_BTD = cases.hidden_states(
      recipe, params, texts_BT, jnp.ones_like(texts_BT), index_BT
    )
    return (
      merge(recipe.graphdef, params)
      .logits(x_BTD.reshape(-1, 32))
      .reshape(*texts_BT.shape, V)
    )

  return recipe, params, logits


def texts(prompts_BT, lengths_B, made_BS):
  """Prompts and what follows them, from the left end of the rows."""
  texts_BT = np.zeros((len(prompts_BT), T + MADE), np.int32)
  for b, length in enumerate(lengths_B):
    text = [*np.asarray(prompts_BT[b])[T - length :], *np.asarray(made_BS[b])]
    texts_BT[b, : len(text)] = text
  return jnp.asarray(texts_BT)


@pytest.mark.parametrize('name', list(cases.ARCHITECTURES)[1:])
def test_logits_of_every_step_are_those_of_the_full_forward_pass(name):
  recipe, params, full = forward(name)
  made_BS = np.random.default_rng(1).integers(4, V, (4, MADE))
  wanted_BTV = full(texts(prompts(), LENGTHS, made_BS))

  @jax.jit
  def run(params, prompts_BT, lengths_B, made_BS):
    first_BV, cache = prefill(
      params, prompts_BT, lengths_B, graphdef=recipe.graphdef,
      config=recipe.config.model, slots=T + MADE + 2,
    )  # fmt: skip

    def step(cache, xs):
      logits_BV, cache = decode(
        params, xs[0], lengths_B + xs[1], cache, graphdef=recipe.graphdef
      )
      return cache, logits_BV

    cache, rest_SBV = jax.lax.scan(step, cache, (made_BS.T, jnp.arange(MADE)))
    return jnp.concatenate([first_BV[None], rest_SBV]), cache.length

  found_SBV, length = run(params, prompts(), LENGTHS, made_BS)
  assert length == T + MADE
  for b, prompt in enumerate(LENGTHS):
    np.testing.assert_allclose(
      found_SBV[:, b],
      wanted_BTV[b, prompt - 1 : prompt + MADE],
      rtol=1e-4,
      atol=1e-4,
    )


def sampling(**fields):
  defaults = {
    'max_tokens': MADE, 'temperature': 0.0, 'top_k': None, 'top_p': None,
  }  # fmt: skip
  return SamplingConfig(**(defaults | fields))


def generated(name, *, eos_id=0, allowed=ALLOWED, seed=0, **fields):
  recipe, params, _ = forward(name)
  return np.asarray(
    generate(
      params, prompts(), jnp.asarray(LENGTHS), jnp.asarray(allowed),
      jax.random.key(seed), graphdef=recipe.graphdef,
      config=recipe.config.model, sampling=sampling(**fields), eos_id=eos_id,
    )
  )  # fmt: skip


@pytest.fixture(
  scope='module', params=['gqa-qk_norm-geglu', 'learned-window-gqa']
)
def greedy(request):
  """An architecture, and its most likely tokens; none of them ends a text."""
  return request.param, generated(request.param)


def test_temperature_zero_takes_the_most_likely_token_of_each_step(greedy):
  name, made_BS = greedy
  logits_BTV = forward(name)[2](texts(prompts(), LENGTHS, made_BS))
  logits_BTV = np.where(ALLOWED, logits_BTV, -np.inf)
  for b, prompt in enumerate(LENGTHS):
    np.testing.assert_array_equal(
      made_BS[b], logits_BTV[b, prompt - 1 : prompt + MADE - 1].argmax(-1)
    )


def test_the_end_token_ends_its_row_and_no_other(greedy):
  name, made_BS = greedy
  eos_id = int(made_BS[0, 2])
  ended_BS = generated(name, eos_id=eos_id)
  for found_S, free_S in zip(ended_BS, made_BS, strict=True):
    stop = [*free_S, eos_id].index(eos_id)
    np.testing.assert_array_equal(found_S[:stop], free_S[:stop])
    assert (found_S[stop:] == eos_id).all()
  assert (ended_BS[0, 2:] == eos_id).all()
  assert (ended_BS[:, -1] != eos_id).any()


def test_tokens_that_are_not_allowed_are_never_made():
  name = 'gqa-qk_norm-geglu'
  allowed = np.isin(np.arange(V), [10, 20, 30])
  made_BS = generated(name, allowed=allowed, temperature=5.0)
  assert set(made_BS.ravel()) <= {10, 20, 30}
  again_BS = generated(name, allowed=allowed, temperature=5.0)
  np.testing.assert_array_equal(made_BS, again_BS)
  other_BS = generated(name, allowed=allowed, temperature=5.0, seed=1)
  assert (made_BS != other_BS).any()


# Probabilities 0.5, 0.25, 0.15, 0.1, in another order.
LOGITS = np.log([[0.15, 0.5, 0.1, 0.25]])


@pytest.mark.parametrize(
  ('top_k', 'top_p', 'kept'),
  [
    (None, None, [0, 1, 2, 3]),
    (1, None, [1]),
    (2, None, [1, 3]),
    (4, None, [0, 1, 2, 3]),
    (9, None, [0, 1, 2, 3]),
    (None, 0.01, [1]),
    (None, 0.49, [1]),
    (None, 0.51, [1, 3]),
    (None, 0.76, [0, 1, 3]),
    (None, 1.0, [0, 1, 2, 3]),
    # Of the two that top_k leaves, the likelier has two thirds.
    (2, 0.6, [1]),
    (2, 0.7, [1, 3]),
  ],
)
def test_filters_on_literals(top_k, top_p, kept):
  found = filter_logits(jnp.asarray(LOGITS), top_k=top_k, top_p=top_p)
  assert np.flatnonzero(np.isfinite(found[0])).tolist() == kept
  np.testing.assert_allclose(
    found[0, np.array(kept)], LOGITS[0, kept], rtol=1e-6
  )


def test_filters_go_row_by_row():
  rows = np.concatenate([LOGITS, LOGITS[:, ::-1]])
  found = filter_logits(jnp.asarray(rows), top_k=1, top_p=None)
  assert np.isfinite(found).tolist() == [
    [False, True, False, False],
    [False, False, True, False],
  ]


@pytest.mark.parametrize(
  ('fields', 'wanted'),
  [
    ({'temperature': 1.0}, [0.15, 0.5, 0.1, 0.25]),
    # Squares of the probabilities, normalised.
    ({'temperature': 0.5}, np.array([225, 2500, 100, 625]) / 3450),
    ({'temperature': 1.0, 'top_k': 2}, [0, 2 / 3, 0, 1 / 3]),
    # The squares make 0.72 of the first: top_p comes after the temperature.
    ({'temperature': 0.5, 'top_p': 0.7}, [0, 1, 0, 0]),
  ],
)
def test_tokens_come_as_often_as_they_are_likely(fields, wanted):
  draws = 20_000
  logits_BV = jnp.tile(jnp.asarray(LOGITS, jnp.float32), (draws, 1))
  tokens_B = choose(logits_BV, jax.random.key(0), sampling(**fields))
  shares = np.bincount(tokens_B, minlength=4) / draws
  # Four standard deviations are 0.014.
  np.testing.assert_allclose(shares, wanted, atol=0.015)
  assert (shares[np.asarray(wanted) == 0] == 0).all()


@pytest.mark.parametrize(
  ('field', 'value'),
  [('max_tokens', 0), ('temperature', -0.1), ('temperature', float('nan')),
   ('temperature', float('inf')), ('top_k', 0), ('top_p', 0.0),
   ('top_p', 1.01), ('top_p', float('nan'))],
)  # fmt: skip
def test_sampling_that_makes_no_sense_is_refused(field, value):
  with pytest.raises(ValueError, match=rf'--{field} is'):
    sampling(**{field: value})
