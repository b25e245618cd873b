"""Plans a ladder: small models shaped like one, and what each is trained with.

Width and depth shrink together and heads keep their size. What is set for the
model itself (learning rate, batch, weight decay) is carried over by published
laws; only their change from one size to the other is used.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from model.config import ModelConfig
from model.flops import matmul_parameters, training_flops_per_token
from train.config import TrainConfig
from train.early_stopping import OFF
from train.laws.advice import setting
from train.laws.hyperparameters import OPTIMIZERS, Setting, carried_over
from train.parametrization import base_shape, parametrization_of
from train.tuning.scaling_fit import FEWEST_SIZES

SIZES = 6
# Optimizers whose values the laws carry over; those of others stay.
CARRIED = OPTIMIZERS
# Depth over width, as a multiple of the model's own, is at most this, or one
# over it: where heads are few there are no closer shapes.
_ASPECT = 1.5
# Of sizes closer than this only one is a candidate.
_STEP = 1.15
# How many times the smallest model the largest of a ladder has in parameters:
# the slope of closer ones is lost in noise, and far smaller ones do not follow
# the law of larger ones.
_LEAST_SPAN, _SPAN = 4, 32
# The part of the parameters that embedding and head do not hold is at least
# this: a table of the vocabulary is no small model.
_LAYERS = 0.1
# One layer cannot copy what followed a token before, which all larger models
# learn (Olsson et al. 2022, arXiv 2209.11895): it does not follow their law.
_FEWEST_LAYERS = 2
# A run of fewer steps has hardly warmed up.
_FEWEST_STEPS = 50
# GPT-4's loss was forecast from runs with at most so many times less compute
# (OpenAI 2023, arXiv 2303.08774, section 3.1). No ladder is known that reached
# further.
REACH = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
  """A small run.

  Attributes:
    name: of its folder.
    parameters: of its model.
    tokens: that it is trained on.
    flops: of its training.
    fields: of the configuration, by dotted names, and what they change to.
  """

  name: str
  parameters: int
  tokens: int
  flops: float
  fields: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """What a ladder may take.

  Attributes:
    flops: of all runs; None: hours are given.
    hours: of all runs, one after the other; None: FLOPs are given.
    speed: FLOPs a second, as measured; for hours.
    overhead: seconds of a run beside its steps, as measured; for hours.
  """

  flops: float | None = None
  hours: float | None = None
  speed: float = math.nan
  overhead: float = 0.0

  def __post_init__(self):
    given = [v for v in (self.flops, self.hours) if v is not None]
    if len(given) != 1 or not 0 < given[0] < math.inf:
      raise ValueError(
        'Give what the ladder may take, --flops=1e15 or --hours=0.5, one of '
        f'them and above 0 (--flops is {self.flops}, --hours {self.hours}).'
      )

  def cost(self, rung: Rung) -> float:
    """FLOPs, or hours, of a run."""
    if self.flops is not None:
      return rung.flops
    return (self.overhead + rung.flops / self.speed) / 3600

  @property
  def amount(self) -> float:
    """What may be spent, in the unit of `cost`."""
    return self.flops or self.hours or 0.0

  def text(self, amount: float) -> str:
    """An amount with its unit."""
    return f'{amount:.3g} {"hours" if self.flops is None else "FLOPs"}'

  def enough(self, amount: float) -> str:
    """As `text`, rounded up: who gives so much gives the amount."""
    unit = 10.0 ** (math.floor(math.log10(amount)) - 2)
    return self.text(math.ceil(amount / unit) * unit)


def smaller_models(model: ModelConfig, stages: int = 1) -> list[ModelConfig]:
  """Models of about the same shape, the smallest first, without the model.

  Args:
    model: the one to shrink.
    stages: of a pipeline, which layers are split into.
  """
  shared = model.num_kv_heads == 1
  group = 1 if shared else model.num_heads // model.num_kv_heads
  best: dict[int, tuple[float, ModelConfig]] = {}
  for heads in range(group, model.num_heads + 1, group):
    if model.embed_dim * heads % model.num_heads:
      continue
    for layers in range(stages, model.num_layers + 1, stages):
      if layers < _FEWEST_LAYERS:
        continue
      aspect = layers * model.num_heads / (model.num_layers * heads)
      off = abs(math.log(aspect))
      small = _shrunk(model, heads, 1 if shared else heads // group, layers)
      size = matmul_parameters(small)
      if off > math.log(_ASPECT) or size >= matmul_parameters(model):
        continue
      bucket = int(math.log(size) / math.log(_STEP))
      if bucket not in best or off < best[bucket][0]:
        best[bucket] = off, small
  return sorted((small for _, small in best.values()), key=matmul_parameters)


def _shrunk(
  model: ModelConfig, heads: int, kv_heads: int, layers: int
) -> ModelConfig:
  def width(whole: int) -> int:
    unit = math.gcd(whole, 8)
    return max(unit, round(whole * heads / model.num_heads / unit) * unit)

  return dataclasses.replace(
    model,
    num_heads=heads,
    num_kv_heads=kv_heads,
    num_layers=layers,
    embed_dim=model.embed_dim * heads // model.num_heads,
    mlp_dim=width(model.mlp_dim),
    moe=dataclasses.replace(model.moe, expert_dim=width(model.moe.expert_dim)),
    **base_shape(model),
  )


def make_rung(
  base: TrainConfig,
  model: ModelConfig,
  *,
  parameters: int,
  held: Setting,
  ratio: float,
  multiple: int,
) -> Rung | None:
  """The run of a smaller model; None where model or run are too small.

  Args:
    base: the run that the ladder is for.
    model: the smaller one.
    parameters: of it, all of them.
    held: the run that the ladder is for, as the laws see it.
    ratio: tokens a parameter.
    multiple: of rows, which a batch has to be.
  """
  length = base.sequence_length
  wanted = ratio * parameters
  small = setting(dataclasses.replace(base, model=model), parameters)
  values = dataclasses.replace(
    held,
    parameters=small.parameters,
    with_head=small.with_head,
    tokens=wanted,
    flops=small.flops / small.tokens * wanted,
  )
  if base.optimizer.name in CARRIED:
    holds = model.parametrization != 'standard'
    values = carried_over(held, values, holds=holds)
  built_in = parametrization_of(base.model).decay
  decay = values.weight_decay * built_in / parametrization_of(model).decay
  most = int(wanted / length / _FEWEST_STEPS / multiple)
  if most < 1 or small.parameters < _LAYERS * parameters:
    return None
  rows = multiple * min(
    max(1, round(values.batch_tokens / length / multiple)), most
  )
  steps = round(wanted / length / rows)
  tokens = steps * rows * length
  return Rung(
    name='',
    parameters=parameters,
    tokens=tokens,
    flops=training_flops_per_token(model) * tokens,
    fields=_model_fields(model)
    | schedule_fields(base, steps)
    | {
      'batch_size': rows,
      'optimizer.learning_rate': float(f'{values.learning_rate:.4g}'),
      'optimizer.weight_decay': float(f'{decay:.4g}'),
      # Only the end of a run is a point of the law.
      'evaluation.every': steps,
      'log.profile_start': None,
    }
    | {f'early_stopping.{name}': value for name, value in OFF.items()},
  )


def _model_fields(model: ModelConfig) -> dict[str, Any]:
  names = (
    'embed_dim', 'num_layers', 'num_heads', 'num_kv_heads', 'head_dim',
    'mlp_dim', 'base_embed_dim', 'base_num_layers',
  )  # fmt: skip
  fields = {f'model.{name}': getattr(model, name) for name in names}
  if model.moe.num_experts:
    fields['model.moe.expert_dim'] = model.moe.expert_dim
  return fields


def schedule_fields(base: TrainConfig, steps: int) -> dict[str, Any]:
  """The same parts of the run in other phases of the schedule."""
  optimizer, fields = base.optimizer, {'steps': steps}
  for name in ('warmup_steps', 'decay_steps'):
    held = getattr(optimizer, name)
    fields[f'optimizer.{name}'] = min(1, held) and max(
      1, int(held * steps / base.steps)
    )
  return fields


def choose(
  candidates: Sequence[Sequence[Rung]], budget: Budget, *, sizes: int = SIZES
) -> list[Rung]:
  """The largest ladder within a budget, the cheapest run first.

  Args:
    candidates: of each size the runs of all tokens a parameter; the smallest
      size first.
    budget: what may be spent.
    sizes: how many to take, if so many fit.

  Raises:
    ValueError: there are too few sizes, or they take more than the budget.
  """
  if sizes < FEWEST_SIZES:
    raise ValueError(
      f'--sizes is {sizes}; at least {FEWEST_SIZES} sizes tell a law.'
    )
  if len(candidates) < FEWEST_SIZES:
    raise ValueError(
      f'There are {len(candidates)} smaller models of about the same shape '
      f'that have {_FEWEST_STEPS} steps and {_LAYERS:.0%} of their parameters '
      f'in layers, and at least {FEWEST_SIZES} are needed: more heads or '
      'layers, a smaller model.vocab_size or a higher --tokens_per_parameter '
      'make more.'
    )
  parameters = [rungs[0].parameters for rungs in candidates]
  cheapest = math.inf
  for top in reversed(range(FEWEST_SIZES - 1, len(candidates))):
    if parameters[top] < _LEAST_SPAN * parameters[0]:
      break
    for count in range(min(sizes, top + 1), FEWEST_SIZES - 1, -1):
      picked = _spread(parameters[: top + 1], count)
      rungs = [rung for index in picked for rung in candidates[index]]
      total = sum(budget.cost(rung) for rung in rungs)
      cheapest = min(cheapest, total)
      if total <= budget.amount:
        rungs.sort(key=lambda rung: rung.flops)
        return [
          dataclasses.replace(rung, name=f'rung-{number:02}')
          for number, rung in enumerate(rungs, start=1)
        ]
  if cheapest == math.inf:
    raise ValueError(
      f'The smaller models of about the same shape have {parameters[0]:,} to '
      f'{parameters[-1]:,} parameters; the largest needs at least '
      f'{_LEAST_SPAN} times those of the smallest to tell a law: shrink '
      'model.vocab_size, which all sizes share.'
    )
  raise ValueError(
    f'The cheapest ladder of {FEWEST_SIZES} sizes, the largest with '
    f'{_LEAST_SPAN} times the parameters of the smallest or more, takes '
    f'{budget.enough(cheapest)}, and {budget.text(budget.amount)} are given. '
    'Give more, or shrink what all sizes share: model.vocab_size, '
    '--tokens_per_parameter.'
  )


def _spread(parameters: Sequence[int], count: int) -> list[int]:
  """Indices of so many sizes with even steps, the last among them."""
  top = len(parameters) - 1
  lowest = max(parameters[0], parameters[top] / _SPAN)
  factor = (parameters[top] / lowest) ** (1 / (count - 1))
  picked: list[int] = []
  for number in range(count):
    wanted = math.log(lowest * factor**number)
    first = picked[-1] + 1 if picked else 0
    # Enough are left for those that follow.
    free = range(first, top - (count - 1 - number) + 1)
    picked.append(
      min(free, key=lambda i: abs(math.log(parameters[i]) - wanted))
    )
  picked[-1] = top
  return picked


def check_reach(rungs: Sequence[Rung], flops: float) -> None:
  """Refuses a ladder that is too small to tell of a run.

  Args:
    rungs: of the ladder.
    flops: of the run.

  Raises:
    ValueError: it is too small.
  """
  most = max(rung.flops for rung in rungs)
  if flops > REACH * most:
    raise ValueError(
      f'The run takes {flops:.3g} FLOPs, {flops / most:,.0f} times the '
      f'{most:.3g} of the largest rung, and no forecast is known that reached '
      f'further than {REACH:,} times: give the ladder '
      f'{flops / most / REACH:.1f} times as much.'
    )


def with_fields(
  resolved: dict[str, Any], fields: dict[str, Any]
) -> dict[str, Any]:
  """A configuration with other values.

  Args:
    resolved: nested, as JSON holds it.
    fields: by dotted names.
  """
  changed = {
    name: with_fields(value, {}) if isinstance(value, dict) else value
    for name, value in resolved.items()
  }
  for name, value in fields.items():
    *sections, last = name.split('.')
    place = changed
    for part in sections:
      place = place[part]
    assert last in place, name
    place[last] = value
  return changed


def candidates(
  base: TrainConfig,
  *,
  own: int,
  ratios: Sequence[float],
  multiple: int,
  stages: int,
  count: Callable[[TrainConfig], int],
) -> list[list[Rung]]:
  """Runs of all smaller models, of each size those of all ratios.

  Args:
    base: the run that the ladder is for.
    own: parameters of its model.
    ratios: tokens a parameter.
    multiple: of rows, which a batch has to be.
    stages: of a pipeline.
    count: parameters of a configuration's model.
  """
  held, found = setting(base, own), []
  for model in smaller_models(base.model, stages):
    parameters = count(dataclasses.replace(base, model=model))
    rungs = [
      make_rung(
        base, model, parameters=parameters, held=held, ratio=ratio,
        multiple=multiple,
      )
      for ratio in ratios
    ]  # fmt: skip
    if all(rungs):
      found.append([rung for rung in rungs if rung is not None])
  return found
