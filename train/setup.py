"""All that a run needs beside its data and its weights, checked."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from model.attention_kernels import resolve_attention
from model.config import ModelConfig
from model.grouped_kernels import resolve_grouped
from model.params import HOST_MEMORY, Params
from train.config import TrainConfig
from train.mesh import batch_sharding, check_length, make_mesh
from train.rows import Marks
from train.state import (
  Recipe,
  TrainState,
  make_recipe,
  state_shardings,
)
from train.step import (
  compile_step,
  jit_eval_step,
  jit_train_step,
)

if TYPE_CHECKING:
  from input_pipeline.store_manifest import Manifest

# Fewer than one in five ticks of a pipeline is idle then.
_MICROBATCHES_PER_STAGE = 4


class Rows(Protocol):
  """What a step needs to know of the rows that it is compiled for."""

  @property
  def row_length(self) -> int:
    """Tokens of a row."""

  @property
  def dtype(self) -> Any:
    """Type of a token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """A run's static description: what is computed, and where it lies."""

  config: TrainConfig
  # What computes attention, and why it is not a fused kernel.
  attention: str
  recipe: Recipe
  mesh: Mesh
  shardings: TrainState
  batch_sharding: NamedSharding
  evaluation_sharding: NamedSharding


def make_setup(
  config: TrainConfig, devices: Sequence[Any] | None = None
) -> Setup:
  """Lays a model and its batches out on the devices.

  Args:
    config: the run.
    devices: those to use, attached or of a topology to plan for; None: all.

  Raises:
    ValueError: the batch, its rows or a parameter do not fit the mesh, the
      kernel of attention does not support the model, or the devices have no
      memory of the host; the message names the field to change.
  """
  mesh, rules = make_mesh(config.mesh, devices), config.mesh.rules
  check_offload(config, mesh)
  check_length(mesh, rules, config.sequence_length)
  config, attention = with_kernels(config, mesh)
  config = with_microbatches(config, mesh)
  slices = config.accumulation_steps
  # The devices split one slice of the batch; the whole batch then fits too.
  batch_sharding(
    mesh,
    rules,
    batch_size=config.batch_size // slices,
    field='batch_size' if slices == 1 else 'batch_size / accumulation_steps',
  )
  recipe = make_recipe(config)
  return Setup(
    config=config,
    attention=attention,
    recipe=recipe,
    mesh=mesh,
    shardings=state_shardings(recipe, mesh),
    batch_sharding=batch_sharding(
      mesh, rules, batch_size=config.batch_size, field='batch_size'
    ),
    evaluation_sharding=batch_sharding(
      mesh,
      rules,
      batch_size=config.evaluation_batch_size,
      field='evaluation.batch_size',
    ),
  )


def check_offload(config: TrainConfig, mesh: Mesh) -> None:
  """Refuses devices that cannot reach what is to lie in the host's memory.

  Raises:
    ValueError: they have no memory of that kind.
  """
  wanted = {
    'parameters': config.offload_parameters,
    'optimizer': config.offload_optimizer,
    'activations': config.model.offload_activations,
  }
  device = mesh.devices.flat[0]
  kinds = [memory.kind for memory in device.addressable_memories()]
  for name, value in wanted.items():
    if value and HOST_MEMORY not in kinds:
      raise ValueError(
        f'offload.{name} is {value}, and {device.device_kind} devices have no '
        f'memory of the kind {HOST_MEMORY!r}, only {kinds}: set it to '
        f'{type(value)()}.'
      )


def with_kernels(config: TrainConfig, mesh: Mesh) -> tuple[TrainConfig, str]:
  """Decides what computes attention and experts on the devices of a mesh.

  They need not be devices of this machine: planning compiles for others.

  Returns:
    The configuration that says so, and what computes attention in words.

  Raises:
    ValueError: it does not support what the configuration asks for.
  """
  model, attention = resolve_attention(
    config.model,
    platform=mesh.devices.flat[0].platform,
    mesh_shape=mesh.shape,
  )
  model = resolve_grouped(
    model,
    device_kind=mesh.devices.flat[0].device_kind,
    mesh_shape=mesh.shape,
  )
  return dataclasses.replace(config, model=model), attention


