"""The training and evaluation steps: pure functions of state and batch.

Suffixes: B batch, R tokens of a stored row.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from model.axes import constrain
from model.context import reorder
from model.layers import RowKeys
from model.loss import cross_entropy
from model.moe import rebalance
from model.params import Params, merge, on_device, where_it_lay
from model.pipeline import outside
from train.bad_steps import judge, remember
from train.compiler_options import compiler_options, refused_option
from train.rows import Batch, Marks, unpack_rows
from train.state import Recipe, TrainState, dropout_key, with_decay


@struct.dataclass
class LossSums:
  """Sums over tokens; divided by `tokens` they are means."""

  cross_entropy: jax.Array
  squared_normaliser: jax.Array
  tokens: jax.Array
  router: 'RouterSums | None' = None


@struct.dataclass
class RouterSums:
  """Of experts; the losses are means over layers, times the valid tokens."""

  load_LE: jax.Array
  balance: jax.Array
  squared_normaliser: jax.Array


def loss_fn(
  params: Params,
  batch: Batch,
  keys: RowKeys | None,
  *,
  recipe: Recipe,
  marks: Marks,
) -> tuple[jax.Array, LossSums]:
  """Sum of the loss over the valid tokens of some rows.

  Args:
    params: parameters.
    batch: rows of packed documents, plain or augmented.
    keys: of the dropout of the rows; None switches it off.
    recipe: the run.
    marks: ids of the special tokens.

  Returns:
    The sum to minimise, and its parts.
  """
  config = recipe.config
  inputs = unpack_rows(
    batch, marks=marks, isolate_documents=config.isolate_documents
  )
  if not config.model.visible_prefixes:
    inputs = dataclasses.replace(inputs, visible_BT=None)
  # Tokens, targets and weights move together: the sums stay what they are.
  order = config.model.row_order
  inputs = jax.tree.map(lambda x_BT: reorder(x_BT, order), inputs)
  model = _module(recipe, params)
  x_BTD, _, routing = model(
    inputs.tokens_BT,
    inputs.segments_BT,
    inputs.positions_BT,
    visible_BT=inputs.visible_BT,
    dropout_keys=keys,
  )
  total, nll, squared = cross_entropy(
    x_BTD,
    model.head_VD(),
    inputs.targets_BT,
    inputs.weights_BT,
    z_loss=config.loss.z_loss,
    softcap=config.model.logits_softcap,
    chunk=config.loss.chunk,
    compute_dtype=config.model.compute_dtype,
    rules=outside(config.mesh.rules),
  )
  tokens = inputs.weights_BT.sum()
  if routing is None:
    return total, LossSums(nll, squared, tokens)
  router = RouterSums(
    load_LE=routing.load,
    balance=routing.balance.mean() * tokens,
    squared_normaliser=routing.squared_normaliser.mean() * tokens,
  )
  moe = config.model.moe
  total += moe.balance_loss * router.balance
  total += moe.router_z_loss * router.squared_normaliser
  return total, LossSums(nll, squared, tokens, router)


def _module(recipe: Recipe, params: Params) -> Any:
  """The model on the devices; its layers come there one by one."""
  others = {k: on_device(v) for k, v in params.items() if k != 'blocks'}
  return merge(recipe.graphdef, params | others)


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
  slice with few tokens weighs no more than its tokens. A row has the dropout
  masks that it would have without slices.
  """
  config = recipe.config
  differentiate = jax.grad(
    functools.partial(loss_fn, recipe=recipe, marks=marks), has_aux=True
  )
  slices, rates = config.accumulation_steps, config.model.dropout_rates
  numbers_B = jnp.arange(len(jax.tree.leaves(batch)[0]))

  def keys_of(numbers_B: jax.Array) -> RowKeys | None:
    return RowKeys(key, numbers_B, rates) if rates else None

  if slices == 1:
    grads, sums = differentiate(params, batch, keys_of(numbers_B))
  else:
    # Slice a takes rows a, a + A, ...: each device slices its own rows.
    rows_A = jax.tree.map(
      lambda x: jnp.moveaxis(x.reshape(-1, slices, *x.shape[1:]), 1, 0),
      (batch, numbers_B),
    )

    def part(rows):
      axes = ('batch', None)
      batch, numbers_B = jax.tree.map(
        lambda x: constrain(x, axes[: x.ndim], config.mesh.rules), rows
      )
      return on_device(differentiate(params, batch, keys_of(numbers_B)))

    def add(total, rows):
      return jax.tree.map(jnp.add, total, part(rows)), None

    start = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(part, jax.tree.map(lambda x: x[0], rows_A)),
    )
    (grads, sums), _ = jax.lax.scan(add, start, rows_A)
  scale = 1 / jnp.maximum(sums.tokens, 1)
  return jax.tree.map(lambda g: g * scale, on_device(grads)), sums


