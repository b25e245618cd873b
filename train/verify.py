"""Does every mesh compute what one device computes? For the user's own model.

The configuration is made small, all that it switches on stays on, and the loss
and every gradient are computed on each factorisation of emulated devices and
compared with those of one device, in float32.
"""

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from model.params import Params
from train.config import MESH_AXES, TrainConfig, train_config
from train.rows import Marks
from train.setup import make_setup
from train.state import Recipe, init_state
from train.step import LossSums, gradients

# Rows are made of these tokens and text.
_PAD, _BOS, _CONTINUE, _EOS = range(4)
_MARKS = Marks(pad_id=_PAD, bos_id=_BOS, continue_id=_CONTINUE)
_VOCABULARY, _LENGTH, _HEAD_DIM = 128, 64, 8

# Relative error that the order of float32 sums explains.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Result:
  """What a mesh made of the model.

  Attributes:
    mesh: sizes of its axes, those of one left out.
    loss_error: relative to the loss of one device; None: not computed.
    gradient_error: of the worst parameter, by its largest gradient.
    parameter: the worst parameter.
    refused: why the mesh does not fit the model; empty where it does.
  """

  mesh: str
  loss_error: float | None = None
  gradient_error: float | None = None
  parameter: str = ''
  refused: str = ''

  @property
  def ok(self) -> bool:
    """Whether the mesh is right, or honestly refused."""
    if self.refused:
      return True
    assert self.loss_error is not None
    assert self.gradient_error is not None
    # Not a number is not below anything.
    return self.loss_error <= TOLERANCE and self.gradient_error <= TOLERANCE


