"""The command `tune`: from a configuration and its search to a study."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
from etils import epath
from optuna.trial import FrozenTrial

from model.params import count
from train.config import TrainConfig, train_config
from train.data import prepared_stores
from train.distributed import check_same, first_process_tells, is_first
from train.laws.advice import setting
from train.laws.hyperparameters import BATCH_SIZE, LAWS, OPTIMIZERS, advised
from train.redact import redact
from train.setup import make_setup
from train.signals import StopRequest, stop_request
from train.state import make_recipe
from train.tuning.confirm import (
  CANDIDATE,
  SEED,
  Verdict,
  best_trials,
  confirming,
  judge,
  widened,
)
from train.tuning.outcome import Outcome
from train.tuning.pruners import make_pruner
from train.tuning.ranges import Law
from train.tuning.search_config import SearchConfig, search_config
from train.tuning.shared_study import SharedStudy
from train.tuning.size import takes_all_devices
from train.tuning.space import Params, Point
from train.tuning.study import Study, Trial, fixed_part
from train.tuning.trial_config import with_values
from train.tuning.worker import Work, Worker
from train.workdir import facts_of_a_run, flatten

if TYPE_CHECKING:
  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.config import TrainingData
  from input_pipeline.stores import Stores

# Told to the processes that --search.workers starts, which start none.
_CHILD = 'MESHWORK_TUNE_WORKER'
# The part of a study that runs its best trials again.
CONFIRM = 'confirm'


@dataclasses.dataclass(frozen=True)
class Search:
  """A search, read and checked.

  Attributes:
    config: of the search.
    base: configuration of a trial but for what is searched, as JSON holds it.
  """

  config: SearchConfig
  base: dict[str, Any]

  @property
  def wide_base(self) -> dict[str, Any]:
    """The base of the runs that confirm."""
    return widened(self.base, self.config.confirm.scale)

  def configure(self, trial: Trial) -> tuple[dict[str, Any], TrainConfig]:
    """The configuration of a trial, and its training part.

    Raises:
      ValueError: its values do not fit together.
    """
    resolved = with_values(self.base, trial.point.items())
    return resolved, train_config(resolved)

  def configure_again(
    self, trial: Trial, points: Mapping[int, Point]
  ) -> tuple[dict[str, Any], TrainConfig]:
    """The configuration of a run that confirms, and its training part.

    Args:
      trial: of the confirming study.
      points: of the candidates, by their number; the default has none.
    """
    point = points.get(trial.point[CANDIDATE], {})
    values = [*point.items(), ('seed', trial.point[SEED])]
    resolved = widened(
      with_values(self.base, values), self.config.confirm.scale
    )
    return resolved, train_config(resolved)


def read_search(resolved: dict[str, Any], search: Mapping[str, Any]) -> Search:
  """Reads a search before anything is computed.

  Args:
    resolved: the configuration, as JSON holds it.
    search: as `configs.search.get_search` makes it.

  Raises:
    ValueError: search and configuration do not fit together.
  """
  # Nothing of a study reads a secret, and its database keeps all of this.
  resolved = redact(resolved)
  known = flatten(resolved)
  proxy = [pair for pair in search['proxy'] if pair[0] in known]
  base = with_values(resolved, proxy)
  config = search_config(search, flatten(base), law_for(train_config(base)))
  found, train = Search(config, base), train_config(base)
  # What these refuse is said here, and not when the data is prepared.
  make_pruner(config, train.steps, train.optimizer.warmup_steps)
  train_config(found.wide_base)
  return found


def law_for(config: TrainConfig) -> Law:
  """What the published laws advise for a field of a run; None: nothing."""
  shapes = jax.eval_shape(make_recipe(config).init)
  run = setting(config, count(shapes.params))

  def law(field: str) -> float | None:
    if config.optimizer.name not in OPTIMIZERS:
      return None
    if field not in {law.field for law in LAWS}:
      return None
    value = advised(field, run).value
    return value / config.sequence_length if field == BATCH_SIZE else value

  return law


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
  """What the studies of one command have in common."""

  search: Search
  stores: 'Stores'
  augmentation: 'AugmentationConfig'
  workdir: epath.Path
  storage: str | None
  request: StopRequest
  whole_mesh: bool

  def run(
    self,
    asked: SearchConfig,
    configure: Callable[[Trial], tuple[dict[str, Any], TrainConfig]],
    base: dict[str, Any],
    part: str = '',
  ) -> Sequence[FrozenTrial]:
    """Computes the trials of a study, beside other workers; returns all."""
    train = train_config(base)

    def open_study() -> Study:
      return Study(
        self.workdir,
        asked,
        storage=self.storage,
        config=base,
        data_fingerprint=self.stores.fingerprint,
        steps=train.steps,
        warmup_steps=train.optimizer.warmup_steps,
        said=say,
        part=part,
      )

    study = SharedStudy(open_study, asked.space, self.workdir, part)
    before = study.trials()
    work = Work(
      configure=configure,
      metrics=asked.metrics,
      population=asked.population,
      trials=asked.trials,
      augmentation=self.augmentation,
      stores=self.stores,
      devices=_devices(self.whole_mesh),
      whole_mesh=self.whole_mesh,
    )
    Worker(study, work, self.request, say).run()
    trials = study.trials()
    if [t.state for t in trials] == [t.state for t in before]:
      say(
        f'The {"confirmation" if part else "search"} was done before: '
        f'{len(trials)} trials; none was computed.'
      )
    return trials

  def confirm(self, trials: Sequence[FrozenTrial]) -> Verdict | None:
    """Runs the best trials again; None on other processes than the first."""
    search, config = self.search, self.search.config
    best = first_process_tells(
      lambda: candidates(config, trials), 'choose what is run again'
    )
    points = {number: config.space.point(params) for number, params in best}
    again = self.run(
      confirming(config, list(points), search.base['seed']),
      lambda trial: search.configure_again(trial, points),
      search.wide_base,
      part=CONFIRM,
    )
    if not is_first():
      return None
    return judge(
      again,
      config.modes[0],
      seed_noise=config.seed_noise,
      scale=config.confirm.scale,
    )


def tune(
  search: Search,
  data: 'TrainingData',
  augmentation: 'AugmentationConfig',
  *,
  workdir: epath.Path,
  storage: str | None,
) -> Outcome | None:
  """Computes a study, and runs its best trials again.

  Args:
    search: what is searched.
    data: the datasets.
    augmentation: how training rows change.
    workdir: of the study.
    storage: address of its database; None: a file in the workdir.

  Returns:
    What came of it, on process 0; None on the others.

  Raises:
    ValueError: the workdir holds another study, or the search does not fit the
      devices.
    StudyStopped: a signal came; the trials are saved.
  """
  whole_mesh = check_devices(search)
  config = search.config
  stores = prepared_stores(data)
  check_same(facts_of_a_run(search.base) | {'the search': fixed_part(config)})
  with stop_request() as request, other_workers(config.workers):
    request.steps_begin()
    tuning = Tuning(
      search=search,
      stores=stores,
      augmentation=augmentation,
      workdir=workdir,
      storage=storage,
      request=request,
      whole_mesh=whole_mesh,
    )
    trials = tuning.run(config, search.configure, search.base)
    confirmed = len(config.metrics) == 1 and config.confirm.top > 0
    verdict = tuning.confirm(trials) if confirmed else None
  if not is_first():
    return None
  return Outcome(
    search=config, base=search.base, trials=trials, verdict=verdict
  )


def candidates(
  config: SearchConfig, trials: Sequence[FrozenTrial]
) -> list[tuple[int, Params]]:
  """The best trials that are not the default, and their params.

  The default is run again in any case.
  """
  space = config.space
  params = {
    t.number: t.params
    for t in trials
    if space.is_complete(t.params)
    and space.point(t.params) != space.default_point()
  }
  others = [t for t in trials if t.number in params]
  best = best_trials(others, config.modes[0], config.confirm.top)
  return [(number, params[number]) for number in best]


def check_devices(search: Search) -> bool:
  """Whether a trial takes all devices.

  Raises:
    ValueError: the search does not fit the devices.
  """
  config = search.config
  whole = takes_all_devices(train_config(search.base).mesh)
  if whole and (config.population or 1) > 1:
    raise ValueError(
      f'search.population = {config.population} trials at a time, and a trial '
      'takes all devices: the mesh splits it, or processes train it together. '
      "Set it to 1 or 'auto', or mesh.* to 1."
    )
  if jax.process_count() > 1 and config.workers > 1:
    raise ValueError(
      f'search.workers = {config.workers}, and {jax.process_count()} processes '
      'are one worker; set it to 1.'
    )
  devices = _devices(whole) if whole else _devices(whole)[:1]
  for base in (search.base, search.wide_base):
    make_setup(train_config(base), devices)
  return whole


def _devices(whole_mesh: bool) -> list[Any]:
  return jax.devices() if whole_mesh else jax.local_devices()


@contextmanager
def other_workers(count: int) -> Iterator[None]:
  """Runs the same command in other processes of this machine, for the block."""
  if os.environ.get(_CHILD):
    count = 1
  children = [
    subprocess.Popen(
      [sys.executable, *sys.argv], env=os.environ | {_CHILD: str(number)}
    )
    for number in range(1, count)
  ]
  try:
    yield
  except BaseException:
    for child in children:
      child.terminate()
    raise
  finally:
    for child in children:
      child.wait()


def say(text: str) -> None:
  """Tells a person; of several processes, process 0 does."""
  if is_first():
    print(text, file=sys.stderr, flush=True)


def dry_run_text(search: Search) -> str:
  """What a study would do."""
  config = search.config
  train = train_config(search.base)
  tokens = train.steps * train.batch_size * train.sequence_length
  lines = [
    f'{config.trials} trials at most, suggested by {config.sampler!r}, pruned '
    f'by {config.pruner!r}; {train.steps:,} steps and {tokens:,} tokens each.',
    'Searched:',
  ]
  for field, entry in config.space.to_json()['parameters'].items():
    rest = ', '.join(f'{k} {v}' for k, v in entry.items() if v is not None)
    lines.append(f'  {field}: {rest}')
  for text in config.space.to_json()['constraints']:
    lines.append(f'  where {text}')
  lines.append(f'First the default: {config.space.default_point()}')
  law = config.space.law_point()
  if law is not None:
    lines.append(f'Then where the laws point: {law}')
  confirm = config.confirm
  if confirm.top and len(config.metrics) == 1:
    shape = train_config(search.wide_base).model
    lines.append(
      f'In the end the best {confirm.top} and the default again, with '
      f'{confirm.seeds} fresh seeds each, {shape.embed_dim} wide.'
    )
  return '\n'.join(lines)
