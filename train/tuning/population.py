"""Many runs side by side in one compiled program.

A population has slots with a run in each: its state, its numbers and its batch.
One program makes a step of all of them. Where a run ends, another takes its
slot, and nothing is compiled again: what differs between runs of a population
are inputs of the program (train/scalars.py). Over several devices each computes
some of the slots, and they send each other nothing.

Suffixes: K slots, B batch, R tokens of a row.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.rows import Batch, Marks
from train.scalars import Scalars, bind
from train.state import Recipe, TrainState
from train.step import LossSums, eval_step, train_step

AXIS = 'population'


class Population:
  """Runs that differ in numbers only, each in a slot.

  A slot that nobody has filled, or whose run has ended, computes on.

  Args:
    recipe: of any of the runs. No mesh splits them: a run has one device.
    marks: ids of the special tokens.
    scalars: of any of the runs.
    size: slots, a multiple of the devices.
    devices: those that share the slots.
  """

  def __init__(
    self,
    recipe: Recipe,
    marks: Marks,
    scalars: Mapping[str, np.ndarray],
    *,
    size: int,
    devices: Sequence[Any],
  ):
    assert size % len(devices) == 0
    mesh = Mesh(np.array(devices), (AXIS,))
    self.size = size
    self._slots = NamedSharding(mesh, PartitionSpec(AXIS))
    self._everywhere = NamedSharding(mesh, PartitionSpec())
    self._scalars_K = {
      field: np.full(size, value) for field, value in scalars.items()
    }
    self._jit(recipe, marks, options_for(devices[0]))
    self._state_K: TrainState | None = None
    self._step: Any = None
    self._evaluate: Any = None

  def _jit(self, recipe: Recipe, marks: Marks, options: Any) -> None:
    """The programs; none of them is compiled yet."""
    slots, everywhere = self._slots, self._everywhere

    def init(scalars: Scalars) -> TrainState:
      return bind(recipe, scalars).init()

    def empty() -> TrainState:
      return jax.tree.map(
        lambda leaf: jnp.zeros((self.size, *leaf.shape), leaf.dtype),
        self._shapes,
      )

    def step(state: TrainState, batch: Batch, scalars: Scalars) -> Any:
      return train_step(state, batch, recipe=bind(recipe, scalars), marks=marks)

    def put(state_K: TrainState, state: TrainState, slot: jax.Array) -> Any:
      return jax.tree.map(lambda x, y: x.at[slot].set(y), state_K, state)

    evaluate = functools.partial(eval_step, recipe=recipe, marks=marks)
    self._shapes = jax.eval_shape(
      init, {field: x_K[0] for field, x_K in self._scalars_K.items()}
    )
    self._empty = jax.jit(empty, out_shardings=slots)
    self._begin = jax.jit(
      lambda state_K, scalars, slot: put(state_K, init(scalars), slot),
      out_shardings=slots,
      donate_argnums=0,
    )
    self._jitted_step = jax.jit(
      jax.vmap(step),
      in_shardings=slots,
      out_shardings=slots,
      donate_argnums=0,
      compiler_options=options,
    )
    self._jitted_evaluate = jax.jit(
      jax.vmap(evaluate, in_axes=(0, None)),
      in_shardings=(slots, everywhere),
      out_shardings=slots,
      compiler_options=options,
    )
    self._put = jax.jit(put, out_shardings=slots, donate_argnums=0)
    self._take = jax.jit(
      lambda tree_K, slot: jax.tree.map(lambda x: x[slot], tree_K),
      out_shardings=everywhere,
    )

  def compile(self, batch_K: Any, rows_BR: Any) -> dict[str, int]:
    """Compiles the steps.

    Args:
      batch_K: shapes and types of a batch of every slot.
      rows_BR: of an evaluation's batch, which all slots share.

    Returns:
      Bytes of a device that a step needs: 'arguments' and 'temporaries'.
    """
    state_K = jax.eval_shape(self._empty)
    self._step = self._jitted_step.lower(
      state_K, batch_K, self._scalars_K
    ).compile()
    self._evaluate = self._jitted_evaluate.lower(
      state_K.eval_params, rows_BR
    ).compile()
    held = self._step.memory_analysis()
    return {
      'arguments': held.argument_size_in_bytes,
      'temporaries': held.temp_size_in_bytes,
    }

  def fill(
    self,
    slot: int,
    scalars: Mapping[str, np.ndarray],
    state: TrainState | None = None,
  ) -> None:
    """Gives a slot to a run.

    Args:
      slot: its number.
      scalars: of the run.
      state: to go on from; None: the run begins.
    """
    at = np.arange(self.size) == slot
    # New arrays: a step that is on its way may still read the old ones.
    self._scalars_K = {
      field: np.where(at, scalars[field], values_K)
      for field, values_K in self._scalars_K.items()
    }
    if self._state_K is None:
      self._state_K = self._empty()
    where = np.int32(slot)
    if state is None:
      self._state_K = self._begin(self._state_K, dict(scalars), where)
    else:
      state = jax.device_put(state, self._everywhere)
      self._state_K = self._put(self._state_K, state, where)

  def cool_down(self, slot: int, begin: int) -> None:
    """Lets the learning rate of a slot's run fall from a step on."""
    assert self._state_K is not None
    begin_K = np.array(self._state_K.decay_begin)
    begin_K[slot] = begin
    self._state_K = dataclasses.replace(
      self._state_K, decay_begin=self._on_devices(begin_K)
    )

  def step(self, batch_K: Any) -> dict[str, jax.Array]:
    """Makes a step of every slot, and returns the metrics of each, [K]."""
    self._state_K, metrics_K = self._step(
      self._state_K,
      self._on_devices(batch_K),
      self._on_devices(self._scalars_K),
    )
    return metrics_K

  def evaluate(self, rows_BR: Any) -> LossSums:
    """Sums of the loss of every slot over some rows, [K] each."""
    assert self._state_K is not None
    return self._evaluate(
      self._state_K.eval_params, jax.device_put(rows_BR, self._everywhere)
    )

  def state(self, slot: int) -> TrainState:
    """The state of a slot's run."""
    return self._take(self._state_K, np.int32(slot))

  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the state of a run."""
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=self._everywhere
      ),
      self._shapes,
    )

  def step_text(self) -> str:
    """The compiled step, as the compiler prints it."""
    return self._step.as_text()

  def _on_devices(self, tree_K: Any) -> Any:
    return jax.device_put(tree_K, self._slots)


def options_for(device: Any) -> dict[str, Any] | None:
  """Options to compile with, where the devices need some.

  jaxlib 0.10's fusions for CPUs compute wrong gradients of RMSNorm under vmap
  from 131,072 values on, and wrong means of large products; without them they
  are right. Later ones have none.
  """
  affected = metadata.version('jaxlib').startswith('0.10.')
  if device.platform != 'cpu' or not affected:
    return None
  return {'xla_cpu_experimental_ynn_fusion_type': ''}
