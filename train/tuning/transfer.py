"""The command `transfer`: from a tuned small run to a large one.

Each number of the large run follows from the tuned one by a rule, which is
written beside it: nothing is tuned again.
"""

import dataclasses
from typing import Any

import jax
from etils import epath

from model.params import count
from train.config import TrainConfig, train_config
from train.laws.advice import setting
from train.laws.hyperparameters import (
  BATCH_SIZE,
  LEARNING_RATE,
  OPTIMIZERS,
  WEIGHT_DECAY,
  Setting,
  carried_over,
  carrying_law,
  change,
  suggest,
)
from train.parametrization import parametrization_of
from train.state import make_recipe
from train.tuning.config_text import config_text
from train.tuning.ladder import schedule_fields
from train.tuning.shapes import resized
from train.tuning.trial_config import with_values
from train.tuning.winner import rounded
from train.workdir import flatten

CONFIG_FILE = 'transferred.py'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
  """The large run; None: as in the tuned one.

  Attributes:
    width: model.embed_dim.
    depth: model.num_layers.
    batch_size: rows of a step.
    tokens: trained on.
  """

  width: int | None = None
  depth: int | None = None
  batch_size: int | None = None
  tokens: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transferred:
  """A large run, and where its numbers come from.

  Attributes:
    config: of it, as JSON holds it.
    rules: of each field that differs from the tuned run, or that was decided to
      stay: why it has its value.
    notes: what should be known beside.
  """

  config: dict[str, Any]
  rules: dict[str, str]
  notes: tuple[str, ...]


def transfer(config: dict[str, Any], target: Target) -> Transferred:
  """Takes a tuned run to another width, depth, batch and number of tokens.

  Args:
    config: of the tuned run, as nested dicts.
    target: the large run.

  Raises:
    ValueError: the target does not fit the tuned run, or no law is of its
      optimizer.
  """
  held = train_config(config)
  if not held.optimizer.learning_rate:
    raise ValueError(
      'optimizer.learning_rate is 0: there is nothing to take to another size.'
    )
  large = resized(config, width=target.width, depth=target.depth)
  rules = _shape_rules(config, large)
  large = with_values(large, _budget(held, target, rules).items())
  run = train_config(large)
  before, after = _setting(held), _setting(run)
  rate, rules[LEARNING_RATE] = _learning_rate(held, before, after)
  after = dataclasses.replace(after, learning_rate=rate)
  decay, rules[WEIGHT_DECAY] = _weight_decay(held, run, before, after)
  values = [(LEARNING_RATE, rounded(rate)), (WEIGHT_DECAY, rounded(decay))]
  large = with_values(large, values)
  train_config(large)
  return Transferred(
    config=large, rules=rules, notes=tuple(_notes(held, before, after))
  )


def _shape_rules(
  config: dict[str, Any], large: dict[str, Any]
) -> dict[str, str]:
  """Why each field of the model is what it is."""
  why = {
    'model.embed_dim': 'The target.',
    'model.num_layers': 'The target.',
    'model.num_heads': 'In proportion to the width: heads keep their size.',
    'model.num_kv_heads': 'In proportion to the heads.',
    'model.head_dim': 'As tuned.',
    'model.mlp_dim': 'In proportion to the width.',
    'model.moe.expert_dim': 'In proportion to the width.',
    'model.base_embed_dim': 'Where the hyper-parameters were found.',
    'model.base_num_layers': 'Where the hyper-parameters were found.',
  }
  old, new = flatten(config), flatten(large)
  return {f: text for f, text in why.items() if old.get(f) != new[f]}


def _budget(
  held: TrainConfig, target: Target, rules: dict[str, str]
) -> dict[str, Any]:
  """Batch, steps and the schedule's parts, by field."""
  fields: dict[str, Any] = {}
  if target.batch_size is not None:
    fields['batch_size'] = target.batch_size
    rules['batch_size'] = 'The target.'
  batch = target.batch_size or held.batch_size
  tokens = target.tokens
  if tokens is None:
    tokens = held.steps * held.batch_size * held.sequence_length
  steps = max(1, round(tokens / (batch * held.sequence_length)))
  if steps == held.steps:
    return fields
  fields |= schedule_fields(held, steps)
  rules['steps'] = (
    f'{tokens:,.0f} tokens'
    + ('' if target.tokens else ', as many as were tuned with')
    + f', by {batch:,} rows of {held.sequence_length:,} tokens a step.'
  )
  for name in ('warmup_steps', 'decay_steps'):
    old = getattr(held.optimizer, name)
    rules[f'optimizer.{name}'] = (
      f'The same share of the steps: {old:,} of {held.steps:,}.'
    )
  return fields


