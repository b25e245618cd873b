"""Predicted against published speeds of large runs.

python benchmarks/plan_published.py [--compile] [--only=TEXT]

Every row: bfloat16, random rows without padding, no evaluation, no checkpoint.
The roofline takes milliseconds and has the same assumptions for all rows; with
--compile, rows on TPUs are compiled as well (minutes to an hour each, cached).
"""

import argparse
import dataclasses
import importlib
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax

from train.config import TrainConfig, train_config
from train.planning import topologies
from train.planning.cache import Cache
from train.planning.environment import set_up_environment
from train.planning.make import make_plan
from train.planning.search import estimate_run


@dataclasses.dataclass(frozen=True)
class Row:
  """A published run.

  Attributes:
    config: of configs/.
    topology: the machine.
    rows: of a batch, on all chips.
    remat: the policy nearest to that of the run.
    published: tokens a second of a chip.
    source: where that is written.
  """

  config: str
  topology: str
  rows: int
  remat: str
  published: float
  source: str


_RECIPES = 'AI-Hypercomputer/tpu-recipes'
ROWS = (
  Row('llama3_8b', 'v6e:2x4', 24, 'full', 7139, f'{_RECIPES}, trillium'),
  Row('llama3_8b', 'v6e:16x16', 1024, 'full', 7207, 'MaxText, tiering.md'),
  Row('llama3_70b', 'v6e:16x16', 1280, 'full', 960, 'MaxText, tiering.md'),
  Row('llama3_70b', 'tpu7x:4x4x4', 256, 'attention', 2687,
      f'{_RECIPES}, ironwood'),
  Row('llama3_405b', 'tpu7x:4x8x8', 1536, 'full', 500, f'{_RECIPES}, ironwood'),
  Row('llama3_405b', 'v5p:8x8x8', 1024, 'full', 124.6, f'{_RECIPES}, v5p'),
  Row('llama2_7b', 'h100:1x8', 16, 'projections', 11_361,
      'NVIDIA/JAX-Toolbox, MaxText'),
  Row('llama3_70b', 'h200:32x8', 512, 'attention', 1056,
      'gpu-recipes, MaxText'),
)  # fmt: skip


def config_of(row: Row) -> TrainConfig:
  """The run of a row, of few steps."""
  config: Any = importlib.import_module(f'configs.{row.config}').get_config()
  config.batch_size = row.rows
  config.model.remat = row.remat
  return train_config(config)


def _predicted(row: Row, compiled: bool) -> float | None:
  """Tokens a second of a chip; None where the step does not fit."""
  config, machine = config_of(row), topologies.parse(row.topology)
  if compiled:
    plan = make_plan(
      config,
      machine,
      price=None,
      cache=Cache('~/.cache/meshwork/compiled/plans'),
    )
    return None if plan.speed is None else plan.speed.tokens_a_second
  seconds = estimate_run(config, machine).seconds
  return config.batch_size * config.sequence_length / seconds / machine.chips


def main() -> None:
  """Predicts and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--compile', action='store_true')
  parser.add_argument('--only', default='')
  arguments = parser.parse_args()
  set_up_environment()
  # JAX is imported, and has not looked for devices yet.
  jax.config.update('jax_platforms', 'cpu')
  heads = 'Model', 'Machine', 'Rows', 'Remat', 'Published', 'Predicted'
  print('| ' + ' | '.join((*heads, 'Error', 'By')) + ' |')
  print('|---|---|---|---|---|---|---|---|')
  for row in ROWS:
    name = f'{row.config} {row.topology}'
    if arguments.only not in name:
      continue
    tpu = topologies.parse(row.topology).chip.is_tpu
    for compiled in (False, True)[: 1 + (arguments.compile and tpu)]:
      found = _predicted(row, compiled)
      error = 'does not fit'
      if found is not None:
        error = f'{found / row.published - 1:+.0%}'
      print(
        f'| {row.config} | {row.topology} | {row.rows:,} | {row.remat} | '
        f'{row.published:,} ({row.source}) | {found or 0:,.0f} | {error} | '
        f'{"compiler" if compiled else "roofline"} |',
        flush=True,
      )


if __name__ == '__main__':
  main()
