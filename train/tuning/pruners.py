"""Which trials end before their last step, for others do better.

A rule is a pure function of what trials have reported; to add one, write it
and enter it in `PRUNERS`. Optuna's own rules compare at steps that are powers
of a whole number apart, and know nothing of a schedule.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
  from train.tuning.search_config import SearchConfig

# Reported value by step.
Curve = Mapping[int, float]

# Before this fraction of the schedule ranks are noise. Of 24 runs, ranks after
# 12 % of the steps, in the warm-up, had a correlation of 0.09 with the last
# ones; after 25 % it was 0.86, and the best was the fifth of them.
EARLIEST = 0.25
# Among fewer trials than this, nothing can be said of one.
_FEWEST = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rungs:
  """Where trials are compared.

  Attributes:
    steps: of the rungs, rising.
    keep: fraction of the trials that go on from each.
  """

  steps: tuple[int, ...]
  keep: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
  """What trials have reported; lower values are better.

  Attributes:
    number: of the trial that is judged.
    curve: what it has reported; it is judged at its last step.
    others: what other trials have reported, by their number.
    complete: numbers of those of them that went on to their last step.
  """

  number: int
  curve: Curve
  others: Mapping[int, Curve]
  complete: frozenset[int]


def rung_steps(
  fractions: Sequence[float], steps: int, warmup_steps: int
) -> tuple[int, ...]:
  """The steps at which trials are compared.

  Args:
    fractions: of the schedule, rising.
    steps: length of the schedule.
    warmup_steps: of the longest warm-up that a trial may have; what lies in
      it is moved to its end.
  """
  moved = (max(math.ceil(f * steps), warmup_steps) for f in fractions)
  return tuple(sorted({step for step in moved if step < steps}))


def _none(rungs: Rungs, told: Told) -> bool:
  del rungs, told
  return False


def _median(rungs: Rungs, told: Told) -> bool:
  """Ends a trial that is worse than the median of the complete ones.

  It is judged at each of its values from the first rung on (Golovin et al.
  2017, "Google Vizier"). Trials that were ended on the way do
  not count: of what is left, half would go each time.
  """
  step = max(told.curve)
  if step < rungs.steps[0]:
    return False
  whole = [told.others[number] for number in told.complete]
  rivals = [curve[step] for curve in whole if step in curve]
  return _is_worse(told.curve[step], rivals, keep=0.5)


def _asha(rungs: Rungs, told: Told) -> bool:
  """Asynchronous successive halving (Li et al. 2020, "A system for massively
  parallel hyperparameter tuning").
  """
  return _halve(rungs.steps, rungs.keep, told.curve, told.others)


def _hyperband(rungs: Rungs, told: Told) -> bool:
  """Successive halving that starts at several rungs (Li et al. 2018).

  Trials belong to a bracket by their number; the first bracket meets all rungs,
  the last one none. Only trials of a bracket are compared.
  """

  def bracket(number: int) -> int:
    return _bracket(number, len(rungs.steps), rungs.keep)

  own = bracket(told.number)
  same = {n: curve for n, curve in told.others.items() if bracket(n) == own}
  return _halve(rungs.steps[own:], rungs.keep, told.curve, same)


def _bracket(number: int, rungs: int, keep: float) -> int:
  """The bracket of a trial: how many rungs it passes unseen.

  Brackets get trials in the proportions of the paper's algorithm 1.
  """
  sizes = [
    math.ceil((rungs + 1) / (left + 1) * keep**-left)
    for left in range(rungs, -1, -1)
  ]
  place = number % sum(sizes)
  bracket = 0
  while place >= sizes[bracket]:
    place -= sizes[bracket]
    bracket += 1
  return bracket


def _halve(
  steps: Sequence[int], keep: float, curve: Curve, others: Mapping[int, Curve]
) -> bool:
  """Whether a trial has just come to a rung and is not among the best there."""
  last = max(curve)
  for rung in steps:
    if _arrival(curve, rung) == last:
      arrivals = [(c, _arrival(c, rung)) for c in others.values()]
      rivals = [c[step] for c, step in arrivals if step is not None]
      if _is_worse(curve[last], rivals, keep=keep):
        return True
  return False


def _arrival(curve: Curve, rung: int) -> int | None:
  """The first step at or after a rung that has a value."""
  return min((step for step in curve if step >= rung), default=None)


def _is_worse(value: float, rivals: Sequence[float], *, keep: float) -> bool:
  """Whether a value is not among this fraction, rounded up, of all.

  Equal ones are as good; what is not a number is worse than all numbers.
  """
  count = len(rivals) + 1
  better = sum(not (math.isnan(rival) or value <= rival) for rival in rivals)
  return count >= _FEWEST and better >= math.ceil(keep * count)


PRUNERS: dict[str, Callable[[Rungs, Told], bool]] = {
  'none': _none,
  'median': _median,
  'asha': _asha,
  'hyperband': _hyperband,
}


def should_prune(name: str, rungs: Rungs, told: Told) -> bool:
  """Whether a trial ends at the step that it reported last.

  Args:
    name: of the rule.
    rungs: where trials are compared; none of them: never.
    told: what trials have reported.
  """
  if not told.curve or not rungs.steps:
    return False
  return PRUNERS[name](rungs, told)


class StudyPruner(optuna.pruners.BasePruner):
  """A rule of the table, for studies of Optuna with one metric.

  Args:
    name: of the rule.
    rungs: where trials are compared.
  """

  def __init__(self, name: str, rungs: Rungs):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    self._name, self._rungs = name, rungs

  def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether a trial ends at the step that it reported last."""
    minimize = study.direction == optuna.study.StudyDirection.MINIMIZE
    sign = 1.0 if minimize else -1.0

    def curve(of: FrozenTrial) -> Curve:
      return {step: sign * v for step, v in of.intermediate_values.items()}

    others = {
      other.number: other
      for other in study.get_trials(deepcopy=False)
      if other.number != trial.number
    }
    told = Told(
      number=trial.number,
      curve=curve(trial),
      others={number: curve(other) for number, other in others.items()},
      complete=frozenset(
        number
        for number, other in others.items()
        if other.state == TrialState.COMPLETE
      ),
    )
    return should_prune(self._name, self._rungs, told)


def make_pruner(
  search: 'SearchConfig', steps: int, warmup_steps: int
) -> StudyPruner:
  """The pruner that a search asks for.

  Args:
    search: the search.
    steps: length of the schedule of its trials.
    warmup_steps: of the configuration; if they are searched, the longest
      warm-up of the space counts.

  Raises:
    ValueError: the warm-up leaves no rung before the last step.
  """
  for parameter in search.space.parameters:
    if parameter.field == 'optimizer.warmup_steps':
      codes = parameter.grid_codes()
      longest = int(parameter.values(parameter.units(codes)).max())
      warmup_steps = max(warmup_steps, longest)
  found = rung_steps(search.rungs, steps, warmup_steps)
  if search.pruner != 'none' and not found:
    raise ValueError(
      f'search.rungs = {search.rungs} of steps = {steps}, moved to the end of '
      f'a warm-up of {warmup_steps} steps, leave nothing to save; set '
      "search.pruner = 'none' or a shorter warm-up."
    )
  return StudyPruner(search.pruner, Rungs(steps=found, keep=search.keep))
