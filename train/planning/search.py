"""Looks for the mesh, remat policy and microbatch with the fastest step.

Everything is first estimated by the roofline, which takes milliseconds; what it
says cannot fit, or is slow, is not compiled. The best few are compiled in the
order of the estimate, and ranked by their plans.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from model.config import REMATS
from train.config import MESH_AXES, MeshConfig, TrainConfig
from train.laws.advice import Repetition
from train.mesh import make_mesh
from train.planning import roofline, topologies
from train.planning.cache import Cache
from train.planning.keeps import Keeps
from train.planning.layout import Layout, lay_out
from train.planning.make import make_plan
from train.planning.network import network_of
from train.planning.plan import Plan
from train.planning.report import gib
from train.planning.topologies import Topology
from train.state import make_recipe

# The estimate of memory is rough: what it puts this far beyond the chip is not
# compiled, and what it puts under it is.
_MEMORY_MARGIN = 1.3
_SEARCHED = ('data', 'fsdp', 'tensor')


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to lay a run out.

  Attributes:
    config: the run with it.
    estimate: by the roofline; None where it cannot be built.
    why_not: why it is out of the question, or ''.
    plan: compiled; None where it was not.
  """

  config: TrainConfig
  estimate: roofline.Estimate | None
  why_not: str
  plan: Plan | None = None

  @property
  def name(self) -> str:
    """Flags that choose it."""
    mesh = ' '.join(
      f'--config.mesh.{axis}={size}'
      for axis, size in zip(MESH_AXES, self.config.mesh.sizes, strict=True)
      if axis in _SEARCHED
    )
    return (
      f'{mesh} --config.model.remat={self.config.model.remat} '
      f'--config.accumulation_steps={self.config.accumulation_steps}'
    )


def search(
  config: TrainConfig,
  topology: Topology,
  *,
  price: float | None,
  cache: Cache,
  augmented: bool,
  compiled: int,
  data: Sequence[Repetition] = (),
) -> list[Candidate]:
  """Ranks the ways to lay a run out, the best first.

  Args:
    config: the run; its other mesh axes stay as they are.
    topology: the machine.
    price: of a chip for an hour, or None.
    cache: of compiled programs.
    augmented: whether batches are augmented.
    compiled: how many to compile at most.
    data: how often each dataset is read; empty: not known.

  Returns:
    Those with a plan that fits by its time, then those that do not fit, then
    those that were not compiled by their estimates, then the impossible ones.
  """
  estimator = _Estimator(config, topology)
  candidates = [
    estimator.candidate(variant)
    for variant in variants(config, topology.devices)
  ]
  possible = sorted(
    (c for c in candidates if not c.why_not),
    key=lambda c: c.estimate.seconds if c.estimate else math.inf,
  )
  planned: list[Candidate] = []
  fitting = 0
  for candidate in possible:
    # Another try replaces one that does not fit, but not for ever.
    if fitting >= compiled or len(planned) >= 2 * compiled:
      break
    plan = make_plan(
      candidate.config,
      topology,
      price=price,
      cache=cache,
      augmented=augmented,
      data=data,
    )
    fitting += plan.memory.fits
    planned.append(dataclasses.replace(candidate, plan=plan))
  rest = possible[len(planned) :]
  return (
    sorted(planned, key=_rank) + rest + [c for c in candidates if c.why_not]
  )


def _rank(candidate: Candidate) -> tuple[bool, float]:
  plan = candidate.plan
  assert plan is not None
  seconds = plan.speed.step if plan.speed else math.inf
  return (not plan.memory.fits, seconds)


