"""Seconds of a step, and what follows from them."""

import dataclasses
from collections.abc import Mapping

from model.flops import training_flops_per_token
from train.config import TrainConfig
from train.planning.timeline import Timeline
from train.planning.topologies import Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
  """Collectives of one kind along some mesh axes, of one device in a step.

  Attributes:
    kind: of collective, or 'all' where only a sum is known.
    axes: mesh axes along which it communicates.
    network: what joins the devices: ICI, DCN, NVLink or network.
    dtype: of the values, or ''.
    count: how often it runs.
    bytes: of whole arrays (collectives.Collective).
    seconds: that the links are busy, hidden or not.
  """

  kind: str
  axes: str
  network: str
  dtype: str
  count: int
  bytes: int
  seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
  """Seconds of a step and what follows from them.

  Attributes:
    step: the whole.
    products, kernels, elementwise: matrix products, hand-written kernels, and
      all else, mostly limited by memory.
    exposed: waiting for collectives, by mesh axes.
    overlapped: seconds of collectives that hide behind computing, in all.
    binds: the largest of them, in words.
    flops: operations of matrix products in the program, by type, over all
      devices, recomputation included.
    model_flops: of the model: attention once over visible pairs.
    mfu: model_flops a second, of the chips' bfloat16 peak.
    tokens_a_second: of a chip.
  """

  step: float
  products: float
  kernels: float
  elementwise: float
  exposed: dict[str, float]
  overlapped: float
  binds: str
  flops: dict[str, int]
  model_flops: float
  mfu: float
  tokens_a_second: float


def speed_of(
  config: TrainConfig,
  topology: Topology,
  *,
  products: float,
  kernels: float,
  elementwise: float,
  exposed: Mapping[str, float],
  traffic: tuple[Traffic, ...],
  flops: Mapping[str, int],
) -> Speed:
  """What follows from the parts of a step, in seconds."""
  waiting = sum(exposed.values())
  step = products + kernels + elementwise + waiting
  tokens = config.batch_size * config.sequence_length
  model_flops = tokens * training_flops_per_token(config.model)
  peak = topology.chips * topology.chip.peaks['bfloat16']
  shares = {
    'matrix products': products,
    'hand-written kernels': kernels,
    'memory traffic beside the products': elementwise,
    'waiting for collectives': waiting,
  }
  binds = max(shares, key=lambda name: shares[name])
  return Speed(
    step=step,
    products=products,
    kernels=kernels,
    elementwise=elementwise,
    exposed=dict(exposed),
    overlapped=max(0.0, sum(t.seconds for t in traffic) - waiting),
    binds=f'{binds}, {shares[binds] / step:.0%} of the step',
    flops=dict(flops),
    model_flops=model_flops,
    mfu=model_flops / step / peak,
    tokens_a_second=tokens / step / topology.chips,
  )


def traffic_of(ran: Timeline) -> tuple[Traffic, ...]:
  """The collectives of a program by kind, axes, network and type."""
  rows: dict[tuple[str, str, str, str], list[float]] = {}
  for one, times in ran.collectives.items():
    joined = 'DCN' if one.lane.startswith('dcn') else 'ICI'
    key = (one.kind, ' + '.join(one.axes) or 'none', joined, one.dtype)
    row = rows.setdefault(key, [0, 0, 0.0])
    row[0] += times
    row[1] += times * one.bytes
    row[2] += times * one.seconds
  found = [
    Traffic(
      kind=kind,
      axes=axes,
      network=joined,
      dtype=dtype,
      count=int(number),
      bytes=int(size),
      seconds=seconds,
    )
    for (kind, axes, joined, dtype), (number, size, seconds) in rows.items()
  ]
  return tuple(sorted(found, key=lambda t: (-t.bytes, t.kind, t.dtype)))
