"""The training and evaluation steps: pure functions of state and batch.

Suffixes: B batch, R tokens of a stored row.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from model.axes import constrain
from model.loss import cross_entropy
from model.params import Params, merge
from train.compiler_options import compiler_options, refused_option
from train.rows import Batch, Marks, unpack_rows
from train.state import Recipe, TrainState, dropout_key


@struct.dataclass
class LossSums:
  """Sums over tokens; divided by `tokens` they are means."""

  cross_entropy: jax.Array
  squared_normaliser: jax.Array
  tokens: jax.Array


def loss_fn(
  params: Params,
  batch: Batch,
  key: jax.Array | None,
  *,
  recipe: Recipe,
  marks: Marks,
) -> tuple[jax.Array, LossSums]:
  """Sum of the loss over the valid tokens of some rows.

  Args:
    params: parameters.
    batch: rows of packed documents, plain or augmented.
    key: dropout key; None switches dropout off.
    recipe: the run.
    marks: ids of the special tokens.

  Returns:
    The sum to minimise, and its parts.
  """
  config = recipe.config
  inputs = unpack_rows(
    batch, marks=marks, isolate_documents=config.isolate_documents
  )
  model = merge(recipe.graphdef, params)
  x_BTD, _ = model(
    inputs.tokens_BT,
    inputs.segments_BT,
    inputs.positions_BT,
    visible_BT=inputs.visible_BT,
    dropout_key=key if config.model.dropout else None,
  )
  total, nll, squared = cross_entropy(
    x_BTD,
    model.head_VD(),
    inputs.targets_BT,
    inputs.weights_BT,
    config.loss.z_loss,
    config.model.logits_softcap,
    config.loss.chunk,
    config.model.compute_dtype,
  )
  return total, LossSums(nll, squared, inputs.weights_BT.sum())


def gradients(
  params: Params,
  batch: Batch,
  key: jax.Array,
  *,
  recipe: Recipe,
  marks: Marks,
) -> tuple[Params, LossSums]:
  """Gradients of the mean loss over all valid tokens of the batch.

  With accumulation, slices of the batch are computed one after the other. The
  sum over all of them is divided once by the tokens of all of them, so that a
  slice with few tokens weighs no more than its tokens.
  """
  config = recipe.config
  differentiate = jax.grad(
    functools.partial(loss_fn, recipe=recipe, marks=marks), has_aux=True
  )
  slices = config.accumulation_steps
  if slices == 1:
    grads, sums = differentiate(params, batch, key)
  else:
    # Slice a takes rows a, a + A, ...: each device slices its own rows.
    batches = jax.tree.map(
      lambda rows: jnp.moveaxis(rows.reshape(-1, slices, rows.shape[1]), 1, 0),
      batch,
    )

    def add(total, xs):
      batch, index = xs
      batch = jax.tree.map(
        lambda rows: constrain(rows, ('batch', None), config.mesh.rules), batch
      )
      part = differentiate(params, batch, jax.random.fold_in(key, index))
      return jax.tree.map(jnp.add, total, part), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    start = (zeros, LossSums(*(jnp.zeros(()),) * 3))
    (grads, sums), _ = jax.lax.scan(add, start, (batches, jnp.arange(slices)))
  scale = 1 / jnp.maximum(sums.tokens, 1)
  return jax.tree.map(lambda g: g * scale, grads), sums


def train_step(
  state: TrainState, batch: Batch, *, recipe: Recipe, marks: Marks
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update of the weights.

  If the loss or a gradient is not finite, the state is returned as it came and
  the metric `finite` is false.

  Args:
    state: the state; its buffers are given up where the step is jitted.
    batch: rows of packed documents, plain or augmented.
    recipe: the run.
    marks: ids of the special tokens.

  Returns:
    The next state, and scalars: loss (mean cross-entropy in nats a token),
    z_loss (its weighted part), grad_norm (before clipping), param_norm,
    learning_rate, tokens (valid ones in the batch), finite.
  """
  config = recipe.config
  grads, sums = gradients(
    state.params,
    batch,
    dropout_key(config.seed, state.step),
    recipe=recipe,
    marks=marks,
  )
  updates, opt_state = recipe.optimizer.update(
    grads, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  decay = config.optimizer.ema_decay
  ema = None
  if decay is not None:
    ema = optax.incremental_update(params, state.ema, 1 - decay)
  tokens = jnp.maximum(sums.tokens, 1)
  metrics = {
    'loss': sums.cross_entropy / tokens,
    'z_loss': config.loss.z_loss * sums.squared_normaliser / tokens,
    'grad_norm': optax.tree.norm(grads),
    'param_norm': optax.tree.norm(params),
    'learning_rate': recipe.schedule(state.step),
    'tokens': sums.tokens,
  }
  finite = jnp.isfinite(metrics['loss']) & jnp.isfinite(metrics['grad_norm'])
  updated = TrainState(state.step + 1, params, opt_state, ema)
  state = jax.tree.map(
    lambda new, old: jnp.where(finite, new, old), updated, state
  )
  return state, metrics | {'finite': finite}


def eval_step(
  params: Params, batch: Batch, *, recipe: Recipe, marks: Marks
) -> LossSums:
  """Sums of the loss over some rows, without dropout."""
  return loss_fn(params, batch, None, recipe=recipe, marks=marks)[1]


def jit_train_step(
  recipe: Recipe,
  marks: Marks,
  shardings: TrainState,
  batch_sharding: NamedSharding,
) -> Any:
  """The one place where the training step is jitted.

  State and batch come and go with explicit shardings; the state's buffers are
  donated, so that only one copy of it lives on the devices.
  """
  replicated = NamedSharding(batch_sharding.mesh, PartitionSpec())
  return jax.jit(
    functools.partial(train_step, recipe=recipe, marks=marks),
    in_shardings=(shardings, batch_sharding),
    out_shardings=(shardings, replicated),
    donate_argnums=0,
  )


def jit_eval_step(
  recipe: Recipe,
  marks: Marks,
  shardings: TrainState,
  batch_sharding: NamedSharding,
) -> Any:
  """The one place where the evaluation step is jitted."""
  replicated = NamedSharding(batch_sharding.mesh, PartitionSpec())
  return jax.jit(
    functools.partial(eval_step, recipe=recipe, marks=marks),
    in_shardings=(shardings.params, batch_sharding),
    out_shardings=replicated,
  )


def compile_step(jitted: Any, mesh: Mesh, *arguments: Any) -> Any:
  """Compiles a jitted step for the shapes and shardings of its arguments."""
  with jax.set_mesh(mesh):
    traced = jitted.trace(*arguments)
  return compile_lowered(lower(traced, mesh), mesh)


def lower(traced: Any, mesh: Mesh) -> Any:
  """The program that the compiler is given; kernels ask the mesh for chips."""
  with jax.set_mesh(mesh):
    return traced.lower()


def compile_lowered(lowered: Any, mesh: Mesh) -> Any:
  """Compiles a lowered step with the options of the mesh's chips.

  Raises:
    CompilerOptionError: the installed compiler refuses one of them.
  """
  kind = mesh.devices.flat[0].device_kind
  options = compiler_options(kind)
  try:
    with jax.set_mesh(mesh):
      return lowered.compile(compiler_options=options or None)
  except jax.errors.JaxRuntimeError as error:
    refused = refused_option(error, options, kind)
    if refused is None:
      raise
    raise refused from error
