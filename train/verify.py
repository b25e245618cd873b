"""Does every mesh compute what one device computes? For the user's own model.

The configuration is made small, all that it switches on stays on, and the loss
and every gradient are computed on each factorisation of emulated devices and
compared with those of one device, in float32. The kernels of attention that run
there, and the ways to split rows that the configuration did not choose, are
compared on the factorisations of half of the devices.
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

from model.attention_splash import LANES
from model.config import CONTEXT_PARALLELISMS
from model.params import Params
from train.config import MESH_AXES, TrainConfig, train_config
from train.emulation import emulated_devices
from train.rows import Marks
from train.setup import make_setup
from train.state import Recipe, init_state
from train.step import LossSums, gradients

# Rows are made of these tokens and text.
_PAD, _BOS, _CONTINUE, _EOS = range(4)
_MARKS = Marks(pad_id=_PAD, bos_id=_BOS, continue_id=_CONTINUE)
_VOCABULARY, _LENGTH, _HEAD_DIM = 128, 64, 8
# Rows of a slice of the batch, and microbatches where there are several. Stages
# have a layer and a microbatch each, if these are more.
_ROWS, _MICROBATCHES = 8, 2

# Relative error that the order of float32 sums explains.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Result:
  """What a mesh made of the model.

  Attributes:
    mesh: sizes of its axes, those of one left out, and what was chosen for it.
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


def small_config(
  config: Mapping[str, Any], length: int = _LENGTH
) -> dict[str, Any]:
  """The configuration with small sizes, and everything else as it is.

  Sizes keep what a mesh can divide: the power of two in them, up to 8.

  Args:
    config: a run's configuration, as nested dicts.
    length: tokens of a row.
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
  model['compute_dtype'] = model['gradient_dtype'] = 'float32'
  # What these devices have; fused kernels have lines of their own.
  model['attention'] = 'auto'
  if model['sliding_window'] is not None:
    model['sliding_window'] = min(model['sliding_window'], length // 4)
  if moe['num_experts']:
    moe['num_experts'] = _power_of_two(moe['num_experts'])
    moe['experts_per_token'] = min(
      moe['experts_per_token'], max(1, moe['num_experts'] // 2)
    )
    moe['expert_dim'] = None if moe['expert_dim'] is None else 32
  small['sequence_length'] = length
  small['loss']['chunk'] = length // 4
  small['accumulation_steps'] = min(small['accumulation_steps'], 2)
  small['batch_size'] = _ROWS * small['accumulation_steps']
  if small['microbatches'] is not None:
    small['microbatches'] = min(small['microbatches'], _MICROBATCHES)
    small['batch_size'] *= small['microbatches']
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """What is compared with one device.

  Attributes:
    shape: devices along each mesh axis.
    attention: what computes it; None: what the configuration says.
    context_parallelism: likewise.
    length: tokens of a row.
  """

  shape: dict[str, int]
  attention: str | None = None
  context_parallelism: str | None = None
  length: int = _LENGTH

  @property
  def devices(self) -> int:
    """How many it needs."""
    return math.prod(self.shape.values())

  def __str__(self) -> str:
    parts = [f'{axis} {n}' for axis, n in self.shape.items() if n > 1]
    return ', '.join(
      [
        ' x '.join(parts) or 'one device',
        *filter(None, (self.attention, self.context_parallelism)),
      ]
    )


def cases(config: Mapping[str, Any], devices: int) -> Iterator[Case]:
  """All that is compared for a configuration on a number of devices."""
  axes = ['stage', 'data', 'fsdp', 'context', 'tensor']
  if config['model']['moe']['num_experts']:
    axes.insert(3, 'expert')
  for shape in meshes(devices, axes):
    yield Case(shape=shape)
  kernel = 'splash_interpreted'
  for shape in meshes(max(devices // 2, 1), ['data', 'context', 'tensor']):
    split = shape['context'] > 1
    # A device of a row has two chunks of whole blocks of the kernel.
    length = LANES * (2 * shape['context'] if split else 1)
    for strategy in CONTEXT_PARALLELISMS if split else [None]:
      if split and strategy != config['model']['context_parallelism']:
        yield Case(shape=shape, context_parallelism=strategy)
      if strategy != 'ring':
        yield Case(
          shape=shape,
          attention=kernel,
          context_parallelism=strategy,
          length=length,
        )


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

  @functools.cache
  def one(length: int, stages: int):
    reference = Case(shape={}, attention='xla', length=length)
    return _run(_config(config, reference, stages), devices[:1])

  for case in cases(config, len(devices)):
    stages = case.shape.get('stage', 1)
    wanted = one(case.length, stages)
    try:
      run = _config(config, case, stages)
      found = _run(run, devices[: case.devices])
    except ValueError as error:
      yield Result(str(case), refused=str(error))
      continue
    yield _compare(str(case), found, wanted)


def _config(config: Mapping[str, Any], case: Case, stages: int) -> TrainConfig:
  """The small run of a case, with the layers and microbatches of stages."""
  small = small_config(config, case.length)
  # The routers' losses are those of a microbatch: one device has as many.
  several = stages > 1 or config['microbatches']
  small['microbatches'] = max(stages, _MICROBATCHES) if several else 1
  if stages > 1:
    small['model']['num_layers'] = max(small['model']['num_layers'], stages)
  small['mesh'] |= {axis: case.shape.get(axis, 1) for axis in MESH_AXES}
  for field in ('attention', 'context_parallelism'):
    if (value := getattr(case, field)) is not None:
      small['model'][field] = value
  return train_config(small)


def _run(config: TrainConfig, devices) -> tuple[Params, LossSums]:
  setup = make_setup(config, devices)
  shardings = setup.shardings
  function = functools.partial(gradients, recipe=setup.recipe, marks=_MARKS)
  rows_BR = _rows(config.batch_size, config.sequence_length + 1)
  with jax.set_mesh(setup.mesh):
    return jax.device_get(
      jax.jit(function, out_shardings=(shardings.params, None))(
        _parameters(setup.recipe, shardings),
        jax.device_put(rows_BR, setup.batch_sharding),
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


def _rows(batch: int, tokens: int) -> np.ndarray:
  """Packed documents; rows end in padding, and begin in the middle of one."""
  generator = np.random.default_rng(0)
  rows_BR = np.full((batch, tokens), _PAD, np.int32)
  for b, row_R in enumerate(rows_BR):
    start, filled = 0, tokens - 3 * (b % 4)
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


def verify_and_print(config: Mapping[str, Any]) -> bool:
  """Prints the table of `verify` as it grows; True if no mesh is wrong."""
  devices = emulated_devices()
  lines = len(list(cases(config, len(devices))))
  print(
    f'{lines} lines, each compiled in up to a minute. The model is made small: '
    'of its\nheads of keys and values, and of its experts, it keeps the power '
    'of two in their\nnumber. Relative errors; up to '
    f'{TOLERANCE:g} is rounding.\n{_HEADER}',
    flush=True,
  )
  found = []
  for result in verify(config, devices):
    found.append(result)
    print(line(result), flush=True)
  wrong = sum(not result.ok for result in found)
  refused = sum(bool(result.refused) for result in found)
  print(
    f'{len(found) - wrong - refused} lines agree with one device, {refused} '
    f'do not fit the model, {wrong} are wrong.'
  )
  return not wrong
