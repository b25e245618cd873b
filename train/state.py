"""The training state: what a step reads and returns, and a checkpoint holds."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from model.params import HOST_MEMORY, Params, abstract, metadata, split
from model.transformer import Transformer
from train.bad_steps import History, new_history
from train.config import TrainConfig
from train.early_stopping import may_cool_down
from train.mesh import parameter_shardings, shardings_like, split_further
from train.optimizer import make_optimizer
from train.parametrization import parametrization_of, scale_initial
from train.schedule import make_schedule, planned_decay

# Streams of random numbers, told apart by folding these into the run's key.
_INIT, _DROPOUT = 0, 1


@struct.dataclass
class TrainState:
  """Everything that changes from step to step."""

  # Steps made so far, bad ones included.
  step: jax.Array
  params: Params
  opt_state: optax.OptState
  # Moving average of params; None where it is off.
  ema: Params | None
  # Numbers of the last good steps, which a new one is compared with.
  history: History
  # Step at which the learning rate begins to fall, where a plateau may decide
  # about that; None: the schedule knows.
  decay_begin: jax.Array | None = None

  @property
  def eval_params(self) -> Params:
    """The parameters to evaluate and sample with."""
    return self.params if self.ema is None else self.ema


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a run's state is made and updated: static, and without arrays.

  Attributes:
    config: the run.
    graphdef: structure of the model.
    schedule: learning rate of each step.
    optimizer: gradients to updates.
    axes, kinds: of each parameter, as declared.
  """

  config: TrainConfig
  graphdef: nnx.GraphDef
  schedule: optax.Schedule
  optimizer: optax.GradientTransformation
  axes: Params
  kinds: Params

  def init(self) -> TrainState:
    """The state of step 0."""
    params = scale_initial(
      parametrization_of(self.config.model),
      split(build_model(self.config))[1],
      self.kinds,
      self.axes,
    )
    averaged = self.config.optimizer.ema_decay is not None
    decay_begin = None
    if may_cool_down(self.config):
      begin = planned_decay(self.config.optimizer)
      decay_begin = jnp.asarray(begin, jnp.int32)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=self.optimizer.init(params),
      ema=params if averaged else None,
      history=new_history(),
      decay_begin=decay_begin,
    )


def build_model(config: TrainConfig) -> Transformer:
  """The model of a run, with the initial weights of 'standard'."""
  return Transformer(random_key(config.seed, _INIT), config.model)


def make_recipe(config: TrainConfig) -> Recipe:
  """Describes the state of a run without making any array."""
  build = functools.partial(build_model, config)
  graphdef, _ = abstract(build)
  axes, kinds = metadata(build, 'axes'), metadata(build, 'kind')
  return _recipe(config, graphdef, axes, kinds)


def with_numbers(recipe: Recipe, config: TrainConfig) -> Recipe:
  """The recipe of a run that differs in numbers only, which may be arrays."""
  return _recipe(config, recipe.graphdef, recipe.axes, recipe.kinds)


def with_decay(recipe: Recipe, begin: jax.Array | None) -> Recipe:
  """The recipe whose learning rate falls from a step on; None: as planned."""
  if begin is None:
    return recipe
  return _recipe(
    recipe.config, recipe.graphdef, recipe.axes, recipe.kinds, begin
  )


def _recipe(config, graphdef, axes, kinds, decay_begin=None) -> Recipe:
  schedule = make_schedule(config.optimizer, decay_begin)
  optimizer = make_optimizer(
    config.optimizer, parametrization_of(config.model), schedule, kinds, axes
  )
  return Recipe(config, graphdef, schedule, optimizer, axes, kinds)


def random_key(seed: int, stream: int) -> jax.Array:
  """The key of one stream of random numbers of a run."""
  return jax.random.fold_in(jax.random.key(seed), stream)


def dropout_key(seed: int, step: jax.Array) -> jax.Array:
  """The dropout key of a step: a function of seed and step, nothing else."""
  return jax.random.fold_in(random_key(seed, _DROPOUT), step)


def state_shardings(recipe: Recipe, mesh: Mesh | AbstractMesh) -> Any:
  """Where each array of the state lies: a TrainState of NamedShardings.

  What is offloaded lies in the host's memory. Counters and what else is not
  shaped like a parameter stay on the devices.
  """
  config = recipe.config
  state = jax.eval_shape(recipe.init)
  params = parameter_shardings(
    mesh, recipe.axes, state.params, config.mesh.rules
  )
  shares = jax.tree.map(
    lambda leaf, sharding: split_further(
      leaf.shape, sharding, config.optimizer.shard_axes
    ),
    state.params,
    params,
  )
  if config.offload_parameters:
    params = _in_host_memory(params)
  if config.offload_optimizer:
    shares = _in_host_memory(shares)
  everywhere = NamedSharding(mesh, PartitionSpec())
  return dataclasses.replace(
    state,
    step=everywhere,
    history=jax.tree.map(lambda _: everywhere, state.history),
    decay_begin=None if state.decay_begin is None else everywhere,
    params=params,
    opt_state=shardings_like(state.opt_state, state.params, shares, mesh),
    ema=None if state.ema is None else shares,
  )


def _in_host_memory(shardings: Params) -> Params:
  return jax.tree.map(lambda s: s.with_memory_kind(HOST_MEMORY), shardings)


def abstract_state(recipe: Recipe, shardings: TrainState) -> TrainState:
  """Shapes, dtypes and shardings of the state: what a restore needs."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    jax.eval_shape(recipe.init),
    shardings,
  )


def init_state(recipe: Recipe, shardings: TrainState) -> TrainState:
  """Makes the state of step 0, each device its own part of it."""
  return jax.jit(recipe.init, out_shardings=shardings)()


def cooled_down(state: TrainState, begin: int | None) -> TrainState:
  """The state whose learning rate falls from a step on; None: as it is."""
  if begin is None:
    return state
  assert state.decay_begin is not None
  where = state.decay_begin.sharding
  return dataclasses.replace(
    state, decay_begin=jax.device_put(np.int32(begin), where)
  )