def train_step(
  state: TrainState, batch: Batch, *, recipe: Recipe, marks: Marks
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update of the weights.

  Where the numbers of the step are bad (train/bad_steps.py), parameters,
  moments and average stay as they came: the step and its batch are lost, and no
  more.

  Args:
    state: the state; its buffers are given up where the step is jitted.
    batch: rows of packed documents, plain or augmented.
    recipe: the run.
    marks: ids of the special tokens.

  Returns:
    The next state, and scalars: loss (mean cross-entropy in nats a token),
    z_loss (its weighted part), grad_norm (before clipping), param_norm,
    learning_rate, tokens (valid ones in the batch), bad, bad_in_row,
    spike_score; with experts also balance_loss, router_z_loss (both
    unweighted), expert_load_max and expert_load_min (of any layer's experts, by
    the mean load).
  """
  recipe = with_decay(recipe, state.decay_begin)
  config = recipe.config
  grads, sums = gradients(
    state.params,
    batch,
    dropout_key(config.seed, state.step),
    recipe=recipe,
    marks=marks,
  )
  old = on_device(state)
  updates, opt_state = recipe.optimizer.update(grads, old.opt_state, old.params)
  params = optax.apply_updates(old.params, updates)
  if config.model.moe.balance_rate and sums.router is not None:
    params = rebalance(
      params, sums.router.load_LE, config.model.moe.balance_rate
    )
  decay = config.optimizer.ema_decay
  ema = None
  if decay is not None:
    ema = optax.incremental_update(params, old.ema, 1 - decay)
  tokens = jnp.maximum(sums.tokens, 1)
  metrics = {
    'loss': sums.cross_entropy / tokens,
    'z_loss': config.loss.z_loss * sums.squared_normaliser / tokens,
    'grad_norm': optax.tree.norm(grads),
    'param_norm': optax.tree.norm(params),
    'learning_rate': recipe.schedule(state.step),
    'tokens': sums.tokens,
  }
  if sums.router is not None:
    metrics |= _router_metrics(sums.router, tokens)
  updated = old.replace(params=params, opt_state=opt_state, ema=ema)
  state_after, told = _unless_bad(
    old, updated, metrics, limit=config.bad_steps.limit
  )
  return where_it_lay(state_after, state), metrics | told


def _unless_bad(
  old: Any,
  updated: Any,
  metrics: dict[str, jax.Array],
  *,
  limit: float | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """The state after a step: with its update, unless its numbers are bad."""
  loss, grad_norm = metrics['loss'], metrics['grad_norm']
  verdict = judge(old.history, loss, grad_norm, limit=limit)
  history = remember(old.history, loss, grad_norm, verdict.bad)
  # The learning rate's count, the last of the chain, goes on with the steps.
  skipped = old.replace(opt_state=(*old.opt_state[:-1], updated.opt_state[-1]))
  state = jax.tree.map(
    lambda new, old: jnp.where(verdict.bad, old, new), updated, skipped
  )
  return state.replace(step=old.step + 1, history=history), {
    'bad': verdict.bad,
    'bad_in_row': history.bad_in_row,
    'spike_score': verdict.score,
  }


def _router_metrics(
  router: RouterSums, tokens: jax.Array
) -> dict[str, jax.Array]:
  load_LE = router.load_LE / jnp.maximum(
    router.load_LE.mean(-1, keepdims=True), 1
  )
  return {
    'balance_loss': router.balance / tokens,
    'router_z_loss': router.squared_normaliser / tokens,
    'expert_load_max': load_LE.max(),
    'expert_load_min': load_LE.min(),
  }


def eval_step(
  params: Params, batch: Batch, *, recipe: Recipe, marks: Marks
) -> LossSums:
  """Sums of the loss over some rows, without dropout."""
  sums = loss_fn(params, batch, None, recipe=recipe, marks=marks)[1]
  return dataclasses.replace(sums, router=None)


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
    in_shardings=(shardings.eval_params, batch_sharding),
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
