"""Loss on the validation split, in the loop and as a command."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp

from model.params import Params
from train.step import LossSums


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
  """What to evaluate on.

  Attributes:
    name: of the dataset; '' where there is only one.
    batches: global batches of rows; padding rows weigh nothing.
    text_bytes: UTF-8 bytes of the documents.
  """

  name: str
  batches: Iterable[jax.Array]
  text_bytes: int


def evaluate(
  eval_step: Callable[[Params, jax.Array], LossSums],
  params: Params,
  splits: Sequence[Split],
  before_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
  """Mean loss over whole splits.

  The sums stay on the devices until the last batch: the result is the same
  number on every host.

  Args:
    eval_step: compiled evaluation step.
    params: parameters.
    splits: of the datasets.
    before_batch: is called before each batch; it ends the evaluation by an
      exception, on all hosts at the same batch.

  Returns:
    loss (nats a token), perplexity, bits_per_byte (of the documents' text,
    whatever the tokenizer) and tokens (that were predicted), over all datasets;
    and 'loss/NAME' of each that has a name.
  """
  sums = []
  for split in splits:
    total = LossSums(*(jnp.zeros(()),) * 3)
    for rows_BR in split.batches:
      before_batch()
      total = jax.tree.map(jnp.add, total, eval_step(params, rows_BR))
    sums.append(total)
  return figures(
    splits,
    [float(s.cross_entropy) for s in sums],
    [float(s.tokens) for s in sums],
  )


def figures(
  splits: Sequence[Split], losses: Sequence[float], tokens: Sequence[float]
) -> dict[str, float]:
  """What `evaluate` returns, from the sums over each split."""
  if not sum(tokens):
    raise ValueError('The validation split has no tokens to predict.')
  loss = sum(losses) / sum(tokens)
  text_bytes = sum(split.text_bytes for split in splits)
  return {
    'loss': loss,
    'perplexity': math.exp(loss) if loss < 700 else math.inf,
    'bits_per_byte': sum(losses) / math.log(2) / text_bytes,
    'tokens': int(sum(tokens)),
  } | {
    f'loss/{split.name}': part / count
    for split, part, count in zip(splits, losses, tokens, strict=True)
    if split.name and count
  }
