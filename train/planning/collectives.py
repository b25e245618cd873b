"""Collectives of a compiled program: their kind, mesh axes, bytes and time."""

import dataclasses
import math
import re

import numpy as np

from train.planning.hlo import Instruction
from train.planning.network import Network

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective, run once.

  Attributes:
    kind: one of KINDS.
    axes: mesh axes along which it communicates.
    bytes: of the whole array that is gathered, reduced or scattered; of what
      one device sends, where each sends its own (all-to-all, permute).
    dtype: of the values.
    seconds: at the bandwidth of the links between its devices.
    channel: number that the program gives it; None where it has none.
    lane: what it occupies; two collectives of one lane wait for each other.
    op_name: where in the model it comes from.
  """

  kind: str
  axes: tuple[str, ...]
  bytes: int
  dtype: str
  seconds: float
  channel: int | None
  lane: str
  op_name: str


def kind_of(instruction: Instruction) -> str | None:
  """The collective that an instruction is or starts; None: it is no one."""
  base = instruction.opcode.removesuffix('-start')
  return base if base in KINDS else None


def read(instruction: Instruction, network: Network) -> Collective:
  """Reads an instruction that starts or is a collective."""
  kind = kind_of(instruction)
  assert kind is not None
  # The start of an asynchronous one has operands, results and semaphores.
  arrays = [s for s in instruction.shapes if s.dims and s.space != 2]
  arrays = arrays or list(instruction.shapes)
  sizes = [s.bytes for s in arrays]
  started = instruction.opcode.endswith('-start')
  pairs = _pairs(instruction.text)
  group = _group(instruction.text, network) if pairs is None else None
  if kind == 'collective-permute':
    group = max(pairs or [[0, 0]], key=lambda pair: abs(pair[0] - pair[1]))
    moving = [pair for pair in pairs or [] if pair[0] != pair[1]]
    size = sizes[0]
    axes = _axes_of_pairs(moving, network)
  else:
    assert group is not None
    axes = network.axes_of(group)
    if kind == 'all-gather':
      size = _gathered(sizes, started)
    elif kind == 'reduce-scatter':
      size = min(sizes) * len(group) if started else sum(sizes) * len(group)
    else:
      size = sum(sizes) // (2 if started and kind != 'all-reduce' else 1)
  channel = instruction.attribute(r'channel_id=(\d+)')
  return Collective(
    kind=kind,
    axes=axes,
    bytes=size,
    dtype=arrays[0].dtype,
    seconds=seconds(kind, size, group, network, moving_pairs=pairs),
    channel=None if channel is None else int(channel),
    lane=_lane(axes, pairs, network, group),
    op_name=instruction.attribute(r'op_name="([^"]*)"') or '',
  )


def seconds(
  kind: str,
  size: int,
  group: list[int],
  network: Network,
  moving_pairs: list[list[int]] | None = None,
) -> float:
  """Time of a collective at the bandwidth of its links, without latency.

  A ring of n devices gathers S bytes in S (n - 1) / n over the links of a
  device; an all-reduce is a reduce-scatter and a gather. In an all-to-all on a
  ring the bytes travel a quarter of it on average, in two directions (Austin
  et al. 2025, "How to scale your model", chapter 3).
  """
  n = len(group)
  if kind == 'collective-permute':
    if moving_pairs is not None and not any(a != b for a, b in moving_pairs):
      return 0.0
    crossing = network.crosses_slices(group)
    chip = network.chip
    one = chip.dcn_bandwidth if crossing else chip.ici_bandwidth
    return size / (one / chip.devices)
  if n == 1:
    return 0.0
  bandwidth = network.bandwidth(group)
  share = size * (n - 1) / n
  if kind == 'all-reduce':
    return 2 * share / bandwidth
  if kind in ('all-to-all', 'ragged-all-to-all'):
    if network.crosses_slices(group):
      return share / bandwidth
    longest = max(
      len(set(network.places[group][:, 1 + axis].tolist()))
      for axis in range(len(network.torus))
    )
    return size * max(longest / 4, 1 / 2) / bandwidth
  return share / bandwidth


def scattered(reduced: Collective) -> Collective:
  """The reduce-scatter of what an all-reduce gives; half of its time."""
  return dataclasses.replace(
    reduced, kind='reduce-scatter', seconds=reduced.seconds / 2
  )


def _gathered(sizes: list[int], started: bool) -> int:
  """Bytes of the results, where a start names operands and results."""
  if not started or len(sizes) == 1:
    return sum(sizes)
  half = len(sizes) // 2
  return sum(sizes[half : 2 * half])


def _pairs(text: str) -> list[list[int]] | None:
  found = re.search(r'source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}', text)
  if found is None:
    return None
  return [[int(a), int(b)] for a, b in re.findall(r'\{(\d+),(\d+)\}', found[1])]


def _axes_of_pairs(pairs: list[list[int]], network: Network) -> tuple[str, ...]:
  found = {axis for pair in pairs for axis in network.axes_of(pair)}
  return tuple(axis for axis in network.axes if axis in found)


def _lane(axes, pairs, network: Network, group) -> str:
  """Permutes one way and the other way around a ring run at the same time."""
  name = '+'.join(axes)
  if network.crosses_slices(group):
    return f'dcn {name}'
  if pairs:
    forward = sum(b > a for a, b in pairs) * 2 >= len(pairs)
    return f'{name} {"forward" if forward else "backward"}'
  return name


def _group(text: str, network: Network) -> list[int]:
  """Devices of the group that device 0 is in."""
  mesh = re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S+)\))?\s*'
    r'\{([^}]*)\}',
    text,
  )
  if mesh:
    return _mesh_group(mesh[1], mesh[2], mesh[3])
  iota = re.search(
    r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text
  )
  if iota:
    shape, dims = ([int(i) for i in iota[k].split(',')] for k in (1, 2))
    ids = np.arange(math.prod(dims)).reshape(dims)
    if iota[3]:
      ids = ids.transpose([int(i) for i in iota[3].split(',')])
    return ids.reshape(shape)[0].tolist()
  plain = re.search(r'replica_groups=\{\{([\d,]+)\}', text)
  if plain:
    return [int(i) for i in plain[1].split(',')]
  if 'replica_groups={}' in text:
    return list(range(len(network.places)))
  raise ValueError(
    'The compiler writes the groups of a collective in a way that is not known '
    f'here: {text[:200]}'
  )


def _mesh_group(
  sizes_text: str, order_text: str | None, axes_text: str
) -> list[int]:
  """Reads 'a'=8,'b'=4 and the axes of it, 'b' or a part of one, 'b':(2)2.

  The order of the devices, if another than 0, 1, ..., is written as
  [4,8]T(1,0): they are numbered along the axes of that shape, then transposed.
  """
  sizes = {
    name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes_text)
  }
  ids = np.arange(math.prod(sizes.values()))
  if order_text is not None:
    order = re.fullmatch(r'\[([\d,]+)\]T\(([\d,]+)\)', order_text)
    if order is None:
      raise ValueError(
        f'The compiler orders devices in a way that is not known here: '
        f'{order_text}'
      )
    shape, axes = ([int(i) for i in order[k].split(',')] for k in (1, 2))
    ids = ids.reshape(shape).transpose(axes)
  ids = ids.reshape(tuple(sizes.values()))
  chosen = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes_text)
  parts: dict[str, list[tuple[int, int]]] = {}
  for name, before, size in chosen:
    part = (int(before), int(size)) if before else (1, sizes[name])
    parts.setdefault(name, []).append(part)
  for axis, (name, size) in enumerate(sizes.items()):
    keep = np.zeros(1, int)
    for before, width in parts.get(name, []):
      stride = size // (before * width)
      keep = (keep[:, None] + np.arange(width) * stride).reshape(-1)
    ids = np.take(ids, np.sort(keep), axis)
  return ids.reshape(-1).tolist()
