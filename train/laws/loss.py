"""Published laws of the loss of N parameters that are trained on D tokens.

They tell sizes and budgets apart. Their losses are in nats a token of their own
data and tokenizers: those of other data differ. To add a law, add it to
LOSS_LAWS, with its source and what it was fitted to.
"""

import dataclasses
import math

from train.laws.ranges import Fitted

# Up to this many epochs a token that repeats is about as good as a new one
# (Muennighoff et al. 2023, arXiv 2305.16264).
GOOD_EPOCHS = 4
# The law is not asked beyond: a token is worth 0.38 of a new one there, and it
# can only level off, for runs whose loss rose with more epochs were left out of
# the fit (appendix A).
MOST_EPOCHS = 16
# R*_D, repetitions of all tokens that count at most, and R*_N, the same of
# parameters beyond the optimum of the unique tokens (appendix A).
_REPEATED_TOKENS, _EXCESS_PARAMETERS = 15.387756, 5.309743
# Operations of a parameter for each token.
_FLOPS = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossLaw:
  """irreducible + A / parameters^alpha + B / tokens^beta, in nats a token.

  Attributes:
    name: authors and year.
    source: where the constants stand.
    irreducible: loss of an infinite model and endless text (E).
    A: with alpha, what few parameters cost.
    alpha: see A.
    B: with beta, what few tokens cost.
    beta: see B.
    counts_excess: parameters beyond the optimum of the unique tokens are worth
      less: the fit was made that way.
    fitted: to which runs; parameters with embeddings.
  """

  name: str
  source: str
  irreducible: float
  A: float
  alpha: float
  B: float
  beta: float
  counts_excess: bool
  fitted: Fitted


LOSS_LAWS = {
  law.name: law
  for law in (
    # The rounded values of the paper. More digits, as its replication shows,
    # would move the optimum; these are the ones in use.
    LossLaw(
      name='Hoffmann et al. 2022',
      source='arXiv 2203.15556, equation 10 (approach 3)',
      irreducible=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28,
      counts_excess=False,
      fitted=Fitted(parameters=(44e6, 16e9), tokens=(1e9, 500e9)),
    ),
    # The data of Hoffmann et al., read off their figure 4 and fitted anew.
    LossLaw(
      name='Besiroglu et al. 2024',
      source='arXiv 2404.10102, equation 2',
      irreducible=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658,
      counts_excess=False,
      fitted=Fitted(parameters=(44e6, 16e9), tokens=(1e9, 500e9)),
    ),
    # On C4, one exponent for both; the digits of its repository.
    LossLaw(
      name='Muennighoff et al. 2023',
      source='arXiv 2305.16264, appendix A; huggingface/datablations, README',
      irreducible=math.exp(0.6254804),
      A=math.exp(6.255414), alpha=0.3526596,
      B=math.exp(7.3049974), beta=0.3526596,
      counts_excess=True,
      fitted=Fitted(parameters=(7e6, 9e9), tokens=(100e6, 900e9)),
    ),
  )
}  # fmt: skip
DEFAULT = 'Besiroglu et al. 2024'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimum:
  """How a law would spend a compute budget.

  Attributes:
    parameters: with embeddings.
    tokens: trained on, repeated ones included.
    epochs: tokens over unique tokens; below 1 where not all are read.
    loss: there, in nats a token.
  """

  parameters: float
  tokens: float
  epochs: float | None
  loss: float


def effective_tokens(tokens: float, unique: float) -> float:
  """New tokens that would teach as much as these, of which some repeat.

  Muennighoff et al. 2023, equation 5.

  Args:
    tokens: trained on.
    unique: of them, or of the dataset.
  """
  unique = min(unique, tokens)
  return _saturating(unique, tokens, _REPEATED_TOKENS)


def loss(
  law: LossLaw, parameters: float, tokens: float, unique: float | None = None
) -> float:
  """What a law says, in nats a token, whatever it was fitted to.

  Args:
    law: one of LOSS_LAWS.
    parameters: with embeddings.
    tokens: trained on.
    unique: of the dataset; None: enough.
  """
  if unique is not None:
    if law.counts_excess:
      useful = min(parameters, _parameters_for(law, min(unique, tokens)))
      parameters = _saturating(useful, parameters, _EXCESS_PARAMETERS)
    tokens = effective_tokens(tokens, unique)
  return (
    law.irreducible + law.A / parameters**law.alpha + law.B / tokens**law.beta
  )


def optimum(law: LossLaw, flops: float, unique: float | None = None) -> Optimum:
  """The size and the tokens that reach the lowest loss with so much compute.

  Args:
    law: one of LOSS_LAWS.
    flops: of the training, counted as 6 parameters tokens.
    unique: tokens of the dataset; None: enough.
  """
  # Half a second that a run which only warns of repetition need not take.
  from scipy import optimize

  product = flops / _FLOPS
  power = law.beta / (law.alpha + law.beta)
  parameters = _balance(law) * product**power
  if unique is not None and product / parameters > unique:

    def of_size(log_parameters: float) -> float:
      size = math.exp(log_parameters)
      return loss(law, size, product / size, unique)

    # From the size for which the text just suffices down. Where parameters in
    # excess count less, the best is smaller than with new text, else larger.
    parameters = math.exp(
      optimize.minimize_scalar(
        of_size,
        bounds=(math.log(parameters / 1e3), math.log(product / unique)),
        method='bounded',
        options={'xatol': 1e-9},
      ).x
    )
  tokens = product / parameters
  return Optimum(
    parameters=parameters,
    tokens=tokens,
    epochs=None if unique is None else tokens / unique,
    loss=loss(law, parameters, tokens, unique),
  )


def _balance(law: LossLaw) -> float:
  """G of Hoffmann et al., equation 4."""
  ratio = law.alpha * law.A / (law.beta * law.B)
  return ratio ** (1 / (law.alpha + law.beta))


def _parameters_for(law: LossLaw, tokens: float) -> float:
  """Parameters of which so many tokens are the optimum."""
  balance = _balance(law)
  return (tokens * balance) ** (law.beta / law.alpha) * balance


def _saturating(useful: float, amount: float, star: float) -> float:
  """What counts of an amount, of which so much counts in full."""
  more = amount / useful - 1
  return useful * (1 + star * -math.expm1(-more / star))
