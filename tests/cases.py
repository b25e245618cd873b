"""Small configurations, rows and parameters for tests of model and step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs import base
from model.params import Params, abstract, merge, metadata
from model.transformer import Transformer
from train.bad_steps import new_history
from train.config import TrainConfig, train_config
from train.mesh import batch_sharding, make_mesh
from train.rows import Marks
from train.state import Recipe, TrainState, make_recipe, state_shardings
from train.step import jit_train_step

PAD, BOS, CONTINUE, EOS = 0, 1, 2, 3
FIRST_TEXT = 4
MARKS = Marks(pad_id=PAD, bos_id=BOS, continue_id=CONTINUE)

_TINY = {
  'steps': 20,
  'batch_size': 8,
  'sequence_length': 32,
  'model.vocab_size': 64,
  'model.embed_dim': 32,
  'model.num_layers': 2,
  'model.num_heads': 4,
  'model.num_kv_heads': 4,
  'model.mlp_dim': 64,
  'model.compute_dtype': 'float32',
  'model.attention': 'xla',
  'loss.chunk': 16,
  'optimizer.learning_rate': 0.01,
  'optimizer.warmup_steps': 2,
  'optimizer.schedule': 'constant',
  'mesh.data': 1,
}

# Architectures that between them use every field of `model`.
ARCHITECTURES: dict[str, dict[str, Any]] = {
  'rope-rms-swiglu': {},
  'learned-layer-bias-gelu': {
    'model.positions': 'learned',
    'model.norm': 'layer',
    'model.use_bias': True,
    'model.mlp': 'gelu',
  },
  'gqa-qk_norm-geglu': {
    'model.num_kv_heads': 2,
    'model.qk_norm': True,
    'model.mlp': 'geglu',
  },
  'mqa-window-untied': {
    'model.num_kv_heads': 1,
    'model.sliding_window': 5,
    'model.tie_embeddings': False,
  },
  'softcaps-wide_heads': {
    'model.attention_softcap': 1.5,
    'model.logits_softcap': 2.0,
    'model.head_dim': 16,
    'model.rope_theta': 100.0,
  },
  'moe-shared': {
    'model.moe.num_experts': 4,
    'model.moe.num_shared_experts': 1,
    'model.moe.expert_dim': 24,
  },
  'moe-sigmoid-geglu': {
    'model.mlp': 'geglu',
    'model.moe.num_experts': 6,
    'model.moe.experts_per_token': 3,
    'model.moe.score': 'sigmoid',
    'model.moe.weight_scale': 2.5,
    'model.moe.balance_rate': 0.01,
  },
  'completep-wider-deeper': {
    'model.parametrization': 'completep',
    'model.base_embed_dim': 8,
    'model.base_num_layers': 1,
  },
  'learned-window-gqa': {
    'model.positions': 'learned',
    'model.sliding_window': 3,
    'model.num_kv_heads': 2,
  },
}


def tiny_config(**overrides: Any) -> ConfigDict:
  """base.py's configuration made small; overrides have dotted names."""
  config = base.get_config()
  config.update_from_flattened_dict(_TINY | overrides)
  return config


def tiny_train_config(**overrides: Any) -> TrainConfig:
  """tiny_config as the training room reads it."""
  return train_config(tiny_config(**overrides))


def recipe(**overrides: Any) -> Recipe:
  """The recipe of a tiny run."""
  return make_recipe(tiny_train_config(**overrides))


def packed_rows(batch: int = 8, tokens: int = 33, seed: int = 0) -> np.ndarray:
  """Rows of several documents, with all that rows can hold.

  Even rows begin in the middle of a document; all but the last end in padding,
  each row in more than the one before, so that halves and quarters of a batch
  hold different numbers of tokens.
  """
  generator = np.random.default_rng(seed)
  rows_BR = np.full((batch, tokens), PAD, np.int32)
  for b, row_R in enumerate(rows_BR):
    filled = tokens if b == batch - 1 else tokens - 2 * (b + 1)
    start = 0
    while start < filled:
      length = min(int(generator.integers(4, 12)), filled - start)
      text = generator.integers(FIRST_TEXT, 64, length)
      text[0] = CONTINUE if start == 0 and b % 2 == 0 else BOS
      text[-1] = EOS if length > 1 else text[0]
      row_R[start : start + length] = text
      start += length
  return rows_BR