def small_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """The configuration with small sizes, and everything else as it is.

  Sizes keep what a mesh can divide: the power of two in them, up to 8.
  """
  small: dict[str, Any] = copy.deepcopy(dict(config))
  model, moe = small['model'], small['model']['moe']
  group = min(model['num_heads'] // model['num_kv_heads'], 4)
  model['num_kv_heads'] = _power_of_two(model['num_kv_heads'])
  model['num_heads'] = group * model['num_kv_heads']
  model['head_dim'] = _HEAD_DIM
  model['embed_dim'] = 64
  model['mlp_dim'] = 128
  model['num_layers'] = min(model['num_layers'], 2)
  model['vocab_size'] = _VOCABULARY
  model['init_std'] = 0.1
  model['compute_dtype'] = 'float32'
  if model['sliding_window'] is not None:
    model['sliding_window'] = min(model['sliding_window'], _LENGTH // 4)
  if moe['num_experts']:
    moe['num_experts'] = _power_of_two(moe['num_experts'])
    moe['experts_per_token'] = min(
      moe['experts_per_token'], max(1, moe['num_experts'] // 2)
    )
    moe['expert_dim'] = None if moe['expert_dim'] is None else 32
  small['sequence_length'] = _LENGTH
  small['loss']['chunk'] = _LENGTH // 4
  small['accumulation_steps'] = min(small['accumulation_steps'], 2)
  small['batch_size'] = 8 * small['accumulation_steps']
  small['evaluation']['batch_size'] = small['batch_size']
  small['mesh']['dcn'] = dict.fromkeys(MESH_AXES, 1)
  return small


def _power_of_two(size: int) -> int:
  return math.gcd(size, 8)


def meshes(devices: int, axes: Sequence[str]) -> Iterator[dict[str, int]]:
  """Every way to write a number of devices as a product over axes."""
  sizes = [n for n in range(1, devices + 1) if devices % n == 0]
  for shape in itertools.product(sizes, repeat=len(axes)):
    if math.prod(shape) == devices:
      yield dict(zip(axes, shape, strict=True))


def verify(
  config: Mapping[str, Any], devices: Sequence[Any]
) -> Iterator[Result]:
  """Compares each mesh over the devices with the first of them.

  Args:
    config: a run's configuration, as nested dicts.
    devices: emulated or real ones.

  Raises:
    ValueError: the configuration itself is wrong.
  """
  small = small_config(config)
  axes = ['data', 'fsdp', 'context', 'tensor']
  if small['model']['moe']['num_experts']:
    axes.insert(2, 'expert')
  one = _run(_on(small, dict.fromkeys(axes, 1)), devices[:1])
  for shape in meshes(len(devices), axes):
    name = ' x '.join(f'{axis} {n}' for axis, n in shape.items() if n > 1)
    try:
      found = _run(_on(small, shape), devices)
    except ValueError as error:
      yield Result(name, refused=str(error))
      continue
    yield _compare(name, found, one)


def _on(config: dict[str, Any], shape: dict[str, int]) -> TrainConfig:
  mesh = config['mesh'] | {axis: shape.get(axis, 1) for axis in MESH_AXES}
  return train_config(config | {'mesh': mesh})


def _run(config: TrainConfig, devices) -> tuple[Params, LossSums]:
  setup = make_setup(config, devices)
  shardings = setup.shardings
  function = functools.partial(gradients, recipe=setup.recipe, marks=_MARKS)
  with jax.set_mesh(setup.mesh):
    return jax.device_get(
      jax.jit(function, out_shardings=(shardings.params, None))(
        _parameters(setup.recipe, shardings),
        jax.device_put(_rows(config.batch_size), setup.batch_sharding),
        jax.random.key(1),
      )
    )


def _parameters(recipe: Recipe, shardings: Any) -> Params:
  """Initial values, and noise on those that start as zeros or ones."""
  params = init_state(recipe, shardings).params
  noise = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf, sharding: jax.device_put(
      np.asarray(leaf) + 0.1 * noise.standard_normal(leaf.shape, np.float32),
      sharding,
    ),
    params,
    shardings.params,
  )


def _rows(batch: int) -> np.ndarray:
  """Packed documents; rows end in padding, and begin in the middle of one."""
  generator = np.random.default_rng(0)
  rows_BR = np.full((batch, _LENGTH + 1), _PAD, np.int32)
  for b, row_R in enumerate(rows_BR):
    start, filled = 0, _LENGTH + 1 - 3 * (b % 4)
    while start < filled:
      length = min(int(generator.integers(5, 30)), filled - start)
      text = generator.integers(_EOS + 1, _VOCABULARY, length)
      text[0] = _CONTINUE if start == 0 and b % 2 else _BOS
      text[-1] = _EOS if length > 1 else text[0]
      row_R[start : start + length] = text
      start += length
  return rows_BR


def _compare(name: str, found, one) -> Result:
  (grads, sums), (wanted, wanted_sums) = found, one
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
  worst, parameter = 0.0, ''
  for (path, leaf), other in zip(
    jax.tree_util.tree_leaves_with_path(grads),
    jax.tree.leaves(wanted),
    strict=True,
  ):
    # A gradient that is zero but for rounding may differ by what is tiny for
    # the others.
    scale = max(np.abs(other).max(), 1e-2 * largest)
    error = float(np.abs(leaf - other).max() / scale)
    if not (error <= worst or np.isnan(worst)):
      worst = error
      parameter = jax.tree_util.keystr(path, simple=True, separator='.')
  loss = float(sums.cross_entropy), float(wanted_sums.cross_entropy)
  return Result(name, abs(loss[0] / loss[1] - 1), worst, parameter)


_HEADER = f'{"mesh":44}  {"loss":>8}  {"gradient":>8}  worst parameter'


def line(result: Result) -> str:
  """One mesh's line of the table, whose columns are those of _HEADER."""
  if result.refused:
    return f'{result.mesh:44}  refused: {result.refused}'
  return (
    f'{result.mesh:44}  {result.loss_error:8.1e}  '
    f'{result.gradient_error:8.1e}  {result.parameter}'
    + ('' if result.ok else '  WRONG')
  )


def verify_and_print(config: Mapping[str, Any], devices: Sequence[Any]) -> bool:
  """Prints the table of `verify` as it grows; True if no mesh is wrong."""
  print(f'Relative errors; up to {TOLERANCE:g} is rounding.\n{_HEADER}')
  found = []
  for result in verify(config, devices):
    found.append(result)
    print(line(result), flush=True)
  wrong = sum(not result.ok for result in found)
  refused = sum(bool(result.refused) for result in found)
  print(
    f'{len(found) - wrong - refused} meshes agree with one device, {refused} '
    f'do not fit the model, {wrong} are wrong.'
  )
  return not wrong
