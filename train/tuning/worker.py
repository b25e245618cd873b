"""A worker of a study: computes trials until there are no more.

Trials that differ in numbers only form a bucket, and share a compiled program.
The worker fills the slots of a bucket, and refills each as its trial ends.
Processes that train together are one worker; all make the same calls.
"""

import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from train.agreement import Agreement
from train.background import looked_at
from train.config import TrainConfig
from train.distributed import (
  first_process_tells,
  peers_give_signs,
  wait_for_all,
)
from train.scalars import without_scalars
from train.setup import make_setup
from train.signals import Interrupted, StopRequest
from train.tuning.mesh_slots import MeshSlots
from train.tuning.shared_study import SharedStudy
from train.tuning.size import (
  OutOfMemoryError,
  check_memory,
  chosen_size,
  is_out_of_memory,
)
from train.tuning.slots import Slots
from train.tuning.study import Study, Trial
from train.tuning.trial_run import Accepted, TrialRun, why_diverged

if TYPE_CHECKING:
  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.stores import Stores

# Seconds between two looks for trials that others give back.
_POLL = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """What all trials of a study have in common.

  Attributes:
    configure: the resolved configuration of a trial, and its training part;
      raises ValueError where its values do not fit together.
    metrics: that a trial is told with.
    population: trials at a time; None: as many as help.
    trials: of the whole study.
    augmentation: how the rows change.
    stores: the data.
    devices: those that share the trials.
    whole_mesh: whether a trial takes all of the devices.
  """

  configure: Callable[[Trial], tuple[dict[str, Any], TrainConfig]]
  metrics: tuple[str, ...]
  population: int | None
  trials: int
  augmentation: 'AugmentationConfig'
  stores: 'Stores'
  devices: Sequence[Any]
  whole_mesh: bool = False


class StudyStopped(Interrupted):
  """A signal ended the worker, after its trials had been saved."""

  def __init__(self, signum: int):
    Exception.__init__(
      self,
      f'{signal.Signals(signum).name} ended the study; its trials are saved, '
      'and the same command goes on.',
    )
    self.signum = signum