def variants(config: TrainConfig, devices: int) -> Iterator[TrainConfig]:
  """Every mesh, remat policy and power of two of slices of a run.

  Args:
    config: the run.
    devices: JAX devices of the machine.
  """
  sizes = dict(zip(MESH_AXES, config.mesh.sizes, strict=True))
  others = math.prod(n for axis, n in sizes.items() if axis not in _SEARCHED)
  others *= math.prod(config.mesh.dcn)
  if others < 1 or devices % others:
    raise ValueError(
      f'--search lays out mesh.data, mesh.fsdp and mesh.tensor; the other mesh '
      f'axes and mesh.dcn take {others} of {devices} devices, which does not '
      'divide. Set them to numbers that do.'
    )
  free = devices // others
  for tensor in _divisors(free):
    if config.model.num_heads % tensor or config.model.mlp_dim % tensor:
      continue
    for fsdp in _divisors(free // tensor):
      data = free // tensor // fsdp
      chosen = sizes | {'data': data, 'fsdp': fsdp, 'tensor': tensor}
      mesh = dataclasses.replace(
        config.mesh, sizes=tuple(chosen[axis] for axis in MESH_AXES)
      )
      slices = 1
      while config.batch_size % (slices * data * fsdp) == 0:
        for remat in REMATS:
          yield dataclasses.replace(
            config,
            mesh=mesh,
            model=dataclasses.replace(config.model, remat=remat),
            accumulation_steps=slices,
            evaluation_batch_size=config.batch_size // slices,
          )
        slices *= 2


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]


def estimate_run(
  config: TrainConfig, topology: Topology, keeps: Keeps | None = None
) -> roofline.Estimate:
  """A run by the roofline, of TPUs too.

  Args:
    config: the run.
    topology: the machine.
    keeps: what layers keep for the backward pass; None: as the run says.

  Raises:
    ValueError: the run does not fit the mesh.
  """
  estimator = _Estimator(config, topology)
  layout, bandwidth = estimator.lay_out(config)
  return roofline.estimate(
    layout, chip=topology.chip, bandwidth=bandwidth, keeps=keeps
  )


class _Estimator:
  """Estimates variants of a run; what only the mesh decides, once a mesh."""

  def __init__(self, config: TrainConfig, topology: Topology):
    self.topology = topology
    self.recipe = make_recipe(config)
    self.devices = (
      topologies.devices(topology) if topology.chip.is_tpu else None
    )
    self.layouts: dict[MeshConfig, tuple[Layout, dict[str, float]] | str] = {}

  def candidate(self, config: TrainConfig) -> Candidate:
    """A variant with its estimate, and why it is out of the question."""
    if config.mesh not in self.layouts:
      try:
        self.layouts[config.mesh] = self.lay_out(config)
      except ValueError as error:
        self.layouts[config.mesh] = str(error)
    known = self.layouts[config.mesh]
    if isinstance(known, str):
      return Candidate(config, None, known)
    layout, bandwidth = known
    found = roofline.estimate(
      dataclasses.replace(layout, config=config),
      chip=self.topology.chip,
      bandwidth=bandwidth,
    )
    return Candidate(config, found, _too_much(found))

  def lay_out(self, config: TrainConfig) -> tuple[Layout, dict[str, float]]:
    """The state on a mesh, and the speed of each axis, in bytes a second."""
    topology = self.topology
    layout = lay_out(config, topology.devices, self.recipe)
    if self.devices is None:
      gpus = topology.shape[1]  # Of a host.
      return layout, roofline.gpu_bandwidth(topology.chip, layout.mesh, gpus)
    mesh = make_mesh(config.mesh, self.devices)
    network = network_of(mesh, topology.chip, topology.shape)
    ids = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    bandwidth = {}
    for number, axis in enumerate(mesh.axis_names):
      group = np.moveaxis(ids, number, 0).reshape(ids.shape[number], -1)[:, 0]
      bandwidth[axis] = network.bandwidth(group.tolist())
    return layout, bandwidth


def _too_much(found: roofline.Estimate) -> str:
  """What of an estimate does not fit, in words; '' where it may."""
  if found.bytes <= _MEMORY_MARGIN * found.usable:
    return ''
  parts = {
    'the state': found.state,
    'activations kept for the backward pass': found.kept,
    'gradients, gathered weights, scores and logits': found.working,
  }
  worst = max(parts, key=lambda name: parts[name])
  return (
    f'needs about {gib(found.bytes)} of {gib(found.usable)}, most of it for '
    f'{worst} ({gib(parts[worst])})'
  )
