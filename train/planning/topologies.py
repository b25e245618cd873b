"""Names of the machines to plan for, and their devices."""

import dataclasses
import difflib
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from train.chips import CHIPS, Chip
from train.compiler_options import libtpu_version

# Slices that Google Cloud offers; those of three dimensions beyond 4x4x4 have
# multiples of 4 in each.
_SHAPES_2D = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_SHAPES_3D = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4')
_EXAMPLES = (
  'v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:8x8, tpu7x:4x4x4; of GPUs HOSTSxGPUS, '
  'such as h100:8x8 for 8 hosts with 8 GPUs each (a100, h100, h200, b200)'
)


@dataclasses.dataclass(frozen=True)
class Topology:
  """Some slices of a chip, or some hosts of GPUs.

  Attributes:
    chip: the kind of chip.
    shape: chips along each dimension of a slice; hosts and GPUs of a host.
    slices: number of slices, joined by the data centre's network.
  """

  chip: Chip
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def chips(self) -> int:
    """Chips of all slices."""
    return math.prod(self.shape) * self.slices

  @property
  def devices(self) -> int:
    """JAX devices of all slices."""
    return self.chips * self.chip.devices

  def __str__(self) -> str:
    name = f'{self.chip.name}:{"x".join(map(str, self.shape))}'
    return name if self.slices == 1 else f'{self.slices} x {name}'


def parse(name: str, dcn: Sequence[int] = ()) -> Topology:
  """Reads a name such as 'v5p:4x4x4' or 'h100:8x8'.

  Args:
    name: of a slice of TPUs, or of all hosts of GPUs.
    dcn: slices along each mesh axis (mesh.dcn).

  Raises:
    ValueError: there is no such chip or slice; the message says which exist.
  """
  if min(dcn, default=1) < 1:
    raise ValueError(
      f'mesh.dcn is {tuple(dcn)}: a plan needs the number of slices along each '
      'axis. Set them to at least 1.'
    )
  kind, _, shape = name.partition(':')
  if re.fullmatch(r'\w+-\d+', name) and kind.partition('-')[0] in CHIPS:
    raise ValueError(_accelerator_type(name))
  if kind not in CHIPS:
    near = difflib.get_close_matches(kind.lower(), list(CHIPS), n=1, cutoff=0.5)
    raise ValueError(
      f'--topology={name}: there is no chip {kind!r}; there are '
      f'{", ".join(CHIPS)}.'
      + (f' Did you mean {near[0]}?' if near else '')
      + f' Write it as in {_EXAMPLES}.'
    )
  chip = CHIPS[kind]
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', shape):
    raise ValueError(
      f'--topology={name}: give the chips along each dimension, as in '
      f'{_EXAMPLES}.'
    )
  sizes = tuple(int(size) for size in shape.split('x'))
  _check_shape(name, chip, sizes)
  return Topology(chip, sizes, math.prod(dcn) if chip.is_tpu else 1)


def _check_shape(name: str, chip: Chip, sizes: tuple[int, ...]) -> None:
  text = 'x'.join(map(str, sizes))
  if not chip.is_tpu:
    if len(sizes) != 2:
      raise ValueError(
        f'--topology={name}: of GPUs give hosts and GPUs of a host, such as '
        f'{chip.name}:8x8.'
      )
    return
  if chip.dimensions == 2:
    known = text in _SHAPES_2D
    there_are = ', '.join(_SHAPES_2D)
  else:
    known = text in _SHAPES_3D or (
      len(sizes) == 3 and all(size % 4 == 0 for size in sizes)
    )
    there_are = f'{", ".join(_SHAPES_3D)}, and multiples of 4 in each dimension'
  if not known:
    raise ValueError(
      f'--topology={name}: {chip.name} has no slice {text}; there are '
      f'{there_are}.'
    )


def _accelerator_type(name: str) -> str:
  """Explains a name that counts chips or cores, such as v5p-128."""
  kind, _, number = name.partition('-')
  chips = int(number)
  counted = 'chips'
  if kind in ('v4', 'v5p'):
    chips, counted = chips // 2, 'TensorCores, two a chip'
  shapes = [
    shape
    for shape in (_SHAPES_2D if CHIPS[kind].dimensions == 2 else _SHAPES_3D)
    if math.prod(map(int, shape.split('x'))) == chips
  ]
  hint = f' It may be {kind}:{shapes[0]}.' if shapes else ''
  return (
    f'--topology={name} counts {counted} ({chips} chips), and not how they are '
    f'joined.{hint} Write the chips along each dimension, as in {_EXAMPLES}.'
  )


def devices(topology: Topology) -> list[Any]:
  """Devices to compile for; nothing is attached to them.

  Raises:
    ValueError: libtpu is not installed, or it does not know the topology.
  """
  assert topology.chip.is_tpu
  if libtpu_version() is None:
    raise ValueError(
      f'To compile for {topology} the TPU compiler is needed, which works '
      'without a TPU: pip install --require-hashes -r requirements/tpu.txt, or '
      "pip install 'jax[tpu]' (libtpu exists for Linux on x86-64)."
    )
  options: dict[str, Any] = {}
  shape = topology.shape
  if topology.chip.name == 'v4':
    # Its two cores work as one device, as they do on a TPU VM.
    closed = all(size % 4 == 0 for size in shape)
    options |= {
      'chip_config_name': 'megacore',
      'chips_per_host_bounds': (2, 2, 1),
      'wrap': (closed,) * 3,
    }
  elif math.prod(shape) == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)
  if topology.slices > 1:
    options['num_slices'] = topology.slices
  name = f'{topology.chip.name}:{"x".join(map(str, shape))}'
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=name, **options
    ).devices
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f'libtpu {libtpu_version()} does not know {topology}: {error}'
    ) from error
  assert len(found) == topology.devices, f'{len(found)} devices of {topology}'
  return list(found)
