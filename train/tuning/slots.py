"""The slots of a population, and the runs of trials in them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from model.params import count
from train.config import TrainConfig
from train.data import host_batches, validation_splits
from train.distributed import first_process_tells
from train.evaluate import figures
from train.rows import Marks
from train.scalars import scalars_of
from train.setup import Setup, data_marks
from train.signals import Interrupted
from train.state import TrainState
from train.step import LossSums
from train.tuning.population import Population
from train.tuning.trial_run import Accepted, TrialRun

if TYPE_CHECKING:
  from etils import epath

  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.stores import Stores
  from input_pipeline.stream import Stream


class Runs(Protocol):
  """What computes the runs in the slots, such as a `Population`."""

  size: int

  def fill(
    self,
    slot: int,
    scalars: Mapping[str, np.ndarray],
    state: TrainState | None = None,
  ) -> None:
    """Gives a slot to a run."""

  def cool_down(self, slot: int, begin: int) -> None:
    """Lets the learning rate of a slot's run fall from a step on."""

  def step(self, batch: Any) -> dict[str, jax.Array]:
    """Makes a step of every slot, and returns the metrics of each, [K]."""

  def evaluate(self, rows_BR: Any) -> LossSums:
    """Sums of the loss of every slot over some rows, [K] each."""

  def state(self, slot: int) -> TrainState:
    """The state of a slot's run."""

  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the state of a run."""


class Slots:
  """Runs of one bucket, made step by step together.

  Args:
    setup: of any of the runs; a population has it on one device.
    stores: the data.
    augmentation: how the rows change.
    size: slots.
    devices: those that share them.

  Attributes:
    live: the run in each slot that has one.
    parameters: of the model.
    memory: bytes of a device, as `Population.compile` tells.
  """

  def __init__(
    self,
    setup: Setup,
    stores: 'Stores',
    augmentation: 'AugmentationConfig',
    *,
    size: int,
    devices: Sequence[Any],
  ):
    self._setup, self._stores = setup, stores
    self._augmentation = augmentation
    self.live: dict[int, TrialRun] = {}
    marks = data_marks(setup.config.model, stores.first.manifest)
    self._runs, self.memory = self._compiled(marks, size, devices)
    self.parameters = count(self._runs.abstract_state().params)

  def _compiled(
    self, marks: Marks, size: int, devices: Sequence[Any]
  ) -> tuple[Runs, dict[str, int]]:
    """What computes the runs, and bytes of a device that it needs."""
    setup, stores = self._setup, self._stores
    self._idle = _no_rows(setup, stores, bool(self._augmentation.active))
    rows = stores.first.rows('validation')
    population = Population(
      setup.recipe, marks, scalars_of(setup.config), size=size, devices=devices
    )
    memory = population.compile(
      self._together({}, size),
      jax.ShapeDtypeStruct(
        (setup.config.evaluation_batch_size, rows.row_length), rows.dtype
      ),
    )
    return population, memory

  @property
  def free(self) -> list[int]:
    """Slots without a run."""
    return [k for k in range(self._runs.size) if k not in self.live]

  def slot_of(self, run: TrialRun) -> int:
    """The slot that a run is in."""
    return next(slot for slot, other in self.live.items() if other is run)

  def open(self, accepted: Accepted, folder: 'epath.Path') -> TrialRun:
    """Puts a trial into a free slot, to go on from where it was left."""
    run = TrialRun(
      accepted,
      folder,
      abstract=self._runs.abstract_state(),
      data_fingerprint=self._stores.fingerprint,
      stores=[store.directory for store in self._stores.stores],
    )
    config = run.config
    stream = self._stores.stream(
      seed=config.seed,
      batch_size=config.batch_size,
      repack=self._augmentation.repack,
    )
    run.read_from(self._batches(config, stream, run.step))
    slot = self.free[0]
    self._runs.fill(slot, run.scalars, run.state)
    run.state = None
    self.live[slot] = run
    return run

  def _batches(
    self, config: TrainConfig, stream: 'Stream', step: int
  ) -> Iterator[Any]:
    """The batches of a run from a step on."""
    return host_batches(
      config,
      self._augmentation,
      self._stores.first,
      stream,
      step,
      (0, config.batch_size),
    )

  def advance(self, before_step: Callable[[], None]) -> None:
    """Makes steps until one of the runs is to be evaluated.

    Args:
      before_step: is called before each; it ends them by an exception.
    """
    begin, told = time.monotonic(), []
    steps = min(run.next_look - run.step for run in self.live.values())
    try:
      for _ in range(steps):
        before_step()
        batches = {slot: run.next_batch() for slot, run in self.live.items()}
        batch = self._together(batches, self._runs.size)
        told.append(self._runs.step(batch))
    except Interrupted:
      self._made(told, begin)
      raise
    self._made(told, begin)

  def _made(self, told: list[dict[str, jax.Array]], begin: float) -> None:
    """Tells the runs of their steps."""
    if not told:
      return
    metrics_SK = jax.tree.map(lambda *x_K: np.stack(x_K), *told)
    spent = (time.monotonic() - begin) / len(self.live)
    # Hours may end a trial, on all processes at the same step.
    seconds = first_process_tells(lambda: spent, 'tell the time')
    for slot, run in self.live.items():
      numbers = {name: x_SK[:, slot] for name, x_SK in metrics_SK.items()}
      run.made_steps(numbers, seconds)

  def _together(self, batches: dict[int, Any], size: int) -> Any:
    """The batches of all slots; a slot without a run reads nothing."""
    rows = [batches.get(k, self._idle) for k in range(size)]
    return jax.tree.map(lambda *x_BR: np.stack(x_BR), *rows)

  def evaluate(self) -> dict[int, dict[str, float]]:
    """What `train.evaluate.evaluate` tells, of each run, by its slot."""
    splits = validation_splits(self._setup, self._stores)
    sums = []
    for split in splits:
      total = LossSums(*(jnp.zeros(self._runs.size),) * 3)
      for rows_BR in split.batches:
        found = self._runs.evaluate(rows_BR)
        total = jax.tree.map(jnp.add, total, found)
      sums.append(jax.tree.map(np.asarray, total))
    return {
      slot: figures(
        splits,
        [float(s.cross_entropy[slot]) for s in sums],
        [float(s.tokens[slot]) for s in sums],
      )
      for slot in self.live
    }

  def cool_down(self, slot: int, begin: int) -> None:
    """Lets the learning rate of a run fall from a step on."""
    self._runs.cool_down(slot, begin)

  def save(self, slot: int) -> None:
    """Saves the state of a run."""
    self.live[slot].save(self._runs.state(slot))

  def close(self, slot: int) -> None:
    """Frees a slot; what was saved of its run is on the disk then."""
    self.live.pop(slot).close()


def _no_rows(setup: Setup, stores: 'Stores', augmented: bool) -> Any:
  """A batch of padding only."""
  rows, size = stores.first.rows('train'), setup.config.batch_size
  pad = stores.first.manifest.tokenizer.pad_id
  if not augmented:
    return np.full((size, rows.row_length), pad, rows.dtype)
  tokens = np.full((size, rows.row_length - 1), pad, rows.dtype)
  flags = np.zeros(tokens.shape, np.uint8)
  return {'inputs': tokens, 'targets': tokens, 'flags': flags}
