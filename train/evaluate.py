"""Loss on the validation split, in the loop and as a command."""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from model.params import Params
from train.step import LossSums


def evaluate(
  eval_step: Callable[[Params, jax.Array], LossSums],
  params: Params,
  batches: Iterable[jax.Array],
  *,
  text_bytes: int,
) -> dict[str, float]:
  """Mean loss over a whole split.

  The sums stay on the devices until the last batch: the result is the same
  number on every host.

  Args:
    eval_step: compiled evaluation step.
    params: parameters.
    batches: global batches of rows; padding rows weigh nothing.
    text_bytes: UTF-8 bytes of the split's documents.

  Returns:
    loss (nats a token), perplexity, bits_per_byte (of the documents' text,
    whatever the tokenizer) and tokens (that were predicted).
  """
  sums = LossSums(*(jnp.zeros(()),) * 3)
  for rows_BR in batches:
    sums = jax.tree.map(jnp.add, sums, eval_step(params, rows_BR))
  total, tokens = float(sums.cross_entropy), float(sums.tokens)
  if not tokens:
    raise ValueError('The validation split has no tokens to predict.')
  loss = total / tokens
  return {
    'loss': loss,
    'perplexity': math.exp(loss) if loss < 700 else math.inf,
    'bits_per_byte': total / math.log(2) / text_bytes,
    'tokens': int(tokens),
  }