def random_params(recipe: Recipe, seed: int = 0, std: float = 0.15) -> Params:
  """Parameters from numpy: every kind of them random, norms around one."""

  def build() -> Transformer:
    return Transformer(jax.random.key(0), recipe.config.model)

  generator = np.random.default_rng(seed)
  kinds = metadata(build, 'kind')

  def fill(kind: str, shape: jax.ShapeDtypeStruct) -> jax.Array:
    noise = std * generator.standard_normal(shape.shape)
    return jnp.asarray(noise + (kind == 'norm'), jnp.float32)

  return jax.tree.map(fill, kinds, abstract(build)[1])


def random_state(
  recipe: Recipe, seed: int = 0, std: float = 0.15
) -> TrainState:
  """The state of step 0 with the parameters of random_params."""
  params = random_params(recipe, seed, std)
  averaged = recipe.config.optimizer.ema_decay is not None
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=recipe.optimizer.init(params),
    ema=jax.tree.map(jnp.copy, params) if averaged else None,
    history=new_history(),
  )


def mesh_of(recipe: Recipe, devices: int) -> Mesh:
  """The recipe's mesh over the first devices."""
  return make_mesh(recipe.config.mesh, jax.devices()[:devices])


def hidden_states(
  recipe: Recipe, params: Params, tokens, segments, positions, visible=None
) -> jax.Array:
  """x_BTD of the model, without dropout."""
  model = merge(recipe.graphdef, params)
  return model(tokens, segments, positions, visible_BT=visible)[0]


def one_device_step(recipe: Recipe) -> Any:
  """The jitted training step on one device; it gives up the state's buffers."""
  mesh = mesh_of(recipe, 1)
  rows = batch_sharding(
    mesh,
    recipe.config.mesh.rules,
    batch_size=recipe.config.batch_size,
    field='batch_size',
  )
  shardings = state_shardings(recipe, mesh)
  jitted = jit_train_step(recipe, MARKS, shardings, rows)

  def step(state: TrainState, rows_BR: np.ndarray) -> Any:
    with jax.set_mesh(mesh):
      return jitted(jax.device_put(state, shardings), rows_BR)

  return step


@functools.cache
def plain_run(compute_dtype: str = 'float32') -> tuple[Recipe, Any]:
  """A recipe and its compiled step, shared between tests.

  Gradient descent without momentum, decay or clipping, so that an update is the
  gradient times the learning rate; with z-loss and a moving average.
  """
  plain = recipe(
    **{
      'model.num_layers': 1,
      'model.compute_dtype': compute_dtype,
      'loss.z_loss': 0.01,
      'optimizer.name': 'sgd',
      'optimizer.learning_rate': 0.8,
      'optimizer.warmup_steps': 4,
      'optimizer.momentum': 0.0,
      'optimizer.weight_decay': 0.0,
      'optimizer.clip_norm': None,
      'optimizer.ema_decay': 0.75,
    }
  )
  return plain, one_device_step(plain)


def leaves(tree: Any) -> dict[str, Any]:
  """Leaves of a tree by their dotted paths."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def assert_trees_close(actual: Any, wanted: Any, rtol: float = 1e-5) -> None:
  """Leaves are equal, relative to the largest value of each.

  A leaf that is zero but for rounding may differ by what is tiny for the rest.
  """
  actual, wanted = leaves(actual), leaves(wanted)
  assert actual.keys() == wanted.keys()
  sizes = {path: np.abs(leaf).max() for path, leaf in wanted.items()}
  for path, leaf in wanted.items():
    np.testing.assert_allclose(
      np.asarray(actual[path]),
      np.asarray(leaf),
      rtol=0,
      atol=rtol * max(sizes[path], 1e-2 * max(sizes.values())),
      err_msg=path,
    )


def same_bits(actual: Any, wanted: Any) -> bool:
  """Whether two trees are equal bit for bit, not-a-numbers included."""
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True)
  return all(
    np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs
  )
