"""The command `plan`: from flags to text, JSON and a file in the workdir."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from train.config import TrainConfig
from train.laws.advice import Repetition
from train.planning import topologies
from train.planning.cache import Cache
from train.planning.make import make_plan
from train.planning.plan import as_json as plan_json
from train.planning.report import as_text, gib, verdict
from train.planning.search import Candidate, search
from train.workdir import write_json

PLAN_FILE = 'plan.json'
_LISTED = 20


def plan_run(
  config: TrainConfig,
  *,
  topology: str | None,
  prices: Mapping[str, float | None],
  cache: str | None,
  augmented: bool,
  searched: int | None,
  workdir: epath.Path | None,
  as_json: bool,
  data: Sequence[Repetition] = (),
) -> str:
  """Plans a run, and returns what to print.

  Args:
    config: the run.
    topology: name of the machine, or of one of its slices (mesh.dcn).
    prices: of a chip for an hour, by chip.
    cache: folder of compiled programs; None: none is kept.
    augmented: whether batches are augmented.
    searched: how many layouts to compile; None: plan the config's own.
    workdir: where to leave plan.json; None: nowhere.
    as_json: return JSON in place of text.
    data: how often each dataset is read; empty: not known.

  Raises:
    ValueError: there is no such machine, or the run does not fit it.
  """
  if topology is None:
    raise ValueError(
      'Give the machine to plan for: --topology=v5p:4x4x4, or GPUs as '
      'HOSTSxGPUS: --topology=h100:8x8'
    )
  machine = topologies.parse(topology, config.mesh.dcn)
  _check_prices(prices)
  options: dict[str, Any] = {
    'price': prices[machine.chip.name],
    'cache': Cache(None if cache is None else f'{cache}/plans'),
    'augmented': augmented,
    'data': data,
  }
  found: Any
  if searched is None:
    plan = make_plan(config, machine, **options)
    found, text = plan_json(plan), as_text(plan)
  else:
    if searched < 1:
      raise ValueError(
        f'planning.searched is {searched}; it must be at least 1.'
      )
    candidates = search(config, machine, compiled=searched, **options)
    found, text = _search_json(candidates), search_text(candidates)
  if workdir is not None:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / PLAN_FILE, found)
  return json.dumps(found, indent=2) if as_json else text


def search_text(candidates: Sequence[Candidate]) -> str:
  """The ranking, the plan of the best, and why others fail."""
  planned = [c for c in candidates if c.plan is not None]
  best = next((c for c in planned if c.plan and c.plan.memory.fits), None)
  lines = []
  if best is not None and best.plan is not None:
    lines += [f'Best: {best.name}', '', as_text(best.plan), '']
  else:
    lines += ['None of those that were compiled fits.', '']
  lines.append('Planned, the fastest first')
  for candidate in planned:
    lines.append(f'  {_verdict(candidate)}  {candidate.name}')
  waiting = [c for c in candidates if c.plan is None and not c.why_not]
  if waiting:
    lines += ['', f'Not compiled ({len(waiting)}), by their estimates']
    for candidate in waiting[:_LISTED]:
      assert candidate.estimate is not None
      lines.append(
        f'  {candidate.estimate.seconds * 1e3:9,.1f} ms, '
        f'{gib(candidate.estimate.bytes):>10}  {candidate.name}'
      )
  failed = [c for c in candidates if c.why_not]
  if failed:
    lines += ['', f'Out of the question ({len(failed)})']
    for candidate in failed[:_LISTED]:
      lines.append(f'  {candidate.name}: {candidate.why_not}')
  hidden = max(0, len(waiting) - _LISTED) + max(0, len(failed) - _LISTED)
  if hidden:
    lines.append(f'  ({hidden} more with --json)')
  return '\n'.join(lines)


def _verdict(candidate: Candidate) -> str:
  plan = candidate.plan
  assert plan is not None
  memory = plan.memory
  if plan.speed is None or memory.needed is None or not memory.fits:
    return f'{verdict(memory):>12}'
  return (
    f'{plan.speed.step * 1e3:9,.1f} ms  MFU {plan.speed.mfu:5.1%}  '
    f'{gib(memory.needed):>10}'
  )


def _search_json(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
  return [
    {
      'flags': c.name,
      'why_not': c.why_not,
      'estimated_seconds': None if c.estimate is None else c.estimate.seconds,
      'estimated_bytes': None if c.estimate is None else c.estimate.bytes,
      'plan': None if c.plan is None else plan_json(c.plan),
    }
    for c in candidates
  ]


def _check_prices(prices: Mapping[str, float | None]) -> None:
  for name, value in prices.items():
    if value is not None and not value >= 0:
      raise ValueError(
        f'planning.prices.{name} is {value}; it must be 0 or more.'
      )
