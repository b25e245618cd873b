"""A study in a job of several processes: process 0 asks and tells.

The others are told by it what all of them go by; a process that is alone has
the study for itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath
from optuna.trial import FrozenTrial

from train.distributed import first_process_does, first_process_tells
from train.tuning.leases import LEASE_SECONDS
from train.tuning.space import Space
from train.tuning.study import Study, Trial, trial_folder


class SharedStudy:
  """A `Study` that process 0 alone has open.

  What asks for something is called by all processes in the same order; what
  tells something is the work of process 0, and nothing on the others.

  Args:
    open_study: is called by process 0.
    space: that is searched.
    workdir: of the study.
    part: of the study, as it has it.

  Raises:
    ValueError: process 0 could not open it.
  """

  def __init__(
    self,
    open_study: Callable[[], Study],
    space: Space,
    workdir: epath.Path,
    part: str,
  ):
    self._study: Study | None = None
    self._space, self._workdir, self._part = space, workdir, part

    def work() -> None:
      self._study = open_study()

    first_process_does(work, 'open the study')

  def _ask(self, ask: Callable[[Study], Any]) -> Any:
    def work() -> Any:
      assert self._study is not None
      return ask(self._study)

    return first_process_tells(work, 'ask its study')

  def next_trial(self) -> Trial | None:
    """A trial that all processes compute; None: there is none to be had."""

    def ask(study: Study) -> list[Any] | None:
      trial = study.next_trial()
      if trial is None:
        return None
      return [trial.number, self._space.params(trial.point), trial.seconds]

    found = self._ask(ask)
    if found is None:
      return None
    number, params, seconds = found
    return Trial(number, self._space.point(params), seconds)

  def unfinished(self) -> int:
    """Trials that other workers hold."""
    return self._ask(lambda study: study.unfinished())

  def report(self, number: int, step: int, value: float) -> bool:
    """Records the first metric at a step; returns whether the trial ends."""
    return self._ask(lambda study: bool(study.report(number, step, value)))

  @property
  def lease_seconds(self) -> float:
    """How long a trial is held without a renewal."""
    return self._study.leases.seconds if self._study else LEASE_SECONDS

  def folder(self, number: int) -> epath.Path:
    """The folder of a trial: that of a run."""
    return trial_folder(self._workdir, self._part, number)

  def trials(self) -> Sequence[FrozenTrial]:
    """All trials, in their order; none on the other processes."""
    return self._study.trials() if self._study else []

  def renew(self, numbers: set[int]) -> set[int]:
    """Renews the leases of trials; returns those that others have now."""
    return self._study.renew(numbers) if self._study else set()

  def holds(self, number: int) -> bool:
    """Whether the processes still have a trial, whose lease is renewed."""
    return self._ask(lambda study: study.holds(number))

  def give_back(self, number: int) -> None:
    """Lets another worker take a trial that is not done."""
    if self._study:
      self._study.give_back(number)

  def note(self, number: int, **values: Any) -> None:
    """Keeps facts of a trial: tokens, seconds."""
    if self._study:
      self._study.note(number, **values)

  def complete(self, number: int, values: Sequence[float]) -> None:
    """Ends a trial that went its way."""
    if self._study:
      self._study.complete(number, values)

  def prune(self, number: int) -> None:
    """Ends a trial that others are better than."""
    if self._study:
      self._study.prune(number)

  def fail(self, number: int, reason: str) -> None:
    """Ends a trial that went wrong; it counts as a bad one."""
    if self._study:
      self._study.fail(number, reason)
