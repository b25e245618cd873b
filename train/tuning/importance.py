"""Which searched fields make a trial good."""

import math
from collections.abc import Sequence

import optuna
from optuna.importance import (
  PedAnovaImportanceEvaluator,
  get_param_importances,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

# With fewer, the most important field is as often another one.
LEAST_TRIALS = 10
# The best of the trials, whose values are compared with all others'. Optuna's
# default is the best tenth, which is one or two trials of a small study: of 20
# on a landscape where one field outweighs three, it found that one in 5 of 10
# studies, and the best quarter in 10 of 10.
_BEST = 0.25
_DIRECTIONS = {
  'min': StudyDirection.MINIMIZE,
  'max': StudyDirection.MAXIMIZE,
}


def importance(
  trials: Sequence[FrozenTrial], modes: Sequence[str]
) -> dict[str, float]:
  """Shares of the parameters in what tells the best trials from the others.

  PED-ANOVA (Watanabe, Bansal and Hutter 2023, arxiv.org/abs/2304.10255); of
  several metrics, the best trials are those at the Pareto front.

  Args:
    trials: of a study.
    modes: 'min' or 'max' for each metric.

  Returns:
    The share of each parameter by name, the largest first; empty where there
    are fewer than `LEAST_TRIALS` complete trials with finite values.
  """
  complete = [
    t
    for t in trials
    if t.state == TrialState.COMPLETE and all(map(math.isfinite, t.values))
  ]
  if len(complete) < LEAST_TRIALS:
    return {}
  study = optuna.create_study(directions=[_DIRECTIONS[mode] for mode in modes])
  study.add_trials(complete)
  shares = get_param_importances(
    study, evaluator=PedAnovaImportanceEvaluator(target_quantile=_BEST)
  )
  return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
