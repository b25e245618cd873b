"""A run between its steps: what is logged, decided, evaluated and saved."""

import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax

from train.agreement import Agreement
from train.bad_steps import BadNumbersError
from train.checkpoint import Checkpoints
from train.checkpoint_info import Info, SaveError
from train.config import TrainConfig
from train.data import train_batches, validation_splits
from train.device_check import device_check
from train.distributed import wait_for_all
from train.early_stopping import (
  COOL_DOWN,
  FAIL,
  NOTHING,
  Verdict,
  is_over,
  judge,
  last_step,
  observe,
  timed,
  trained,
)
from train.evaluate import evaluate
from train.journal import Journal
from train.rows import Batch
from train.setup import Setup, data_marks
from train.signals import Interrupted, StopRequest
from train.state import (
  TrainState,
  abstract_state,
  cooled_down,
  init_state,
)
from train.timing import Stopwatch
from train.watchdog import Watchdog

if TYPE_CHECKING:
  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.stores import Stores
  from input_pipeline.stream import Stream


class RollBack(Exception):
  """A step is bad, and the run is to go on from before it."""

  def __init__(self, step: int, what: str):
    super().__init__(what)
    self.step = step
    self.what = what


class Stopped(Exception):
  """A signal came in the middle of an evaluation."""

  def __init__(self, signum: int):
    super().__init__(signum)
    self.signum = signum


