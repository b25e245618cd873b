"""Tree-structured Parzen estimators, by Optuna."""

import warnings
from collections.abc import Iterator

import numpy as np
import optuna

from train.tuning.history import History
from train.tuning.space import Params, Space


def suggest_tpe(
  space: Space, history: History, rng: np.random.Generator
) -> Iterator[Params]:
  """Yields params from a study in memory that has the same history.

  There, failed trials have finished with a bad value: Optuna would forget
  them. It draws from a source that it cannot carry from one trial to the next.

  Args:
    space: of the search.
    history: at least one finished trial.
    rng: source of the seed.
  """
  depends = any(parameter.when for parameter in space.parameters)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
    sampler = optuna.samplers.TPESampler(
      # The startup is over, however few trials of it have finished.
      n_startup_trials=0,
      # Samples jointly what is searched together.
      group=depends,
      multivariate=True,
      seed=int(rng.integers(2**31)),
    )
  metrics = history.costs_NM.shape[1]
  study = optuna.create_study(
    directions=['minimize'] * metrics, sampler=sampler
  )
  every = space.distributions()

  def add(params: Params, **rest) -> None:
    known = {name: every[name] for name in params}
    trial = optuna.trial.create_trial(
      params=params, distributions=known, **rest
    )
    study.add_trial(trial)

  for params, cost_M in zip(history.finished, history.costs_NM, strict=True):
    add(params, values=cost_M.tolist())
  for params in history.pending:
    add(params, state=optuna.trial.TrialState.RUNNING)
  while True:
    trial = study.ask()
    yield space.ask(trial)
    # It is not there when the next one is drawn.
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
