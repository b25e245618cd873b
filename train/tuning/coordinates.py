"""How activations of a model change in its first steps.

Suffixes: B batch, R tokens of a row, T position, D model width, V vocabulary,
L layers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import layers as nn
from model.attention_kernels import make_attend
from model.mask import Places
from model.params import Params, merge, split
from train.rows import Marks, unpack_rows
from train.scalars import bind
from train.setup import Setup
from train.state import Recipe
from train.step import train_step
from train.tuning.population import options_for

Activations = dict[str, jax.Array]
# Their names, in the order of a model.
NAMES = ('embedding', 'attention', 'mlp', 'residual', 'logits')


def activations(
  recipe: Recipe, params: Params, rows_BR: jax.Array, marks: Marks
) -> Activations:
  """What a model makes of rows on its way, layer after layer.

  Args:
    recipe: of a run without pipeline stages.
    params: of the model.
    rows_BR: rows of packed documents.
    marks: ids of the special tokens.

  Returns:
    'embedding', the input of the first layer; 'attention' and 'mlp', what the
    branches of all layers add to the residual stream, before they are divided
    by the depth multiplier; 'residual', the stream before the final norm, and
    'logits', before they are capped.
  """
  config = recipe.config.model
  inputs = unpack_rows(
    rows_BR, marks=marks, isolate_documents=recipe.config.isolate_documents
  )
  model = merge(recipe.graphdef, params)
  places = Places(inputs.segments_BT, inputs.positions_BT)
  attend = make_attend(config, places)
  angles = None
  x_BTD = model.embedding[...][inputs.tokens_BT]
  if config.positions == 'learned':
    x_BTD += model.positions[...][inputs.positions_BT]
  else:
    angles = nn.rotary_angles(
      inputs.positions_BT, config.head_dim, config.rope_theta
    )
  graphdef, stack = split(model.blocks)

  def layer(x_BTD, block_params):
    block = merge(graphdef, block_params)
    attention_BTD, _ = block.attention(
      block.attention_norm(x_BTD), attend, angles, None
    )
    x_BTD += attention_BTD / config.depth_multiplier
    h_BTD = block.mlp_norm(x_BTD)
    if config.moe.num_experts:
      mlp_BTD, _ = block.moe(h_BTD, inputs.segments_BT > 0)
    else:
      mlp_BTD = block.mlp(h_BTD, None)
    x_BTD += mlp_BTD / config.depth_multiplier
    return x_BTD, (attention_BTD, mlp_BTD)

  embedding_BTD = x_BTD
  x_BTD, (attention_LBTD, mlp_LBTD) = jax.lax.scan(layer, x_BTD, stack)
  y_BTD = model.final_norm(x_BTD) / config.width_multiplier
  return {
    'embedding': embedding_BTD,
    'attention': attention_LBTD,
    'mlp': mlp_LBTD,
    'residual': x_BTD,
    'logits': jnp.einsum('BTD,VD->BTV', y_BTD, model.head_VD()),
  }


def compiled_changes(
  setup: Setup, rows_BR: jax.Array, marks: Marks, *, steps: int, seeds: int
) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
  """Compiles what tells how much each kind of activation changes.

  Args:
    setup: a run on one device.
    rows_BR: the batch of every step, whose activations are compared.
    marks: ids of the special tokens.
    steps: to make.
    seeds: of initial values, how many at a time.

  Returns:
    A function of that many seeds: the mean square of the change with each of
    them, by the name of the activation.
  """

  def run(seed: jax.Array) -> dict[str, jax.Array]:
    recipe = bind(setup.recipe, {'seed': seed})

    def step(state, _):
      return train_step(state, rows_BR, recipe=recipe, marks=marks)[0], None

    first = recipe.init()
    last, _ = jax.lax.scan(step, first, None, steps)
    # In a loop: what is compiled once takes half the time.
    found = jax.lax.map(
      lambda params: activations(recipe, params, rows_BR, marks),
      jax.tree.map(lambda *pair: jnp.stack(pair), first.params, last.params),
    )
    return jax.tree.map(lambda x: jnp.mean(jnp.square(x[1] - x[0])), found)

  # One after the other: a batch of seeds would be another kind of program.
  mapped = jax.jit(functools.partial(jax.lax.map, run))
  options = _options(setup.mesh.devices.flat[0])
  abstract = jax.ShapeDtypeStruct((seeds,), jnp.uint32)
  compiled = mapped.lower(abstract).compile(compiler_options=options)

  def changes(numbers: Sequence[int]) -> dict[str, np.ndarray]:
    squares = compiled(jnp.array(numbers, jnp.uint32))
    return {name: np.asarray(squares[name], np.float64) for name in NAMES}

  return changes


def _options(device: Any) -> dict[str, Any]:
  options = options_for(device) or {}
  # Compiles twice as fast; there are only a few steps to run.
  fast = {'xla_backend_optimization_level': 0}
  return options | (fast if device.platform == 'cpu' else {})
