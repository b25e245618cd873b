"""The command `ladder`: trains the rungs, fits the law, writes what it says.

The workdir holds ladder.json (what was planned; later, what came of it),
ladder.html, and a folder of each run, which is one like any other.
"""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils import epath

from model.flops import training_flops_per_token
from model.params import count
from train.config import TrainConfig, train_config
from train.distributed import is_first
from train.laws.loss import GOOD_EPOCHS
from train.lock import one_run_at_a_time
from train.mesh import make_mesh
from train.metrics import FILE_NAME, read_metrics
from train.redact import redact
from train.report import write_report
from train.setup import make_setup
from train.state import make_recipe
from train.tuning import ladder
from train.tuning.ladder import Budget, Rung, with_fields
from train.tuning.ladder_page import ladder_page, ladder_text
from train.tuning.ladder_result import Done, Outcome
from train.tuning.scaling_fit import Point, fit, forecast
from train.workdir import differences, write_json

LADDER_FILE, PAGE_FILE = 'ladder.json', 'ladder.html'
# Steps that show how fast the machine is.
_MEASURED_STEPS = 20

# Trains a configuration, as JSON holds it, in a folder; goes on if it is there.
Train = Callable[[dict[str, Any], epath.Path], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What is asked for on the command line.

  Attributes:
    flops: of all runs together; None: see hours.
    hours: of all runs together; None: see flops.
    ratios: tokens a parameter of the runs; empty: as many as the run has.
    sizes: of models.
  """

  flops: float | None
  hours: float | None
  ratios: tuple[float, ...]
  sizes: int

  def __post_init__(self):
    Budget(flops=self.flops, hours=self.hours)
    for ratio in self.ratios:
      if not 0 < ratio < math.inf:
        raise ValueError(
          f'--tokens_per_parameter is {ratio}; it must be above 0.'
        )


@dataclasses.dataclass(frozen=True)
class _Asked:
  """A ladder that is asked for; see run_ladder.

  Attributes:
    resolved, options, train, workdir: its arguments.
    base: the configuration, checked.
    target: parameters and tokens of the run whose loss is asked for.
  """

  resolved: dict[str, Any]
  base: TrainConfig
  options: Options
  target: tuple[int, float]
  train: Train
  workdir: epath.Path


@one_run_at_a_time
def run_ladder(
  resolved: dict[str, Any],
  options: Options,
  train: Train,
  *,
  workdir: epath.Path,
) -> str:
  """Trains a ladder, or goes on with the one in the workdir, and fits its law.

  Args:
    resolved: the configuration whose loss is asked for, as JSON holds it.
    options: what the ladder may take.
    train: trains a rung.
    workdir: folder of the ladder.

  Returns:
    What to print.

  Raises:
    ValueError: the ladder is too small, the workdir holds another one, or the
      runs do not tell the loss.
  """
  base = train_config(resolved)
  _check_data(resolved)
  target = _target(base, options.ratios)
  rungs = _planned(_Asked(resolved, base, options, target, train, workdir))
  for number, rung in enumerate(rungs, start=1):
    if _ended(workdir / rung.name, rung.fields['steps']) is not None:
      continue
    _say(
      f'Rung {number} of {len(rungs)}: {rung.parameters:,} parameters, '
      f'{rung.tokens:,} tokens, {rung.flops:.3g} FLOPs, in {rung.name}'
    )
    train(with_fields(resolved, rung.fields), workdir / rung.name)
    if is_first():
      write_report(workdir / rung.name)
    # Before larger ones are paid for.
    _result(workdir / rung.name, rung)
  done = [_result(workdir / rung.name, rung) for rung in rungs]
  points = [Point(d.rung.parameters, d.rung.tokens, d.loss) for d in done]
  fitted = fit(points, seed=base.seed)
  outcome = Outcome(
    name=workdir.resolve().name,
    done=tuple(done),
    fitted=fitted,
    forecast=forecast(
      fitted, parameters=target[0], tokens=target[1], seed=base.seed
    ),
    target_flops=training_flops_per_token(base.model) * target[1],
    remarks=_remarks(base, target, done),
  )
  if is_first():
    plan = json.loads((workdir / LADDER_FILE).read_text())
    write_json(workdir / LADDER_FILE, plan | {'outcome': outcome.as_json()})
    (workdir / PAGE_FILE).write_text(ladder_page(outcome))
  if outcome.forecast.says_nothing:
    raise ValueError(outcome.refusal + f' {workdir / PAGE_FILE} shows why.')
  return f'{ladder_text(outcome)}\nPage: {workdir / PAGE_FILE}'


def _target(base: TrainConfig, ratios: Sequence[float]) -> tuple[int, float]:
  """Parameters and tokens of the run whose loss is asked for."""
  parameters = _count(base)
  tokens = float(base.steps * base.batch_size * base.sequence_length)
  # A ladder of one ratio tells nothing of others.
  return parameters, ratios[0] * parameters if len(ratios) == 1 else tokens


def _planned(asked: _Asked) -> list[Rung]:
  """The rungs: those of the ladder in the workdir, or new ones."""
  path = asked.workdir / LADDER_FILE
  # Lists in place of tuples, as they are read back.
  options = json.loads(json.dumps(dataclasses.asdict(asked.options)))
  given = {'options': options, 'config': redact(asked.resolved)}
  if path.exists():
    saved = json.loads(path.read_text())
    changed = differences(saved['config'], given['config']) + [
      f'--{name}: {saved["options"].get(name)} -> {value}'
      for name, value in options.items()
      if saved['options'].get(name) != value
    ]
    if changed:
      raise ValueError(
        f'{asked.workdir} holds a ladder that differs (saved -> given):\n  '
        + '\n  '.join(changed)
        + '\nTake the change back, or start in another --workdir.'
      )
    return [Rung(**rung) for rung in saved['rungs']]
  rungs = _plan(asked)
  if is_first():
    planned = [dataclasses.asdict(rung) for rung in rungs]
    write_json(path, given | {'rungs': planned})
  return rungs


def _plan(asked: _Asked) -> list[Rung]:
  base, options = asked.base, asked.options
  parameters, tokens = asked.target
  mesh = make_mesh(base.mesh)
  shards = math.prod(mesh.shape[a] for a in dict(base.mesh.rules)['batch'])
  found = ladder.candidates(
    base,
    own=parameters,
    ratios=options.ratios or (tokens / parameters,),
    multiple=shards * base.accumulation_steps,
    stages=mesh.shape['stage'],
    count=_count,
  )
  budget = Budget(flops=options.flops, hours=options.hours)
  if options.hours is not None and found:
    middle = found[len(found) // 2][0]
    budget = _measured(asked, middle, options.hours)
  rungs = ladder.choose(found, budget, sizes=options.sizes)
  ladder.check_reach(rungs, training_flops_per_token(base.model) * tokens)
  for rung in rungs:
    # What does not fit the devices is refused before anything is trained.
    make_setup(train_config(with_fields(asked.resolved, rung.fields)))
  total = sum(budget.cost(rung) for rung in rungs)
  _say(
    f'A ladder of {len(rungs)} runs, {rungs[0].parameters:,} to '
    f'{rungs[-1].parameters:,} parameters: about {budget.text(total)} of '
    f'{budget.text(budget.amount)}.'
  )
  return rungs


def _measured(asked: _Asked, rung: Rung, hours: float) -> Budget:
  """The budget in hours, with the speed of a short run."""
  if jax.process_count() > 1:
    raise ValueError(
      f'--hours={hours:g}: hosts measure different speeds and would plan '
      'different ladders. Give --flops.'
    )
  steps = min(_MEASURED_STEPS, rung.fields['steps'])
  folder, begin = asked.workdir / 'speed', time.monotonic()
  fields = rung.fields | ladder.schedule_fields(asked.base, steps)
  # The second half of the steps is measured: the first ones warm up.
  fields |= {'evaluation.every': steps, 'log.every': max(1, steps // 2)}
  _say(f'Measures the speed of {rung.parameters:,} parameters in {folder}')
  asked.train(with_fields(asked.resolved, fields), folder)
  records = read_metrics(folder)
  speed = [r for r in records if r['kind'] == 'train'][-1]['tokens_per_second']
  beside = [
    r['compile'] + r['evaluation'] + r['checkpoint']
    for r in records
    if r['kind'] == 'time'
  ]
  spent = (time.monotonic() - begin) / 3600
  if spent >= hours:
    raise ValueError(
      f'To measure the speed of this machine took {spent:.3g} hours of '
      f'--hours={hours:g}, which leaves none for a ladder: give more.'
    )
  return Budget(
    hours=hours - spent,
    speed=rung.flops / rung.tokens * speed,
    overhead=max(beside),
  )


def _count(config: TrainConfig) -> int:
  return count(jax.eval_shape(make_recipe(config).init).params)


def _check_data(resolved: dict[str, Any]) -> None:
  """Refuses weights that change at steps which shorter runs do not have."""
  for name, dataset in resolved['data']['mixture'].items():
    if len(dataset['weights']) > 1 or '..' in dataset['weights'][0]:
      raise ValueError(
        f'data.mixture.{name}.weights = {dataset["weights"]} change with the '
        'step, and the runs of a ladder have other numbers of steps: give one '
        'weight.'
      )


def _ended(folder: epath.Path, steps: int) -> dict[str, Any] | None:
  """The evaluation after the last step; None where the run has not ended."""
  if not (folder / FILE_NAME).exists():
    return None
  found = [
    record
    for record in read_metrics(folder)
    if record['kind'] == 'evaluation' and record['step'] == steps
  ]
  return found[-1] if found else None


def _result(folder: epath.Path, rung: Rung) -> Done:
  evaluation = _ended(folder, rung.fields['steps'])
  if evaluation is None:
    raise ValueError(
      f'{folder} holds no evaluation after step {rung.fields["steps"]}: its '
      f'run has not ended. Remove {folder} to train it anew.'
    )
  records = read_metrics(folder)
  entropy = [
    r['dataset']['unigram_entropy'] for r in records if r['kind'] == 'session'
  ][-1]
  if not evaluation['loss'] < entropy:
    raise ValueError(
      f'{rung.name} of {rung.parameters:,} parameters ends at a loss of '
      f'{evaluation["loss"]:.3f}, and the frequencies of the tokens alone give '
      f'{entropy:.3f}: it has learned nothing that a law could be made of. '
      'Give it more --tokens_per_parameter, or set a lower '
      'optimizer.learning_rate, in another --workdir.'
    )
  epochs = [r['epoch'] for r in records if r['kind'] == 'train']
  seconds = [r['total'] for r in records if r['kind'] == 'time']
  return Done(
    rung=rung,
    loss=evaluation['loss'],
    epochs=epochs[-1] if epochs else 0.0,
    seconds=seconds[-1] if seconds else 0.0,
  )


def _remarks(
  base: TrainConfig, target: tuple[int, float], done: Sequence[Done]
) -> tuple[str, ...]:
  """What to know before one relies on the forecast."""
  remarks = []
  parameters, tokens = target
  own = base.steps * base.batch_size * base.sequence_length
  if not math.isclose(own, tokens, rel_tol=0.01):
    remarks.append(
      f'The configuration trains on {own:,} tokens, {own / parameters:.3g} a '
      f'parameter; all rungs have {tokens / parameters:.3g}, so the forecast '
      'is of as many. Without --tokens_per_parameter it is of its own.'
    )
  most = max(d.epochs for d in done)
  if most > GOOD_EPOCHS:
    remarks.append(
      f'A rung read its data {most:.1f} times; past {GOOD_EPOCHS} tokens that '
      'repeat are worth less, which this law does not know.'
    )
  if base.optimizer.name not in ladder.CARRIED:
    remarks.append(
      f'No law is known of the learning rate of {base.optimizer.name}: all '
      'rungs have that of the configuration.'
    )
  return tuple(remarks)


def _say(text: str) -> None:
  with contextlib.suppress(BrokenPipeError):
    if is_first():
      print(text, file=sys.stderr, flush=True)
