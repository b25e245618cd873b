"""Text generation with a key/value cache: one prefill, then a token at a time.

Suffixes: B batch, T prompt position, S cache slots, V vocabulary.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from model.cache import Cache, empty_cache
from model.config import ModelConfig
from model.params import Params, merge


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
  """How the next token is chosen.

  Attributes:
    max_tokens: tokens to generate at most, for each prompt.
    temperature: divides the logits; 0 takes the most likely token.
    top_k: choose among this many most likely tokens; None: all.
    top_p: choose among the most likely tokens that together have at least this
      probability (Holtzman et al. 2020); None: all.
  """

  max_tokens: int
  temperature: float
  top_k: int | None
  top_p: float | None

  def __post_init__(self):
    if self.max_tokens < 1:
      raise ValueError(f'--max_tokens is {self.max_tokens}; at least 1.')
    if not 0 <= self.temperature < float('inf'):
      raise ValueError(f'--temperature is {self.temperature}; 0 or more.')
    if self.top_k is not None and self.top_k < 1:
      raise ValueError(f'--top_k is {self.top_k}; at least 1.')
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise ValueError(f'--top_p is {self.top_p}; above 0, up to 1.')


def filter_logits(
  logits_BV: jax.Array, *, top_k: int | None, top_p: float | None
) -> jax.Array:
  """Sets the logits of tokens that may not be chosen to minus infinity."""
  if top_k is not None and top_k < logits_BV.shape[-1]:
    lowest_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
    logits_BV = jnp.where(logits_BV < lowest_B1, -jnp.inf, logits_BV)
  if top_p is not None and top_p < 1:
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probabilities_BV = jax.nn.softmax(sorted_BV, axis=-1)
    # A token stays if those before it have not reached top_p.
    before_BV = jnp.cumsum(probabilities_BV, axis=-1) - probabilities_BV
    lowest_B1 = jnp.min(
      jnp.where(before_BV < top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True
    )
    logits_BV = jnp.where(logits_BV < lowest_B1, -jnp.inf, logits_BV)
  return logits_BV


def choose(
  logits_BV: jax.Array, key: jax.Array, sampling: SamplingConfig
) -> jax.Array:
  """Draws the next token of each row, tokens_B."""
  if sampling.temperature == 0:
    return jnp.argmax(logits_BV, axis=-1)
  # Filter after the temperature: top_p speaks of the probabilities in use.
  logits_BV = filter_logits(
    logits_BV / sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p
  )
  return jax.random.categorical(key, logits_BV, axis=-1)


def prefill(
  params: Params, prompts_BT: jax.Array, lengths_B: jax.Array, *,
  graphdef: Any, config: ModelConfig, slots: int,
) -> tuple[jax.Array, Cache]:  # fmt: skip
  """Reads the prompts, which stand at the right end of their rows.

  Returns:
    logits_BV after the last prompt token, and the cache.
  """
  model = merge(graphdef, params)
  B, T = prompts_BT.shape
  positions_BT = jnp.arange(T) - (T - lengths_B)[:, None]
  segments_BT = (positions_BT >= 0).astype(jnp.int32)
  x_BTD, cache, _ = model(
    prompts_BT,
    segments_BT,
    jnp.maximum(positions_BT, 0),
    cache=empty_cache(config, B, slots),
  )
  return model.logits(x_BTD[:, -1]), cache


def decode(
  params: Params, tokens_B: jax.Array, positions_B: jax.Array, cache: Cache, *,
  graphdef: Any,
) -> tuple[jax.Array, Cache]:  # fmt: skip
  """Reads one more token of each row; returns logits_BV and the cache."""
  model = merge(graphdef, params)
  x_BTD, cache, _ = model(
    tokens_B[:, None],
    jnp.ones_like(tokens_B)[:, None],
    positions_B[:, None],
    cache=cache,
  )
  return model.logits(x_BTD[:, 0]), cache


@functools.partial(
  jax.jit, static_argnames=('graphdef', 'config', 'sampling', 'eos_id')
)
def generate(
  params: Params,
  prompts_BT: jax.Array,
  lengths_B: jax.Array,
  allowed_V: jax.Array,
  key: jax.Array,
  *,
  graphdef: Any,
  config: ModelConfig,
  sampling: SamplingConfig,
  eos_id: int,
) -> jax.Array:
  """Continues prompts until each has ended or max_tokens are made.

  Args:
    params: parameters.
    prompts_BT: prompts, padded on the left.
    lengths_B: tokens of each prompt.
    allowed_V: false for ids never to choose: marks, and ids that no text has.
    key: random key.
    graphdef: the model's structure.
    config: the model's configuration.
    sampling: how tokens are chosen.
    eos_id: the token that ends a text.

  Returns:
    tokens_BS [B, max_tokens]; what follows an eos_id is eos_id.
  """
  logits_BV, cache = prefill(
    params,
    prompts_BT,
    lengths_B,
    graphdef=graphdef,
    config=config,
    slots=prompts_BT.shape[1] + sampling.max_tokens,
  )

  def body(carry):
    index, tokens_BS, ended_B, logits_BV, cache = carry
    logits_BV = jnp.where(allowed_V, logits_BV, -jnp.inf)
    tokens_B = choose(logits_BV, jax.random.fold_in(key, index), sampling)
    tokens_B = jnp.where(ended_B, eos_id, tokens_B)
    logits_BV, cache = decode(
      params, tokens_B, lengths_B + index, cache, graphdef=graphdef
    )
    tokens_BS = tokens_BS.at[:, index].set(tokens_B)
    ended_B |= tokens_B == eos_id
    return index + 1, tokens_BS, ended_B, logits_BV, cache

  B = len(lengths_B)
  tokens_BS = jnp.full((B, sampling.max_tokens), eos_id, jnp.int32)
  start = (0, tokens_BS, jnp.zeros(B, bool), logits_BV, cache)
  return jax.lax.while_loop(
    lambda carry: (carry[0] < sampling.max_tokens) & ~carry[2].all(),
    body,
    start,
  )[1]
