"""What a study leaves behind: its result in words, a winner's file, a page."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath
from optuna.trial import FrozenTrial, TrialState

from train.tuning.confirm import Verdict, best_trials
from train.tuning.search_config import SearchConfig
from train.tuning.study_page import render_study
from train.tuning.winner import config_file, difference, rounded

PAGE_FILE = 'study.html'
WINNER_FILE = 'winner.py'
_LISTED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What came of a study.

  Attributes:
    search: that was made.
    base: configuration of a trial but for what is searched, as JSON holds it.
    trials: of the search.
    verdict: on the best; None: nothing was to be confirmed.
  """

  search: SearchConfig
  base: dict[str, Any]
  trials: Sequence[FrozenTrial]
  verdict: Verdict | None

  @property
  def winner(self) -> int | None:
    """The trial whose values are to be used; None: the default's are.

    Without seeds that confirm it, the best trial.
    """
    if self.verdict is not None:
      return self.verdict.winner
    best = best_trials(self.trials, self.search.modes[0], 1)
    return best[0] if best and len(self.search.metrics) == 1 else None

  def point(self, number: int) -> dict[str, Any]:
    """Values of the fields that a trial was made with."""
    return self.search.space.point(self.trials[number].params)


def text_of(outcome: Outcome) -> str:
  """The result for a terminal."""
  search = outcome.search
  states = [trial.state for trial in outcome.trials]
  lines = [
    f'{states.count(TrialState.COMPLETE)} trials went to their end, '
    f'{states.count(TrialState.PRUNED)} were pruned, '
    f'{states.count(TrialState.FAIL)} failed.'
  ]
  metric = search.metrics[0]
  if len(search.metrics) > 1:
    lines.append('Trials that no other beats in all metrics:')
    numbers = pareto_front(outcome.trials, search.modes)
  else:
    numbers = best_trials(outcome.trials, search.modes[0], _LISTED)
  for number in numbers:
    values = ', '.join(
      f'{name} {value:.4f}'
      for name, value in zip(
        search.metrics, outcome.trials[number].values, strict=True
      )
    )
    point = {k: rounded(v) for k, v in outcome.point(number).items()}
    lines.append(f'  trial {number}: {values}  {point}')
  if outcome.verdict is not None:
    lines.append(outcome.verdict.text())
  winner = outcome.winner
  if winner is not None and len(search.metrics) == 1:
    lines.append(f'{metric} of trial {winner} came from:')
    lines += [
      f'  {line}'
      for line in difference(outcome.point(winner), search.space.defaults)
    ]
  return '\n'.join(lines)


def write_outcome(
  outcome: Outcome, workdir: epath.Path, origin: str
) -> list[epath.Path]:
  """Writes the page, and the winner as a configuration file.

  Args:
    outcome: of the study.
    workdir: its folder.
    origin: path of the configuration file that it started from.

  Returns:
    The files.
  """
  files = [workdir / PAGE_FILE]
  files[0].write_text(render_study(page_of(outcome)))
  winner = outcome.winner
  if winner is not None:
    values = outcome.point(winner) | dict(outcome.search.proxy)
    why = (
      outcome.verdict.text()
      if outcome.verdict is not None
      else f'The best of {len(outcome.trials)} trials, not run again.'
    )
    files.append(workdir / WINNER_FILE)
    files[1].write_text(
      config_file(origin, values, outcome.search.space.defaults, why)
    )
  return files


def pareto_front(
  trials: Sequence[FrozenTrial], modes: Sequence[str]
) -> list[int]:
  """Numbers of the complete trials that no other beats in all metrics."""
  signs = [1 if mode == 'min' else -1 for mode in modes]
  costs = {
    t.number: [s * v for s, v in zip(signs, t.values, strict=True)]
    for t in trials
    if t.state == TrialState.COMPLETE
  }

  def beats(one: list[float], other: list[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))

  return [
    number
    for number, cost in costs.items()
    if not any(beats(other, cost) for other in costs.values())
  ]