class Worker:
  """Computes trials of a study.

  Args:
    study: the study.
    work: what its trials have in common.
    request: that the worker ends.
    said: is told what a person should know.

  Attributes:
    compiled: programs so far: one for each bucket, unless memory ran out.
  """

  def __init__(
    self,
    study: Study | SharedStudy,
    work: Work,
    request: StopRequest,
    said: Callable[[str], None],
  ):
    self._study, self._work = study, work
    self._request, self._said = request, said
    self._waiting: dict[TrainConfig, list[Accepted]] = {}
    self._held: set[int] = set()
    self._agreement = Agreement(work.devices, 1)
    # Of one trial.
    self._devices = work.devices if work.whole_mesh else work.devices[:1]
    self.compiled = 0

  def run(self) -> None:
    """Computes trials until the study has none left for anybody.

    Raises:
      StudyStopped: a signal came; all trials are saved and given back.
    """
    seconds = self._study.lease_seconds / 4
    with looked_at(self._renew, seconds, 'leases'):
      try:
        while self._waiting or self._ask() or self._study.unfinished():
          if self._waiting:
            self._run_bucket(max(self._waiting, key=self._number_waiting))
          else:
            # Another worker may die, and its trials come back.
            time.sleep(_POLL)
            self._stop_if_asked()
      finally:
        for number in sorted(self._held):
          self._study.give_back(number)

  def _number_waiting(self, bucket: TrainConfig) -> int:
    return len(self._waiting[bucket])

  def _renew(self) -> bool:
    """Renews the leases of the trials that this worker holds."""
    self._study.renew(set(self._held))
    return True

  def _stop_if_asked(self) -> None:
    (signum,) = self._agreement.ask(self._request.signum or 0)
    if signum:
      raise StudyStopped(signum)

  def _ask(self) -> bool:
    """Gets another trial; says whether there was one.

    One whose values do not fit together has failed at once.
    """
    while (trial := self._study.next_trial()) is not None:
      self._held.add(trial.number)
      try:
        resolved, config = self._work.configure(trial)
        config = make_setup(config, self._devices).config
      except ValueError as error:
        self._fail(trial.number, f'ValueError: {error}')
        continue
      accepted = Accepted(trial, resolved, config)
      self._waiting.setdefault(without_scalars(config), []).append(accepted)
      return True
    return False

  def _run_bucket(self, bucket: TrainConfig) -> None:
    """Computes the trials of a bucket that wait, and those that come."""
    work, devices, size = self._work, 1, 1
    if not work.whole_mesh:
      devices = len(work.devices)
      size = chosen_size(work.population, work.trials, devices)
    while bucket in self._waiting:
      try:
        slots = self._compile(bucket, size)
        try:
          self._run_slots(bucket, slots)
        finally:
          self._leave(bucket, slots)
      except OutOfMemoryError as error:
        size = size // 2 // devices * devices
        if not size:
          for accepted in self._waiting.pop(bucket):
            self._fail(accepted.trial.number, f'Out of memory: {error}')
        else:
          self._said(f'{error} Now {size} trials at a time.')

  def _compile(self, bucket: TrainConfig, size: int) -> Slots:
    work = self._work
    self.compiled += 1
    setup = make_setup(self._waiting[bucket][0].config, self._devices)
    try:
      slots = (
        MeshSlots(setup, work.stores, work.augmentation)
        if work.whole_mesh
        else Slots(
          setup,
          work.stores,
          work.augmentation,
          size=size,
          devices=work.devices,
        )
      )
    except jax.errors.JaxRuntimeError as error:
      if is_out_of_memory(error):
        raise OutOfMemoryError(str(error).splitlines()[0]) from error
      raise
    wait_for_all()
    peers_give_signs()
    here = [d for d in work.devices if d.process_index == jax.process_index()]
    check_memory(slots.memory, here[0])
    return slots

  def _run_slots(self, bucket: TrainConfig, slots: Slots) -> None:
    """Fills, steps and looks, until no trial of the bucket is left."""
    while True:
      self._refill(bucket, slots)
      if not slots.live:
        return
      try:
        slots.advance(self._stop_if_asked)
        results = slots.evaluate()
      except StudyStopped:
        self._save_all(slots)
        raise
      except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
          raise OutOfMemoryError(str(error).splitlines()[0]) from error
        raise
      for slot, result in results.items():
        self._look(slots, slot, result)

  def _refill(self, bucket: TrainConfig, slots: Slots) -> None:
    """Fills the free slots with trials that wait, or with new ones.

    New trials of other buckets wait, no more of them than there are slots.
    """
    while slots.free:
      waiting = sum(map(len, self._waiting.values()))
      if bucket not in self._waiting:
        if waiting >= len(slots.free) + len(slots.live) or not self._ask():
          return
        continue
      accepted = self._waiting[bucket].pop(0)
      if not self._waiting[bucket]:
        del self._waiting[bucket]
      if not self._holds(accepted.trial.number):
        continue
      run = slots.open(accepted, self._study.folder(accepted.trial.number))
      if run.finished:
        # It was killed between its last save and its end in the database.
        slot = slots.slot_of(run)
        self._look(slots, slot, slots.evaluate()[slot])

  def _look(self, slots: Slots, slot: int, result: dict[str, float]) -> None:
    """Judges a trial by its evaluation: it goes on, or its slot is free."""
    run = slots.live[slot]
    number = run.number
    if not self._holds(number):
      slots.close(slot)
      return
    if run.owes_evaluation and (begin := run.evaluated(result)) is not None:
      slots.cool_down(slot, begin)
    values = self._values(slots, run, result)
    self._study.note(number, tokens=run.tokens, seconds=run.total_seconds)
    reason = why_diverged(run.config, result, run.bad_in_row) or run.failure
    pruned = reason is None and self._study.report(number, run.step, values[0])
    if reason is None and not run.finished and not pruned:
      if run.owes_save:
        slots.save(slot)
      return
    if reason is None:
      slots.save(slot)
    if reason is not None or pruned:
      run.note(reason or 'Pruned: others do better.')
    else:
      run.note_end()
    slots.close(slot)
    if reason is not None:
      self._fail(number, reason)
    elif pruned and not run.finished:
      self._study.prune(number)
    else:
      self._study.complete(number, values)
    self._held.discard(number)

  def _values(
    self, slots: Slots, run: TrialRun, result: dict[str, float]
  ) -> list[float]:
    """A trial's metrics, as the search asks for them."""
    others = {
      'parameters': slots.parameters,
      'step_seconds': run.total_seconds / max(run.step, 1),
    }
    return [float((result | others)[name]) for name in self._work.metrics]

  def _fail(self, number: int, reason: str) -> None:
    self._study.fail(number, reason)
    self._said(f'Trial {number} failed. {reason}')
    self._held.discard(number)

  def _holds(self, number: int) -> bool:
    """Whether a trial is still this worker's; another writes to its folder."""
    if self._study.holds(number):
      return True
    self._said(f'Trial {number} was given to another worker.')
    self._held.discard(number)
    return False

  def _save_all(self, slots: Slots) -> None:
    """Saves what this worker still holds, and waits for no database."""
    lost = first_process_tells(
      lambda: sorted(self._study.renew(set(self._held))), 'look at leases'
    )
    for slot, run in slots.live.items():
      if run.number not in lost:
        slots.save(slot)

  def _leave(self, bucket: TrainConfig, slots: Slots) -> None:
    """Closes what is open; its trials go on from their checkpoints."""
    for slot in list(slots.live):
      run = slots.live[slot]
      self._waiting.setdefault(bucket, []).append(run.accepted)
      slots.close(slot)
