"""Predicted against published speeds of large runs.

python benchmarks/plan_published.py [--compile] [--only=TEXT]

Every row: bfloat16, random rows without padding, no evaluation, no checkpoint.
The roofline takes milliseconds and has the same assumptions for all rows. One
of them, roofline.SUSTAINED, is chosen by the first eight: the table ends with
the best one, and with the error of each of the eight where the other seven
choose it. With --compile, rows on TPUs whose policy a config can express are
compiled as well (minutes to an hour each, cached).
"""

import argparse
import dataclasses
import importlib
import math
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax

from train.config import TrainConfig, train_config
from train.planning import roofline, topologies
from train.planning.cache import Cache
from train.planning.environment import set_up_environment
from train.planning.keeps import keeps_of
from train.planning.make import make_plan
from train.planning.search import estimate_run

_PRODUCTS = 11


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A published run.

  Attributes:
    config: of configs/.
    topology: the machine.
    rows: of a batch, on all chips.
    published: tokens a second of a chip.
    source: where that is written.
    remat: the policy that keeps what the run kept on the device, and
    also: names of what it kept beside that.
    offloaded: names of what it left in the memory of the host.
    capacity: rows that an expert multiplies, by those that it gets in the
      mean; 1: no token is dropped, and none is padded.
    products: of an expert in a step with full recomputation. Here they are 11:
      three forward, two for the gradients of each, and two computed again.
      Where the weights of a token's choices multiply what the last one gives
      (MaxText, layers/moe.py, `unpermute`), it is computed again as well.
    chooses: whether SUSTAINED is chosen by it.
    overrides: other fields of the config.
  """

  config: str
  topology: str
  rows: int
  published: float
  source: str
  remat: str = 'full'
  also: tuple[str, ...] = ()
  offloaded: tuple[str, ...] = ()
  capacity: float = 1.0
  products: int = _PRODUCTS
  chooses: bool = True
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def policy(self) -> str:
    """What was kept, and where."""
    found = ' + '.join((self.remat, *self.also))
    if self.offloaded:
      found += f'; host: {", ".join(self.offloaded)}'
    if self.capacity != 1:
      found += f'; capacity {self.capacity:g}'
    if self.products != _PRODUCTS:
      found += f'; {self.products} products of experts'
    return found


_RECIPES = 'AI-Hypercomputer/tpu-recipes'
_QKV = ('layer_input', 'query', 'key', 'value')
ROWS = (
  Row(config='llama3_8b', topology='v6e:2x4', rows=24, published=7139,
      offloaded=(*_QKV, 'attention_out'), source=f'{_RECIPES}, trillium'),
  Row(config='llama3_8b', topology='v6e:16x16', rows=1024, published=7207,
      offloaded=(*_QKV, 'attention_out'), source='MaxText, tiering.md'),
  Row(config='llama3_70b', topology='v6e:16x16', rows=1280, published=960,
      offloaded=_QKV, source='MaxText, tiering.md'),
  Row(config='llama3_70b', topology='tpu7x:4x4x4', rows=256, published=2687,
      remat='attention', source=f'{_RECIPES}, ironwood'),
  Row(config='llama3_405b', topology='tpu7x:4x8x8', rows=1536, published=500,
      also=('key', 'value'), offloaded=('layer_input', 'mlp_out'),
      source=f'{_RECIPES}, ironwood'),
  Row(config='llama3_405b', topology='v5p:8x8x8', rows=1024, published=124.6,
      offloaded=('context', 'mlp_out'), source=f'{_RECIPES}, v5p'),
  Row(config='llama2_7b', topology='h100:1x8', rows=16, published=11_361,
      remat='products', source='NVIDIA/JAX-Toolbox, MaxText'),
  Row(config='llama3_70b', topology='h200:32x8', rows=512, published=1056,
      remat='attention', also=('attention_out',),
      overrides={'mesh.data': 2}, source='gpu-recipes, MaxText'),
  # Not looked at when the constant was chosen.
  Row(config='llama3_8b', topology='v6e:8x8', rows=320, published=7247,
      offloaded=(*_QKV, 'attention_out'), chooses=False,
      source=f'{_RECIPES}, trillium'),
  Row(config='llama3_70b', topology='v6e:8x8', rows=128, published=877,
      offloaded=_QKV, chooses=False, source=f'{_RECIPES}, trillium'),
  Row(config='llama3_70b', topology='tpu7x:4x8x8', rows=64, published=963,
      remat='attention', chooses=False,
      overrides={'sequence_length': 131_072, 'mesh.context': 8},
      source=f'{_RECIPES}, ironwood, rows of 131,072'),
  Row(config='mixtral_8x7b', topology='v5p:4x4x8', rows=4608, published=2909,
      products=12, chooses=False,
      source='MaxText, tiering.md, on 8x4x4'),
  Row(config='mixtral_8x7b', topology='v6e:16x16', rows=3072, published=3645,
      offloaded=(*_QKV, 'attention_out'), capacity=1.25, products=12,
      chooses=False, source=f'{_RECIPES}, trillium'),
)  # fmt: skip


def config_of(row: Row) -> TrainConfig:
  """The run of a row, of few steps."""
  config: Any = importlib.import_module(f'configs.{row.config}').get_config()
  config.batch_size = row.rows
  config.model.remat = row.remat
  config.update_from_flattened_dict(dict(row.overrides))
  return train_config(config)


def _error(row: Row) -> float:
  """Logarithm of the predicted speed, by the roofline, over the published."""
  config, machine = config_of(row), topologies.parse(row.topology)
  seconds = _seconds(row, config)
  share = row.capacity * row.products / _PRODUCTS
  if share != 1:
    seconds += (share - 1) * _seconds_of_experts(row, config)
  tokens = config.batch_size * config.sequence_length
  return math.log(tokens / seconds / machine.chips / row.published)


def _seconds(row: Row, config: TrainConfig) -> float:
  keeps = keeps_of(config.model, row.offloaded, row.also)
  machine = topologies.parse(row.topology)
  return estimate_run(config, machine, keeps).seconds


def _seconds_of_experts(row: Row, config: TrainConfig) -> float:
  """Those in which experts multiply; they grow with the experts of a token."""
  count = config.model.moe.experts_per_token
  more = dict(row.overrides) | {'model.moe.experts_per_token': count + 1}
  one_more = config_of(dataclasses.replace(row, overrides=more))
  return count * (_seconds(row, one_more) - _seconds(row, config))


def _compiled(row: Row) -> float | None:
  """The same, by the compiler; None where the step does not fit."""
  cache = Cache('~/.cache/meshwork/compiled/plans')
  plan = make_plan(
    config_of(row), topologies.parse(row.topology), price=None, cache=cache
  )
  if plan.speed is None:
    return None
  return math.log(plan.speed.tokens_a_second / row.published)


def _errors(sustained: Iterable[float]) -> dict[float, list[float]]:
  """Errors of the rows that choose, by the constant."""
  found, chosen = {}, roofline.SUSTAINED
  for value in sustained:
    roofline.SUSTAINED = value
    found[value] = [_error(row) for row in ROWS if row.chooses]
  roofline.SUSTAINED = chosen
  return found


def _best(errors: Mapping[float, list[float]], without: int | None) -> float:
  """The constant with the least sum of squares, but for one row."""

  def badness(value: float) -> float:
    rows = enumerate(errors[value])
    return sum(error**2 for number, error in rows if number != without)

  return min(errors, key=badness)


def _leave_one_out() -> None:
  errors = _errors(round(0.7 + 0.01 * step, 2) for step in range(31))
  best = _best(errors, None)
  worst = max(abs(math.expm1(error)) for error in errors[best])
  print(f'\nSUSTAINED: {best:.2f} is best, {roofline.SUSTAINED:.2f} is set.')
  print(f'The largest error of the eight is then {worst:.0%}.')
  print('Each by the constant that the other seven choose:')
  for number, row in enumerate(row for row in ROWS if row.chooses):
    value = _best(errors, number)
    error = math.expm1(errors[value][number])
    print(f'  {row.config} {row.topology}: {value:.2f}, {error:+.1%}')


def main() -> None:
  """Predicts and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--compile', action='store_true')
  parser.add_argument('--only', default='')
  arguments = parser.parse_args()
  set_up_environment()
  # JAX is imported, and has not looked for devices yet.
  jax.config.update('jax_platforms', 'cpu')
  heads = 'Model', 'Machine', 'Rows', 'Kept', 'Published', 'Predicted'
  print('| ' + ' | '.join((*heads, 'Error', 'By')) + ' |')
  print('|---|---|---|---|---|---|---|---|')
  for row in ROWS:
    name = f'{row.config} {row.topology}'
    if arguments.only not in name:
      continue
    found: dict[str, float | None] = {'roofline': _error(row)}
    tpu = topologies.parse(row.topology).chip.is_tpu
    if arguments.compile and tpu and not (row.also or row.offloaded):
      found['compiler'] = _compiled(row)
    for by, error in found.items():
      speed, off = 'does not fit', ''
      if error is not None:
        speed = f'{row.published * math.exp(error):,.0f}'
        off = f'{math.expm1(error):+.0%}'
      print(
        f'| {row.config} | {row.topology} | {row.rows:,} | {row.policy} | '
        f'{row.published:,} ({row.source}) | {speed} | {off} | {by} |',
        flush=True,
      )
  if not arguments.only:
    _leave_one_out()


if __name__ == '__main__':
  main()