def _setting(config: TrainConfig) -> Setting:
  """A run as the laws see it."""
  shapes = jax.eval_shape(make_recipe(config).init)
  return setting(config, count(shapes.params))


def _learning_rate(
  held: TrainConfig, before: Setting, after: Setting
) -> tuple[float, str]:
  """The learning rate, and its rule."""
  name = held.model.parametrization
  if name != 'standard':
    root = (after.batch_tokens / before.batch_tokens) ** 0.5
    return before.learning_rate * root, (
      f'{name!r}: the same at any width and depth'
      + ('.' if root == 1 else f'; times {root:.3g}, the root of the batches.')
    )
  if held.optimizer.name not in OPTIMIZERS:
    raise ValueError(
      "model.parametrization is 'standard', and no published law tells the "
      f'learning rate of optimizer.name = {held.optimizer.name!r} at another '
      "size: tune with 'spectral' (for muon) or 'completep' (for adamw)."
    )
  law, carried = carrying_law(LEARNING_RATE), carried_over(before, after)
  factor = carried.learning_rate / before.learning_rate
  root = (after.batch_tokens / carried.batch_tokens) ** 0.5
  return carried.learning_rate * root, (
    f'{law.paper.name}, {law.text}: times {factor:.3g}; times {root:.3g}, the '
    f'root of the batch by that of {carrying_law(BATCH_SIZE).paper.name}.'
  )


def _weight_decay(
  held: TrainConfig, run: TrainConfig, before: Setting, after: Setting
) -> tuple[float, str]:
  """The weight decay, and its rule."""
  if not before.weight_decay:
    return before.weight_decay, 'Off, as tuned.'
  if held.optimizer.hyperball:
    return before.weight_decay, 'As tuned: no matrix decays on a hyperball.'
  law = carrying_law(WEIGHT_DECAY)
  factor = change(WEIGHT_DECAY, before, after)
  rules = [parametrization_of(config.model) for config in (held, run)]
  built_in = rules[0].decay / rules[1].decay
  said = f'{law.paper.name}, {law.text}: times {factor:.3g}'
  if built_in != 1:
    said += (
      f'; times {built_in:.3g}, which {run.model.parametrization!r} divides by '
      'itself'
    )
  return before.weight_decay * factor * built_in, f'{said}.'


def _notes(held: TrainConfig, before: Setting, after: Setting) -> list[str]:
  """What to know of the target."""
  batch = carrying_law(BATCH_SIZE)
  rows = held.batch_size * change(BATCH_SIZE, before, after)
  notes = [
    f'{batch.paper.name}, {batch.text}, would take the tuned batch to '
    f'{rows:,.0f} rows ({batch.paper.source}).'
  ]
  fields = [WEIGHT_DECAY] if before.weight_decay else []
  if held.model.parametrization == 'standard':
    fields.append(LEARNING_RATE)
  for field in fields:
    said = suggest(carrying_law(field), after)
    if said.outside:
      notes.append(
        f'{said.law} ({said.source}) was not fitted to such a run: '
        f'{", ".join(said.outside)}.'
      )
  return notes


def transfer_and_print(
  config: dict[str, Any],
  target: Target,
  *,
  base: dict[str, Any],
  origin: str,
  workdir: epath.Path,
) -> None:
  """Writes the configuration file of a large run, and says what is in it.

  Args:
    config: of the tuned run, as nested dicts.
    target: the large run.
    base: base.py's configuration, as nested dicts.
    origin: where the tuned run's configuration came from.
    workdir: where the file is written.

  Raises:
    ValueError: the target does not fit the tuned run.
  """
  found = transfer(config, target)
  print(text_of(found, config))
  workdir.mkdir(parents=True, exist_ok=True)
  file = workdir / CONFIG_FILE
  file.write_text(
    config_text(
      found.config,
      base,
      title=f'Hyper-parameters of {origin}, taken to a larger run.',
      why=found.rules,
      notes=found.notes,
    )
  )
  print(f'Written: {file}')


def text_of(found: Transferred, config: dict[str, Any]) -> str:
  """The changes for a terminal."""
  old, new = flatten(config), flatten(found.config)
  lines = []
  for field, why in found.rules.items():
    was = '' if old.get(field) == new[field] else f' (was {old.get(field)})'
    lines.append(f'{field} = {new[field]}{was}  {why}')
  return '\n'.join([*lines, *found.notes])
