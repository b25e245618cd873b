"""A trial that takes all devices: one run at a time, split over the mesh.

It is what a population is to trials that fit on a device, for those that do
not, and for processes that train together.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from train.config import TrainConfig
from train.data import train_batches
from train.distributed import check_same_program
from train.rows import Batch, Marks
from train.scalars import Scalars, bind, scalars_of
from train.setup import Rows, Setup, abstract_batch
from train.state import TrainState, abstract_state, cooled_down
from train.step import (
  LossSums,
  compile_lowered,
  eval_step,
  lower,
  train_step,
)
from train.tuning.slots import Slots

if TYPE_CHECKING:
  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.stores import Stores
  from input_pipeline.stream import Stream


class MeshRun:
  """The state of a run on a mesh, with the methods of a `Population` of one.

  Args:
    setup: of any of the runs.
    marks: ids of the special tokens.
    scalars: of any of the runs.
  """

  size = 1

  def __init__(
    self, setup: Setup, marks: Marks, scalars: Mapping[str, np.ndarray]
  ):
    self._setup, self._scalars = setup, dict(scalars)
    self._state: TrainState | None = None
    self._told: dict[str, jax.Array] = {}
    recipe, shardings = setup.recipe, setup.shardings
    everywhere = NamedSharding(setup.mesh, PartitionSpec())

    def init(scalars: Scalars) -> TrainState:
      return bind(recipe, scalars).init()

    def step(state: TrainState, batch: Batch, scalars: Scalars) -> Any:
      state, metrics = train_step(
        state, batch, recipe=bind(recipe, scalars), marks=marks
      )
      return state, _of_one_slot(metrics)

    def evaluate(params: Any, batch: Batch) -> LossSums:
      return _of_one_slot(eval_step(params, batch, recipe=recipe, marks=marks))

    self._init = jax.jit(init, out_shardings=shardings)
    self._jitted_step = jax.jit(
      step,
      in_shardings=(shardings, setup.batch_sharding, everywhere),
      out_shardings=(shardings, everywhere),
      donate_argnums=0,
    )
    self._jitted_evaluate = jax.jit(
      evaluate,
      in_shardings=(shardings.eval_params, setup.evaluation_sharding),
      out_shardings=everywhere,
    )

  def compile(self, rows: Rows, *, augmented: bool) -> dict[str, int]:
    """Compiles the steps; returns what `Population.compile` does.

    Args:
      rows: of a split; only their length and dtype matter.
      augmented: whether training batches are (train/rows.py).
    """
    setup, state = self._setup, self.abstract_state()
    config = setup.config
    self._step = self._compiled(
      self._jitted_step,
      state,
      abstract_batch(rows, config.batch_size, setup.batch_sharding, augmented),
      self._scalars,
    )
    self._evaluate = self._compiled(
      self._jitted_evaluate,
      state.eval_params,
      abstract_batch(
        rows, config.evaluation_batch_size, setup.evaluation_sharding, False
      ),
    )
    held = self._step.memory_analysis()
    return {
      'arguments': held.argument_size_in_bytes,
      'temporaries': held.temp_size_in_bytes,
    }

  def _compiled(self, jitted: Any, *arguments: Any) -> Any:
    mesh = self._setup.mesh
    with jax.set_mesh(mesh):
      traced = jitted.trace(*arguments)
    lowered = lower(traced, mesh)
    check_same_program(lowered)
    return compile_lowered(lowered, mesh)

  def fill(
    self,
    slot: int,
    scalars: Mapping[str, np.ndarray],
    state: TrainState | None = None,
  ) -> None:
    """Gives the mesh to a run, which goes on from a state, or begins."""
    # There is room for one state.
    self._state, self._scalars = None, dict(scalars)
    self._state = self._init(self._scalars) if state is None else state

  def cool_down(self, slot: int, begin: int) -> None:
    """Lets the learning rate of the run fall from a step on."""
    self._state = cooled_down(self.state(slot), begin)

  def step(self, batch: Batch) -> dict[str, jax.Array]:
    """Makes a step, and returns its metrics, [1] each."""
    before = self._told
    self._state, self._told = self._step(self._state, batch, self._scalars)
    # Many steps on their way block each other on CPUs.
    jax.block_until_ready(before)
    return self._told

  def evaluate(self, rows_BR: Any) -> LossSums:
    """Sums of the loss over some rows, [1] each."""
    return self._evaluate(self.state(0).eval_params, rows_BR)

  def state(self, slot: int) -> TrainState:
    """The state of the run, until the next step."""
    assert self._state is not None
    return self._state

  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the state of a run."""
    return abstract_state(self._setup.recipe, self._setup.shardings)


def _of_one_slot(tree: Any) -> Any:
  return jax.tree.map(lambda x: x[None], tree)


class MeshSlots(Slots):
  """A single slot, which takes all devices of a mesh.

  Args:
    setup: of any of the runs.
    stores: the data.
    augmentation: how the rows change.
  """

  def __init__(
    self,
    setup: Setup,
    stores: 'Stores',
    augmentation: 'AugmentationConfig',
  ):
    devices = setup.mesh.devices.flatten().tolist()
    super().__init__(setup, stores, augmentation, size=1, devices=devices)

  def _compiled(
    self, marks: Marks, size: int, devices: Sequence[Any]
  ) -> tuple[MeshRun, dict[str, int]]:
    run = MeshRun(self._setup, marks, scalars_of(self._setup.config))
    rows = self._stores.first.rows('train')
    augmented = bool(self._augmentation.active)
    return run, run.compile(rows, augmented=augmented)

  def _batches(
    self, config: TrainConfig, stream: 'Stream', step: int
  ) -> Iterator[Any]:
    return train_batches(
      dataclasses.replace(self._setup, config=config),
      self._augmentation,
      self._stores.first,
      stream,
      step,
    )

  def _together(self, batches: dict[int, Any], size: int) -> Any:
    return batches[0]
