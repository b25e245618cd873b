"""A trial on its way: the run of it, in a folder like any other run's.

It is computed in a slot of a population. `report`, `evaluate` and `sample` work
in its folder as in that of any run.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from train.checkpoint import Checkpoints
from train.checkpoint_info import DamagedError, Info
from train.config import TrainConfig
from train.distributed import is_first
from train.early_stopping import (
  COOL_DOWN,
  FAIL,
  is_over,
  judge,
  last_step,
  observe,
  timed,
  trained,
)
from train.metrics import MetricsWriter
from train.scalars import scalars_of
from train.state import TrainState
from train.tuning.study import Trial
from train.workdir import CHECKPOINTS, start_workdir

# Initial weights may be a little worse than a guess; by this much, in nats, a
# trial is lost.
_WORSE_THAN_A_GUESS = 1.0


@dataclasses.dataclass(frozen=True)
class Accepted:
  """A trial whose configuration is right.

  Attributes:
    trial: the trial.
    resolved: its configuration, as JSON holds it.
    config: the training part.
  """

  trial: Trial
  resolved: dict[str, Any]
  config: TrainConfig


class TrialRun:
  """Opens the folder of a trial, and goes on from where it was left.

  Args:
    accepted: the trial.
    folder: of its run.
    abstract: shapes of its state.
    data_fingerprint: of the prepared data.
    stores: directories of the data.

  Attributes:
    state: to go on from; None: the run begins, or is under way.
    step: steps made.
    bad_in_row: bad steps since the last good one.
  """

  def __init__(
    self,
    accepted: Accepted,
    folder: epath.Path,
    *,
    abstract: TrainState,
    data_fingerprint: str,
    stores: list[epath.Path],
  ):
    self.accepted = accepted
    self.number, self.config = accepted.trial.number, accepted.config
    self.scalars = scalars_of(self.config)
    self.bad_in_row = 0.0
    self._seconds = accepted.trial.seconds
    self._stack = contextlib.ExitStack()
    start_workdir(folder, accepted.resolved, stores)
    self._checkpoints = self._stack.enter_context(
      Checkpoints(folder / CHECKPOINTS, keep_last=1)
    )
    self.state: TrainState | None = None
    self._info = Info(
      step=0,
      config=accepted.resolved,
      data_fingerprint=data_fingerprint,
    )
    # A trial that has no good checkpoint begins anew: it is short.
    with contextlib.suppress(DamagedError):
      if self._checkpoints.steps():
        restored = self._checkpoints.restore_newest(abstract)
        self.state, self._info = restored.state, restored.info
    self._writer: MetricsWriter | None = None
    if is_first():
      self._writer = self._stack.enter_context(
        MetricsWriter(folder, tensorboard=False, resume_step=self.step or None)
      )
    self._write('session', self.step, spent={})
    self._saved = self.step
    self._batches: Iterator[Any] | None = None

  def _write(self, kind: str, step: int, **values: Any) -> None:
    if self._writer is not None:
      self._writer.write(kind, step, **values)

  @property
  def step(self) -> int:
    """Steps made."""
    return self._info.step

  def read_from(self, batches: Iterator[Any]) -> None:
    """Gives the batches from this step on."""
    self._batches = batches

  def next_batch(self) -> Any:
    """The batch of the next step; arrays of this process."""
    assert self._batches is not None
    return next(self._batches)

  @property
  def next_look(self) -> int:
    """The step of the next evaluation."""
    every = self.config.evaluation_every
    last = last_step(self._info.seen, self.config)
    return min((self.step // every + 1) * every, last)

  def made_steps(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
    """Records steps.

    Args:
      metrics: of each of them, in their order.
      seconds: that they took of the process's time.
    """
    count = len(metrics['loss'])
    for i in range(count):
      step, last = self.step + 1 + i, i == count - 1
      if step % self.config.log_every == 0 or last:
        self._write(
          'train',
          step,
          **{name: float(values[i]) for name, values in metrics.items()},
          spent={},
        )
    self.bad_in_row = float(metrics['bad_in_row'][-1])
    self._seconds += seconds
    good = metrics['loss'][metrics['bad'] == 0].astype(np.float64)
    seen = trained(self._info.seen, float(good.sum()), len(good))
    step = self.step + count
    seen = timed(seen, step, math.ceil(self._seconds), self.config)
    self._info = dataclasses.replace(self._info, step=step, seen=seen)

  def evaluated(self, result: dict[str, float]) -> int | None:
    """Records an evaluation.

    Returns:
      The step at which the learning rate begins to fall, if that is this one.
    """
    seen, verdict = observe(self._info.seen, self.step, result, self.config)
    self._info = dataclasses.replace(self._info, seen=seen, evaluated=self.step)
    improved = seen.best.step == self.step
    self._write('evaluation', self.step, **result, improved=improved)
    if verdict is None or verdict.action != COOL_DOWN:
      return None
    self.note(verdict.told(self.step), rule=verdict.rule)
    return self.step

  def note(self, message: str, **values: Any) -> None:
    """Records something that happened."""
    self._write('event', self.step, message=message, **values)

  def note_end(self) -> None:
    """Records why the trial is complete."""
    verdict = judge(self._info.seen, self.step, self.config)
    if verdict is None or self.step >= self.config.steps:
      self.note('Done.')
    else:
      self.note(verdict.told(self.step), rule=verdict.rule)

  @property
  def finished(self) -> bool:
    """Whether all its steps are made, or it stopped early."""
    return is_over(self._info.seen, self.step, self.config)

  @property
  def failure(self) -> str | None:
    """Why it has failed by the rules of early stopping; None: it has not."""
    verdict = judge(self._info.seen, self.step, self.config)
    if verdict is None or verdict.action != FAIL:
      return None
    return verdict.told(self.step)

  @property
  def owes_save(self) -> bool:
    """Whether the state is to be saved though the run goes on."""
    every = self.config.checkpoint_every
    return self.step // every > self._saved // every

  @property
  def owes_evaluation(self) -> bool:
    """Whether this step was not evaluated yet."""
    return self._info.evaluated != self.step

  @property
  def total_seconds(self) -> float:
    """Of the workers' time, in all processes so far."""
    return self._seconds

  @property
  def tokens(self) -> int:
    """That it has trained on."""
    return self.step * self.config.batch_size * self.config.sequence_length

  def save(self, state: TrainState) -> None:
    """Saves the state, and waits until it is on the disk."""
    begin = time.monotonic()
    self._checkpoints.save(state, self._info)
    # Orbax mixes up saves of several folders that are on their way at a time.
    self._checkpoints.wait()
    self._saved = self.step
    seconds = time.monotonic() - begin
    self._write('checkpoint', self.step, seconds=seconds, spent={})

  def close(self) -> None:
    """Waits until all is on the disk."""
    self._stack.close()


def why_diverged(
  config: TrainConfig, result: dict[str, float], bad_in_row: float
) -> str | None:
  """What is wrong with the numbers of a trial; None: nothing."""
  loss = result['loss']
  if not math.isfinite(loss):
    return f'It diverged: the validation loss is {loss}.'
  if bad_in_row >= config.bad_steps.stop_after:
    return f'It diverged: {bad_in_row:.0f} bad steps in a row.'
  guess = math.log(config.model.vocab_size)
  if loss > guess + _WORSE_THAN_A_GUESS:
    return (
      f'It diverged: a validation loss of {loss:.3f} is more than that of a '
      f'guess, log {config.model.vocab_size} = {guess:.3f}, and '
      f'{_WORSE_THAN_A_GUESS}.'
    )
  return None