@dataclasses.dataclass(kw_only=True)
class Run:
  """A run on its way; the loop makes its steps.

  Attributes:
    info: what a checkpoint of the present step would say.
    state: after as many steps as `info.step` says. None where it is replaced:
      there is room for one only.
    batch: of the last step.
    pending: the last step, and its metrics, which the host has not looked at.
  """

  config: TrainConfig
  setup: Setup
  augmentation: 'AugmentationConfig'
  stores: 'Stores'
  stream: 'Stream'
  checkpoints: Checkpoints
  journal: Journal
  watch: Stopwatch
  watchdog: Watchdog
  request: StopRequest
  agreement: Agreement
  info: Info
  state: TrainState | None
  saved_at: float = dataclasses.field(default_factory=time.monotonic)
  batch: Batch | None = None
  pending: tuple[int, dict[str, jax.Array]] | None = None

  def __post_init__(self):
    self.marks = data_marks(self.config.model, self.stores.first.manifest)
    self._device_check = device_check(self.setup, self.marks)

  @property
  def step(self) -> int:
    """Steps made."""
    return self.info.step

  def update(self, **fields: Any) -> None:
    """Changes what a checkpoint would say."""
    self.info = dataclasses.replace(self.info, **fields)

  def batches(self) -> Iterator[Batch]:
    """The batches of this step and those after it."""
    return train_batches(
      self.setup,
      self.augmentation,
      self.stores.first,
      self.stream,
      self.step,
      self.info.left_out,
    )

  def last_step(self) -> int:
    """The step at which the run ends, as far as that is known."""
    return last_step(self.info.seen, self.config)

  def finished(self) -> bool:
    """Whether all is done: the steps, and what the last of them asks for."""
    return self._is_over() and not self.owes_evaluation()

  def _is_over(self) -> bool:
    """Whether there is no step after this one."""
    return is_over(self.info.seen, self.step, self.config)

  def owes_evaluation(self) -> bool:
    """Whether this step is to be evaluated, and was not yet."""
    due = self._due(self.config.evaluation_every)
    return due and self.info.evaluated != self.step

  def owes_save(self) -> bool:
    """Whether this step is to be saved whatever its evaluation says."""
    return self._due(self.config.checkpoint_every)

  def owes_check(self) -> bool:
    """Whether the devices are to be checked at this step."""
    every = self.config.device_check_every
    return every is not None and self._due(every)

  def _due(self, every: int) -> bool:
    return self.step > 0 and (self.step % every == 0 or self._is_over())

  def asked(self) -> tuple[int, bool]:
    """What any host asks for: a signal that it got, or 0; a save."""
    minutes = self.config.checkpoint_minutes
    seconds = time.monotonic() - self.saved_at
    overdue = minutes is not None and seconds >= 60 * minutes
    signum, save, taken = self.agreement.ask(
      self.request.signum or 0, int(overdue), int(self.journal.seconds())
    )
    self.update(seen=timed(self.info.seen, self.step, taken, self.config))
    return signum, bool(save)

  def made_a_step(self, metrics: dict[str, jax.Array]) -> None:
    """Counts a step that was dispatched."""
    self.update(step=self.step + 1)
    self.pending = self.step, metrics

  def settle(self) -> None:
    """Looks at the metrics of the step that was dispatched last.

    Raises:
      RollBack: it is bad, and so it is to be.
      BadNumbersError: it is bad, and that is the end.
    """
    if self.pending is None:
      return
    (step, metrics), self.pending = self.pending, None
    with self.watch.phase('step_time'):
      fetched = {k: v.item() for k, v in jax.device_get(metrics).items()}
    self.watchdog.progress(f'waiting for step {step + 1}')
    bad, in_row = fetched.pop('bad'), fetched.pop('bad_in_row')
    if bad:
      self._bad_step(step, in_row, fetched)
    else:
      self.update(seen=trained(self.info.seen, fetched['loss']))
    self.journal.advance(step)
    if step % self.config.log_every == 0 or step == self.last_step():
      self.journal.train(step, fetched)

  def _bad_step(self, step: int, in_row: int, metrics: dict) -> None:
    """Does what is to be done about a bad step, whose update was not made."""
    policy = self.config.bad_steps
    what = (
      f'Step {step} is bad: loss {metrics["loss"]:.6g}, gradient norm '
      f'{metrics["grad_norm"]:.6g}, spike score {metrics["spike_score"]:.3g}'
      f'{"" if policy.limit is None else f" (limit {policy.limit:g})"}. Its '
      'update was not made.'
    )
    ends = {
      'stop': True,
      'skip': in_row >= policy.stop_after,
      'roll_back': self.info.rollbacks >= policy.max_rollbacks,
    }
    if ends[policy.action]:
      message = (
        f'{what} The run ends: {_why_it_ends(policy, in_row)} Lower '
        'optimizer.learning_rate or optimizer.clip_norm, or lengthen '
        'optimizer.warmup_steps; the same command goes on from the newest '
        'checkpoint.'
      )
      self.journal.record_event(step, message)
      raise BadNumbersError(message)
    if policy.action == 'roll_back':
      raise RollBack(step, what)
    self.journal.event(step, f'{what} {in_row} in a row.')

  def roll_back(self, back: RollBack) -> Iterator[Batch]:
    """Goes back to a checkpoint, and leaves out the batches up to a bad one.

    Returns:
      The batches of the step that the run is at now.
    """
    from input_pipeline.left_out import batch_number, leave_out

    self.pending = self.state = None
    self.checkpoints.wait()
    left_out, rollbacks = self.info.left_out, self.info.rollbacks + 1
    bad = batch_number(back.step - 1, left_out)
    wanted = bad - self.config.bad_steps.left_out + 1
    steps = self.checkpoints.steps()
    early = [step for step in steps if batch_number(step, left_out) <= wanted]
    if steps:
      last = early[-1] if early else steps[0]
      restored = self.checkpoints.restore_newest(self._abstract(), last)
      self.state, self.info = restored.state, restored.info
    else:
      self.state = init_state(self.setup.recipe, self.setup.shardings)
      self.update(step=0, seen=NOTHING, evaluated=None)
    set_aside = self.checkpoints.set_aside_after(self.step)
    first = max(wanted, batch_number(self.step, left_out))
    self.update(rollbacks=rollbacks, left_out=leave_out(left_out, first, bad))
    self.journal.rewind(self.step, back.step)
    self.journal.ends_at(self.last_step())
    self.journal.event(
      self.step,
      f'{back.what} Back to step {self.step}; batches {first} to {bad} are '
      'left out.',
    )
    for line in set_aside:
      self.journal.event(self.step, line)
    return self.batches()

  def _abstract(self) -> TrainState:
    return abstract_state(self.setup.recipe, self.setup.shardings)

  def check_devices(self) -> None:
    """Compares the devices with each other, where the run is to do so.

    Raises:
      SuspectDeviceError: they do not agree.
    """
    if self.config.device_check_every is None or self.batch is None:
      return
    assert self.state is not None
    self.watchdog.progress(f'checking the devices at step {self.step}')
    with self.watch.phase('device_check'):
      self._device_check(self.state, self.batch, self.step)

  def evaluate(self, eval_step: Any) -> bool:
    """Evaluates the state, and does what the rules of early stopping say.

    Returns:
      Whether it is to be saved.

    Raises:
      Stopped: a signal came meanwhile.
      BadNumbersError: the run has diverged.
    """
    assert self.state is not None

    def before_batch() -> None:
      self.watchdog.progress(f'evaluating step {self.step}')
      if stopped := self.asked()[0]:
        raise Stopped(stopped)

    with self.watch.phase('evaluation'):
      result = evaluate(
        eval_step,
        self.state.eval_params,
        validation_splits(self.setup, self.stores),
        before_batch,
      )
    seen, verdict = observe(self.info.seen, self.step, result, self.config)
    self.update(seen=seen, evaluated=self.step)
    improved = seen.best.step == self.step
    self.journal.evaluation(self.step, **result, improved=improved)
    if verdict is not None:
      self._obey(verdict)
    return improved or verdict is not None

  def _obey(self, verdict: Verdict) -> None:
    """Does what is to be done at once about a verdict.

    Raises:
      BadNumbersError: the run has failed.
    """
    if verdict.action == FAIL:
      message = verdict.told(self.step)
      self.journal.record_event(self.step, message, rule=verdict.rule)
      raise BadNumbersError(message)
    if verdict.action == COOL_DOWN:
      assert self.state is not None
      self.state = cooled_down(self.state, self.step)
      self.journal.ends_at(self.last_step())
      self.journal.event(self.step, verdict.told(self.step), rule=verdict.rule)

  def save(self, *, last: bool) -> None:
    """Starts to save the state; says so where that fails.

    Args:
      last: whether the process saves no more: then it has to succeed.
    """
    assert self.state is not None
    self.watchdog.progress(f'saving step {self.step}')
    self.saved_at = begin = time.monotonic()
    with self.watch.phase('checkpoint'):
      # A save that failed before is no reason to leave this one out.
      try:
        self.checkpoints.wait()
      except SaveError as error:
        self._unsaved(error)
      try:
        self.checkpoints.save(self.state, self.info)
      except SaveError as error:
        self._unsaved(error)
        if last:
          raise
    self.journal.checkpoint(self.step, time.monotonic() - begin)
    self.watchdog.progress(f'waiting for step {self.step + 1}')

  def poll_saves(self) -> None:
    """Says so if the save in flight has failed."""
    try:
      self.checkpoints.poll()
    except SaveError as error:
      self._unsaved(error)

  def _unsaved(self, error: SaveError) -> None:
    self.journal.event(self.step, str(error))
    if self.config.checkpoint_on_failure == 'stop':
      raise error

  def interrupted(self, signum: int) -> Interrupted:
    """Waits until the state is saved, and says why the run ends."""
    self.checkpoints.wait()
    error = Interrupted(signum, self.step)
    self.journal.record_event(self.step, str(error))
    return error

  def end(self, begun: int) -> TrainState:
    """Waits until all is saved, and says goodbye.

    Args:
      begun: steps that were made before this process.

    Returns:
      The state with the best evaluation.

    Raises:
      BadNumbersError: by rules that were changed, the run has failed.
    """
    step, best = self.step, self.info.best
    verdict = judge(self.info.seen, step, self.config)
    if verdict is not None and verdict.action == FAIL:
      self._obey(verdict)
    if verdict is not None and begun < step < self.config.steps:
      self.journal.event(step, verdict.told(step), rule=verdict.rule)
    self.checkpoints.wait()
    if best.step is not None and best.step != step:
      self.state = self.checkpoints.restore(best.step, self._abstract())
    said = f'Done at step {step}.'
    if best.step is not None:
      said += (
        f' Best {self.config.early_stopping.metric} {best.value:.4f} at step '
        f'{best.step}; evaluate and sample use it.'
      )
    self.journal.line(said)
    # A process that ended would be lost to the others.
    wait_for_all()
    assert self.state is not None
    return self.state


def _why_it_ends(policy: Any, in_row: int) -> str:
  if policy.action == 'stop':
    return "bad_steps.action is 'stop'."
  if policy.action == 'skip':
    return f'{in_row} bad steps in a row (bad_steps.stop_after).'
  return f'{policy.max_rollbacks} times back already (bad_steps.max_rollbacks).'
