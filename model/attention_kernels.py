"""What can compute attention, what each of it supports, and the choice.

Nothing is dropped: what a kernel does not support is refused before any device
is touched, or, where the choice is automatic, computed by the reference.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import jax

from model import attention_cudnn, attention_splash, attention_xla, ring
from model.config import ModelConfig
from model.context import balanced_order, split_axes
from model.layers import RowKeys
from model.mask import Places

# (q_BTNH, k_BSKH, v_BSKH, keys of the attention dropout or None) -> out_BTNH
Attend = Callable[[jax.Array, jax.Array, jax.Array, RowKeys | None], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
  """What a kernel supports. All of them: grouped queries, segments, windows.

  Attributes:
    platform: of devices, as JAX names it, on which it runs; None: any.
    softcap: model.attention_softcap.
    dropout: model.attention_dropout.
    prefixes: tokens that are seen from before (augmentation.ul2).
    dtypes: of model.compute_dtype.
    head_multiple: model.head_dim is a multiple of it.
    head_limit: model.head_dim is no larger.
    ring: model.context_parallelism = 'ring'.
    length_multiple: consecutive tokens of a device are a multiple of it.
    balanced: it skips what is masked, so that devices that share a row want
      chunks of it that make equal work.
    by_device: it sees the heads of one device only.
  """

  platform: str | None
  softcap: bool
  dropout: bool
  prefixes: bool
  dtypes: tuple[str, ...]
  head_multiple: int
  head_limit: float
  ring: bool
  length_multiple: int
  balanced: bool
  by_device: bool


_SPLASH = Kernel(
  platform='tpu',
  softcap=True,
  dropout=False,
  prefixes=False,
  dtypes=('bfloat16', 'float32'),
  head_multiple=8,
  head_limit=256,
  # It would need the gradients of parts of a softmax, which JAX's kernel does
  # not give out.
  ring=False,
  length_multiple=attention_splash.LANES,
  balanced=True,
  by_device=True,
)
KERNELS = {
  'xla': Kernel(
    platform=None,
    softcap=True,
    dropout=True,
    prefixes=True,
    dtypes=('bfloat16', 'float32'),
    head_multiple=1,
    head_limit=math.inf,
    ring=True,
    length_multiple=1,
    balanced=False,
    by_device=False,
  ),
  'splash': _SPLASH,
  # For tests: the kernel's program, an operation at a time.
  'splash_interpreted': dataclasses.replace(_SPLASH, platform='cpu'),
  'cudnn': Kernel(
    platform='gpu',
    softcap=False,
    # cuDNN can; JAX's public function has no argument for it.
    dropout=False,
    prefixes=True,
    dtypes=('bfloat16',),
    head_multiple=8,
    # 256 from Hopper on, 128 before: what holds on all.
    head_limit=128,
    ring=False,
    # cuDNN wants even rows where a mask is given.
    length_multiple=2,
    balanced=False,
    by_device=True,
  ),
}
# With model.context_parallelism = 'ring', model/ring.py takes the place of the
# reference.
_RING = dataclasses.replace(
  KERNELS['xla'], dropout=False, balanced=True, by_device=True
)
_FUSED = {'tpu': 'splash', 'gpu': 'cudnn'}


def resolve_attention(
  config: ModelConfig, *, platform: str, mesh_shape: Mapping[str, int]
) -> tuple[ModelConfig, str]:
  """Decides what computes attention, and the order of rows that it wants.

  'auto' takes the fused kernel of the devices where it supports all that the
  model asks for, and the reference elsewhere.

  Args:
    config: the model.
    platform: of the mesh's devices: 'tpu', 'gpu' or 'cpu'.
    mesh_shape: devices along each mesh axis.

  Returns:
    The model's configuration with the kernel and the order, and the kernel in
    words, with what stood in the way of a fused one.

  Raises:
    ValueError: the kernel does not support what the configuration asks for; the
      message names the fields and what they may be.
  """
  name, why = config.attention, ''
  if name == 'auto':
    name = _FUSED.get(platform, 'xla')
    problems = _problems(name, config, platform, mesh_shape)
    if problems and name != 'xla':
      why = f'; {name} does not support {" or ".join(problems)}'
      name = 'xla'
  problems = _problems(name, config, platform, mesh_shape)
  if problems:
    remedy = '' if name == 'xla' else ", or set model.attention = 'xla'"
    raise ValueError(
      f'model.attention = {config.attention!r}'
      f'{"" if name == config.attention else f" (here {name!r})"} does not '
      f'support {" or ".join(problems)}. Change that{remedy}.'
    )
  parts = _parts('length', config, mesh_shape)
  chunks = _chunks(_kernel(name, config, parts), config, parts)
  order = balanced_order(parts) if chunks > parts else None
  return dataclasses.replace(
    config, attention=name, row_order=order
  ), name + why


def make_attend(config: ModelConfig, places: Places) -> Attend:
  """The attention of the layers, for rows that are given whole.

  Args:
    config: the model; its kernel has been decided by `resolve_attention`.
    places: of the tokens, in the order of config.row_order.
  """
  if config.attention == 'auto':
    raise ValueError(
      "model.attention = 'auto' has not been decided: call resolve_attention "
      'with the platform of the mesh first, as train.setup.make_setup does.'
    )
  if config.attention == 'cudnn':
    return attention_cudnn.make_attend(config, places)
  if config.attention != 'xla':
    return attention_splash.make_attend(config, places)
  split = split_axes('length', config.axis_rules)
  if split and config.context_parallelism == 'ring':
    return ring.make_attend(config, places)
  return attention_xla.make_attend(config, places, places)


def _kernel(name: str, config: ModelConfig, parts: int) -> Kernel:
  """What computes attention for rows that are split in parts."""
  ring_of_reference = config.context_parallelism == 'ring' and name == 'xla'
  return _RING if ring_of_reference and parts > 1 else KERNELS[name]


def _chunks(kernel: Kernel, config: ModelConfig, parts: int) -> int:
  """Runs of consecutive tokens in which rows lie on the devices."""
  if parts == 1 or config.context_parallelism == 'ulysses':
    return 1
  return 2 * parts if kernel.balanced else parts


def _parts(
  axis: str, config: ModelConfig, mesh_shape: Mapping[str, int]
) -> int:
  axes = dict(config.axis_rules)[axis]
  return math.prod(mesh_shape.get(name, 1) for name in axes)


def _problems(
  name: str, config: ModelConfig, platform: str, mesh_shape: Mapping[str, int]
) -> list[str]:
  """What a kernel lacks for a model on a mesh: fields, and what they may be."""
  parts = _parts('length', config, mesh_shape)
  kernel = _kernel(name, config, parts)
  return [
    *_problems_of_platform(kernel, platform),
    *_problems_of_model(kernel, config),
    *_problems_of_length(kernel, config, parts),
    *_problems_of_heads(kernel, config, parts, mesh_shape),
  ]


def _problems_of_platform(kernel: Kernel, platform: str) -> Iterator[str]:
  if kernel.platform not in (None, platform):
    yield f'the devices of this mesh ({platform}; it runs on {kernel.platform})'


def _problems_of_model(kernel: Kernel, config: ModelConfig) -> Iterator[str]:
  H, multiple = config.head_dim, kernel.head_multiple
  if config.attention_softcap is not None and not kernel.softcap:
    yield f'model.attention_softcap = {config.attention_softcap} (only None)'
  if config.attention_dropout and not kernel.dropout:
    yield f'model.attention_dropout = {config.attention_dropout} (only 0.0)'
  if config.visible_prefixes and not kernel.prefixes:
    yield 'augmentation.ul2 (only rates of 0.0)'
  if config.compute_dtype not in kernel.dtypes:
    yield (
      f'model.compute_dtype = {config.compute_dtype!r} (only '
      f'{" or ".join(map(repr, kernel.dtypes))})'
    )
  if H % multiple:
    yield (
      f'model.head_dim = {H} (only multiples of {multiple}: {H} = '
      f'{H // multiple} x {multiple} + {H % multiple})'
    )
  if kernel.head_limit < H:
    yield f'model.head_dim = {H} (up to {kernel.head_limit})'


def _problems_of_length(
  kernel: Kernel, config: ModelConfig, parts: int
) -> Iterator[str]:
  T, strategy = config.max_length, config.context_parallelism
  if parts > 1 and strategy == 'ring' and not kernel.ring:
    yield "model.context_parallelism = 'ring' (only 'all_gather' or 'ulysses')"
  unit = _chunks(kernel, config, parts) * kernel.length_multiple
  unit = math.lcm(unit, parts)
  if T % unit:
    yield (
      f'sequence_length = {T} (only multiples of {unit} with rows over {parts} '
      f'device(s): {T} = {T // unit} x {unit} + {T % unit})'
    )


def _problems_of_heads(
  kernel: Kernel,
  config: ModelConfig,
  parts: int,
  mesh_shape: Mapping[str, int],
) -> Iterator[str]:
  N, K = config.num_heads, config.num_kv_heads
  heads, kv_heads = (
    _parts(axis, config, mesh_shape) for axis in ('heads', 'kv_heads')
  )
  splits = (
    f'model.num_heads = {N} over {heads} and model.num_kv_heads = {K} over '
    f'{kv_heads} devices'
  )
  if parts > 1 and config.context_parallelism == 'ulysses':
    if heads != kv_heads or K % (kv_heads * parts):
      yield (
        f"{splits} with model.context_parallelism = 'ulysses' over {parts} "
        'more (only as many parts of both, which divide both)'
      )
  elif kernel.by_device and heads != kv_heads:
    own, group = N // heads, N // K
    if kv_heads > 1 or (own % group and group % own):
      yield (
        f'{splits} (only as many parts of both, or mesh.rules.kv_heads = () '
        'and whole groups of query heads, or parts of one, on each device)'
      )