def with_microbatches(
  config: TrainConfig, mesh: Mesh | AbstractMesh
) -> TrainConfig:
  """Decides into how many microbatches rows are cut for pipeline stages.

  Raises:
    ValueError: stages do not divide them, or a batch cannot be cut evenly.
  """
  rules = dict(config.mesh.rules)
  stages, parts = (
    math.prod(mesh.shape[name] for name in rules[axis])
    for axis in ('layers', 'batch')
  )
  microbatches = config.model.microbatches
  if microbatches is None:
    microbatches = 1 if stages == 1 else _MICROBATCHES_PER_STAGE * stages
  if microbatches % stages:
    raise ValueError(
      f'microbatches = {microbatches} is no multiple of the {stages} stages '
      f'({microbatches} = {microbatches // stages} x {stages} + '
      f'{microbatches % stages}). Change microbatches or mesh.stage.'
    )
  for field, rows in (
    ('batch_size / accumulation_steps',
     config.batch_size // config.accumulation_steps),
    ('evaluation.batch_size', config.evaluation_batch_size),
  ):  # fmt: skip
    unit = microbatches * parts
    if microbatches > 1 and rows % unit:
      raise ValueError(
        f'{field} = {rows} rows cannot be cut into microbatches = '
        f'{microbatches} over {parts} device(s) ({rows} = {rows // unit} x '
        f'{microbatches} x {parts} + {rows % unit}). Change the batch, '
        'microbatches or the mesh.'
      )
  model = dataclasses.replace(config.model, microbatches=microbatches)
  return dataclasses.replace(config, model=model)


def data_marks(config: ModelConfig, manifest: 'Manifest') -> Marks:
  """The special tokens of prepared data that fits the model.

  Raises:
    ValueError: the model has no row for some of the data's tokens.
  """
  tokenizer = manifest.tokenizer
  if config.vocab_size < tokenizer.vocab_size:
    raise ValueError(
      f'model.vocab_size = {config.vocab_size} is smaller than the '
      f"tokenizer's vocabulary of {tokenizer.vocab_size}. Set "
      f'model.vocab_size to {-(-tokenizer.vocab_size // 128) * 128}.'
    )
  return Marks(
    pad_id=tokenizer.pad_id,
    bos_id=tokenizer.bos_id,
    continue_id=tokenizer.continue_id,
  )


def trace_train_step(
  setup: Setup,
  marks: Marks,
  state: TrainState,
  rows: Rows,
  *,
  augmented: bool = False,
) -> Any:
  """Traces the training step for batches of these rows.

  Args:
    setup: the run.
    marks: ids of the special tokens.
    state: the state, or its shapes and shardings.
    rows: of the training split; only their length and dtype matter.
    augmented: whether the batches are (train/rows.py).
  """
  sharding = setup.batch_sharding
  jitted = jit_train_step(setup.recipe, marks, setup.shardings, sharding)
  batch = abstract_batch(rows, setup.config.batch_size, sharding, augmented)
  with jax.set_mesh(setup.mesh):
    return jitted.trace(state, batch)


def compile_eval_step(
  setup: Setup, marks: Marks, params: Params, rows: Rows
) -> Any:
  """Compiles the evaluation step for batches of these rows.

  Args:
    setup: the run.
    marks: ids of the special tokens.
    params: the parameters, or their shapes and shardings.
    rows: of a split; only their length and dtype matter.
  """
  sharding = setup.evaluation_sharding
  return compile_step(
    jit_eval_step(setup.recipe, marks, setup.shardings, sharding),
    setup.mesh,
    params,
    abstract_batch(rows, setup.config.evaluation_batch_size, sharding, False),
  )


def abstract_batch(
  rows: Rows, size: int, sharding: NamedSharding, augmented: bool
) -> Any:
  """What stands for a `train.rows.Batch`: shapes, types and sharding.

  Args:
    rows: only their length and dtype matter.
    size: rows of the batch.
    sharding: of them.
    augmented: whether it is a batch of augmented rows.
  """

  def array(length: int, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, length), dtype, sharding=sharding)

  if not augmented:
    return array(rows.row_length, rows.dtype)
  return {
    'inputs': array(rows.row_length - 1, rows.dtype),
    'targets': array(rows.row_length - 1, rows.dtype),
    'flags': array(rows.row_length - 1, jnp.uint8),
  }
