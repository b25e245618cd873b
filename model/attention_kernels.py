"""What can compute attention, what each of it supports, and the choice.

Nothing is dropped and nothing is replaced: what a kernel does not support is
refused before any device is touched.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax

from model import attention_cudnn, attention_splash, attention_xla, ring
from model.config import ModelConfig
from model.context import Order, split_axes
from model.mask import Places

# (q_BTNH, k_BSKH, v_BSKH, key of the attention dropout or None) -> out_BTNH
Attend = Callable[
  [jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
  """What a kernel supports. All of them: grouped queries, segments, windows.

  Attributes:
    platforms: of devices, as JAX names them, on which it runs; (): all.
    softcap: model.attention_softcap.
    dropout: model.attention_dropout.
    prefixes: tokens that are seen from before (augmentation.ul2).
    dtypes: of model.compute_dtype.
    head_multiple: model.head_dim is a multiple of it.
    head_limit: model.head_dim is no larger; None: as large as memory allows.
    strategies: of model.context_parallelism.
    length_multiple: consecutive tokens of a device are a multiple of it.
  """

  platforms: tuple[str, ...]
  softcap: bool
  dropout: bool
  prefixes: bool
  dtypes: tuple[str, ...]
  head_multiple: int
  head_limit: int | None
  strategies: tuple[str, ...]
  length_multiple: int


_SPLASH = Kernel(
  platforms=('tpu',),
  softcap=True,
  dropout=False,
  prefixes=False,
  dtypes=('bfloat16', 'float32'),
  head_multiple=8,
  head_limit=256,
  # A ring needs the gradients of parts of a softmax, which JAX's kernel does
  # not give out.
  strategies=('all_gather', 'ulysses'),
  length_multiple=attention_splash.LANES,
)
KERNELS = {
  'xla': Kernel(
    platforms=(),
    softcap=True,
    dropout=True,
    prefixes=True,
    dtypes=('bfloat16', 'float32'),
    head_multiple=1,
    head_limit=None,
    strategies=('all_gather', 'ring', 'ulysses'),
    length_multiple=1,
  ),
  'splash': _SPLASH,
  # For tests: the kernel's program, an operation at a time.
  'splash_interpreted': dataclasses.replace(_SPLASH, platforms=('cpu',)),
  'cudnn': Kernel(
    platforms=('gpu',),
    softcap=False,
    # cuDNN can; JAX's public function has no argument for it.
    dropout=False,
    prefixes=True,
    dtypes=('bfloat16',),
    head_multiple=8,
    # 256 from Hopper on, 128 before: what holds on all.
    head_limit=128,
    strategies=('all_gather', 'ulysses'),
    # cuDNN wants even rows where a mask is given.
    length_multiple=2,
  ),
}
_BY_PLATFORM = {'tpu': 'splash', 'gpu': 'cudnn', 'cpu': 'xla'}


def resolve_attention(
  config: ModelConfig, *, platform: str, mesh_shape: Mapping[str, int]
) -> ModelConfig:
  """The configuration with the kernel that will run, checked.

  Args:
    config: the model.
    platform: of the mesh's devices: 'tpu', 'gpu' or 'cpu'.
    mesh_shape: devices along each mesh axis.

  Raises:
    ValueError: the kernel does not support what the configuration asks for; the
      message names the fields and what to set.
  """
  name, chosen = config.attention, f'model.attention = {config.attention!r}'
  if name == 'auto':
    if platform not in _BY_PLATFORM:
      raise ValueError(
        f"model.attention = 'auto' knows the devices {tuple(_BY_PLATFORM)}, "
        f"and these are {platform!r}. Set model.attention = 'xla'."
      )
    name = _BY_PLATFORM[platform]
    chosen = f"model.attention = 'auto', which is {name!r} on {platform},"
  kernel = KERNELS[name]
  if kernel.platforms and platform not in kernel.platforms:
    raise ValueError(
      f'{chosen} runs on {" and ".join(kernel.platforms)}, and the devices of '
      f"this mesh are {platform}. Set model.attention = 'auto' or 'xla'."
    )
  problems = (
    *_unsupported(kernel, config),
    *_unsupported_split(kernel, config, mesh_shape),
  )
  if problems:
    problem, remedy = problems[0]
    raise ValueError(f'{chosen} {problem}. {remedy}')
  return dataclasses.replace(config, attention=name)


def make_attend(
  config: ModelConfig, places: Places, order: Order | None
) -> Attend:
  """The attention of the layers, for rows that are given whole.

  Args:
    config: the model; its kernel has been decided by `resolve_attention`.
    places: of the tokens.
    order: in which the chunks of each row come (`context.balanced_order`).
  """
  if config.attention == 'auto':
    raise ValueError(
      "model.attention = 'auto' has not been decided: call resolve_attention "
      'with the platform of the mesh first, as train.setup.make_setup does.'
    )
  if config.attention == 'cudnn':
    return attention_cudnn.make_attend(config, places)
  if config.attention != 'xla':
    return attention_splash.make_attend(config, places, order)
  split = bool(split_axes('length', config.axis_rules))
  if split and config.context_parallelism == 'ring':
    assert order is not None, 'a ring balances its chunks'
    return ring.make_attend(config, places, order)
  return attention_xla.make_attend(config, places, places)


Problem = tuple[str, str]


def _parts(axis, config: ModelConfig, mesh_shape: Mapping[str, int]) -> int:
  axes = dict(config.axis_rules)[axis]
  return math.prod(mesh_shape.get(name, 1) for name in axes)


def _unsupported(kernel: Kernel, config: ModelConfig) -> list[Problem]:
  """What a kernel lacks for a model, and what to set; [] is nothing."""
  otherwise = "or model.attention = 'xla'"
  found = []
  if config.attention_softcap is not None and not kernel.softcap:
    found.append((
      f'has no soft-cap, and model.attention_softcap = '
      f'{config.attention_softcap}',
      f'Set model.attention_softcap = None {otherwise}.',
    ))  # fmt: skip
  if config.attention_dropout and not kernel.dropout:
    found.append((
      f'has no dropout, and model.attention_dropout = '
      f'{config.attention_dropout}',
      f'Set model.attention_dropout = 0.0 {otherwise}.',
    ))  # fmt: skip
  if config.visible_prefixes and not kernel.prefixes:
    found.append((
      'has no prefixes that are seen from before, which augmentation.ul2 makes',
      f'Switch augmentation.ul2 off {otherwise}.',
    ))  # fmt: skip
  if config.compute_dtype not in kernel.dtypes:
    found.append((
      f'computes in {" or ".join(kernel.dtypes)}, and model.compute_dtype = '
      f'{config.compute_dtype!r}',
      f'Set model.compute_dtype = {kernel.dtypes[0]!r} {otherwise}.',
    ))  # fmt: skip
  H, multiple = config.head_dim, kernel.head_multiple
  if H % multiple:
    found.append((
      f'takes heads of a multiple of {multiple}, and model.head_dim = {H} '
      f'({H} = {H // multiple} x {multiple} + {H % multiple})',
      f'Set model.head_dim = {-(-H // multiple) * multiple} {otherwise}.',
    ))  # fmt: skip
  if (kernel.head_limit or H) < H:
    found.append((
      f'takes heads of up to {kernel.head_limit}, and model.head_dim = {H}',
      f'Set model.head_dim = {kernel.head_limit} {otherwise}.',
    ))  # fmt: skip
  return found


def _unsupported_split(
  kernel: Kernel, config: ModelConfig, mesh_shape: Mapping[str, int]
) -> list[Problem]:
  """What a kernel lacks for how the mesh splits rows and heads."""
  strategy = config.context_parallelism
  parts = _parts('length', config, mesh_shape)
  found = []
  if parts > 1 and strategy not in kernel.strategies:
    found.append((
      f'has no model.context_parallelism = {strategy!r}',
      f'Set it to one of {kernel.strategies}, or model.attention = '
      "'xla'.",
    ))  # fmt: skip
  if parts > 1 and strategy == 'ring' and config.attention_dropout:
    found.append((
      "with model.context_parallelism = 'ring' has no dropout, and "
      f'model.attention_dropout = {config.attention_dropout}',
      "Set model.attention_dropout = 0.0 or model.context_parallelism = "
      "'all_gather'.",
    ))  # fmt: skip
  # Chunks of consecutive tokens: two on each device where work is balanced.
  whole = parts == 1 or strategy == 'ulysses'
  chunks = 1 if whole else 2 * parts
  unit = math.lcm(chunks * kernel.length_multiple, parts)
  T = config.max_length
  if T % unit:
    cuts = f' in {chunks} chunks of {parts} devices' if parts > 1 else ''
    found.append((
      f'takes rows of a multiple of {unit} tokens{cuts}, and sequence_length = '
      f'{T} ({T} = {T // unit} x {unit} + {T % unit})',
      f'Set sequence_length = {-(-T // unit) * unit}.',
    ))  # fmt: skip
  # Only the reference without a ring leaves the split of heads to the compiler.
  by_device = kernel is not KERNELS['xla'] or (parts > 1 and strategy == 'ring')
  return found + _unsupported_heads(config, parts, mesh_shape, by_device)


def _unsupported_heads(
  config: ModelConfig,
  parts: int,
  mesh_shape: Mapping[str, int],
  by_device: bool,
) -> list[Problem]:
  """What does not fit in how the mesh splits heads."""
  N, K = config.num_heads, config.num_kv_heads
  heads, kv_heads = (
    _parts(axis, config, mesh_shape) for axis in ('heads', 'kv_heads')
  )
  found = []
  if parts > 1 and config.context_parallelism == 'ulysses':
    if heads != kv_heads:
      found.append((
        "with model.context_parallelism = 'ulysses' splits all heads alike, "
        f'and the mesh splits query heads by {heads}, key/value heads by '
        f'{kv_heads}',
        'Make mesh.rules.heads and mesh.rules.kv_heads equal.',
      ))  # fmt: skip
    elif K % (heads * parts):
      found.append((
        f"with model.context_parallelism = 'ulysses' splits {K} key/value "
        f'heads over {heads} x {parts} devices',
        f'Make model.num_kv_heads = {K} a multiple of {heads * parts}, split '
        "rows less, or set model.context_parallelism = 'all_gather'.",
      ))  # fmt: skip
  elif (
    by_device and heads != kv_heads and (kv_heads > 1 or _uneven(N, K, heads))
  ):
    found.append((
      f'wants each device to have the key/value heads of its query heads, and '
      f'the mesh splits {N} query heads by {heads} and {K} key/value heads by '
      f'{kv_heads}',
      'Make mesh.rules.heads and mesh.rules.kv_heads equal, or '
      'mesh.rules.kv_heads = ().',
    ))  # fmt: skip
  return found


def _uneven(N: int, K: int, heads: int) -> bool:
  """Whether a device's query heads begin or end within a group."""
  own, group = N // heads, N // K
  return bool(own % group and group % own)
