"""Plans a run: what it needs of each chip, how fast it is, what it costs."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from model.flops import mean_context, training_flops_per_token
from model.params import count
from train.compiler_options import compiler_options, libtpu_version
from train.config import TrainConfig
from train.mesh import mesh_shape
from train.planning import kernels, memory, roofline, timeline, topologies
from train.planning.budget import Budget, budget
from train.planning.cache import Cache
from train.planning.dimensions import dimensions
from train.planning.hlo import parse
from train.planning.memory import Memory
from train.planning.network import Network, network_of
from train.planning.program import Program, compile_program
from train.planning.topologies import Topology
from train.setup import Setup, make_setup
from train.state import make_recipe, state_shardings

_ARRAYS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
  """Collectives of one kind along some mesh axes, of one device in a step."""

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
  binds: str
  flops: dict[str, int]
  model_flops: float
  mfu: float
  tokens_a_second: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """All that is known of a run on a topology before it has begun."""

  topology: str
  chips: int
  mesh: dict[str, int]
  parameters: int
  method: str
  memory: Memory
  refusal: str
  speed: Speed | None
  traffic: tuple[Traffic, ...]
  budget: Budget | None
  versions: dict[str, str | None]
  options: dict[str, str]
  compile_seconds: float
  cached: bool


def make_plan(
  config: TrainConfig,
  topology: Topology,
  *,
  price: float | None,
  cache: Cache,
  augmented: bool = False,
) -> Plan:
  """Plans a run.

  Args:
    config: the run.
    topology: the machine.
    price: of a chip for an hour, or None.
    cache: of compiled programs.
    augmented: whether batches are augmented.

  Raises:
    ValueError: the run does not fit the mesh, or cannot be planned here.
  """
  if not topology.chip.is_tpu:
    return _plan_gpus(config, topology, price)
  setup = make_setup(config, topologies.devices(topology))
  program = compile_program(setup, cache, augmented=augmented)
  return _plan_program(setup, topology, program, price)


def is_fused(config: TrainConfig, topology: Topology) -> bool:
  """Whether the model's attention is a kernel that keeps scores to itself."""
  chosen = getattr(config.model, 'attention', 'xla')
  if chosen == 'auto':
    return topology.chip.name != 'cpu'
  return chosen != 'xla'


def _plan_program(
  setup: Setup, topology: Topology, program: Program, price: float | None
) -> Plan:
  config, chip = setup.config, topology.chip
  mesh = dict(setup.mesh.shape)
  kind = setup.mesh.devices.flat[0].device_kind
  network = network_of(setup.mesh, chip, topology.shape)
  speed, traffic, arrays = None, (), []
  parameters = count(jax.eval_shape(setup.recipe.init).params)
  if program.text:
    module = parse(program.text)
    visible = mean_context(config.model) / config.sequence_length
    ran = timeline.run(
      module,
      network,
      lambda call: kernels.kernel_seconds(call, visible, chip),
    )
    speed = _speed(config, topology, ran, program.flops)
    traffic = _traffic(ran, network)
    arrays = memory.live_arrays(module, dimensions(config, mesh), _ARRAYS)
  return Plan(
    topology=str(topology),
    chips=topology.chips,
    mesh=mesh,
    parameters=parameters,
    method='compiled',
    memory=_memory(setup, topology, program, arrays),
    refusal=program.refusal,
    speed=speed,
    traffic=traffic,
    budget=None
    if speed is None
    else budget(
      config,
      parameters=parameters,
      step_seconds=speed.step,
      chips=topology.chips,
      price=price,
    ),
    versions={'jax': jax.__version__, 'libtpu': libtpu_version()},
    options=compiler_options(kind),
    compile_seconds=program.compile_seconds,
    cached=program.cached,
  )


def _memory(
  setup: Setup, topology: Topology, program: Program, arrays: list
) -> Memory:
  state = jax.eval_shape(setup.recipe.init)
  shardings, held = setup.shardings, program.memory
  parts = {
    name: memory.tree_bytes(getattr(state, field), getattr(shardings, field))
    for name, field in (
      ('parameters', 'params'),
      ('optimizer', 'opt_state'),
      ('average', 'ema'),
    )
  }
  given = memory.compiler_memory(program.refusal)
  if program.text:
    # Arguments are padded to tiles; the padding is counted with the batch.
    batch = held['argument_size_in_bytes'] - sum(parts.values())
    temporaries = (
      held['temp_size_in_bytes']
      + held['output_size_in_bytes']
      - held['alias_size_in_bytes']
    )
  else:
    batch, temporaries = 0, None if given is None else given[0]
    arrays = _expected_arrays(setup, topology)
  usable = int(topology.chip.usable_hbm / topology.chip.devices)
  states = memory.state_arrays(setup.recipe, shardings, _ARRAYS // 2)
  return Memory(
    **parts,
    batch=max(0, batch),
    temporaries=temporaries,
    code=held.get('generated_code_size_in_bytes', 0),
    host=held.get('host_argument_size_in_bytes', 0)
    + held.get('host_temp_size_in_bytes', 0),
    usable=usable,
    arrays=(*states, *arrays),
  )


def _expected_arrays(setup: Setup, topology: Topology) -> list[memory.Array]:
  """The arrays that must be among those that did not fit, by arithmetic."""
  config = setup.config
  return expected_arrays(
    config, dict(setup.mesh.shape), is_fused(config, topology)
  )


def expected_arrays(
  config: TrainConfig, mesh: Mapping[str, int], fused: bool
) -> list[memory.Array]:
  """Large temporaries of a step, known from the architecture alone."""
  model = config.model
  tensor = mesh.get('tensor', 1)
  devices = math.prod(mesh.values())
  rows = config.batch_size * tensor // (devices * config.accumulation_steps)
  T, L = config.sequence_length, model.num_layers
  value = 2 if model.compute_dtype == 'bfloat16' else 4
  kept = roofline.kept_values(config, tensor)
  heads = max(1, model.num_heads // tensor)
  found = [
    memory.Array(
      f'activations kept for the backward pass (model.remat = {model.remat!r})',
      f'{model.compute_dtype}[{L}, {rows}, {T}, {kept:.0f}]',
      'layers batch length kept',
      int(L * rows * T * kept * value),
    ),
    memory.Array(
      'logits of a chunk of the loss',
      f'float32[{rows}, {config.loss.chunk}, {model.vocab_size // tensor}]',
      'batch chunk vocab',
      rows * config.loss.chunk * (model.vocab_size // tensor) * 4,
    ),
  ]
  if not fused:
    stacked = L if model.remat == 'none' else 1
    found.append(
      memory.Array(
        "scores of attention without a kernel"
        + (', of all layers' if stacked > 1 else ', of one layer'),
        f'float32[{stacked}, {rows}, {heads}, {T}, {T}]',
        'layers batch heads length length',
        rows * heads * T * T * (4 if stacked == 1 else stacked * value),
      )
    )
  return sorted(found, key=lambda a: -a.bytes)


def _speed(
  config: TrainConfig,
  topology: Topology,
  ran: timeline.Timeline,
  flops: dict[str, int],
) -> Speed:
  exposed = {
    ' + '.join(axes) or 'none': seconds
    for axes, seconds in ran.exposed.items()
    if seconds > 0
  }
  return speed_of(
    config,
    topology,
    products=ran.products,
    kernel_time=ran.kernels,
    elementwise=ran.elementwise,
    exposed=exposed,
    flops=flops,
  )


def speed_of(
  config: TrainConfig,
  topology: Topology,
  *,
  products: float,
  kernel_time: float,
  elementwise: float,
  exposed: dict[str, float],
  flops: dict[str, int],
) -> Speed:
  """What follows from the parts of a step."""
  waiting = sum(exposed.values())
  step = products + kernel_time + elementwise + waiting
  tokens = config.batch_size * config.sequence_length
  model_flops = tokens * training_flops_per_token(config.model)
  peak = topology.chips * topology.chip.peaks['bfloat16']
  shares = {
    'matrix products': products,
    'attention kernels': kernel_time,
    'memory traffic beside the products': elementwise,
    'waiting for collectives': waiting,
  }
  binds = max(shares, key=lambda name: shares[name])
  return Speed(
    step=step,
    products=products,
    kernels=kernel_time,
    elementwise=elementwise,
    exposed=exposed,
    binds=f'{binds}, {shares[binds] / step:.0%} of the step',
    flops=flops,
    model_flops=model_flops,
    mfu=model_flops / step / peak,
    tokens_a_second=tokens / step / topology.chips,
  )


def _traffic(ran: timeline.Timeline, network: Network) -> tuple[Traffic, ...]:
  rows: dict[tuple, list] = {}
  for one, times in ran.collectives.items():
    joined = 'DCN' if one.lane.startswith('dcn') else 'ICI'
    key = (one.kind, ' + '.join(one.axes) or 'none', joined, one.dtype)
    row = rows.setdefault(key, [0, 0, 0.0])
    row[0] += times
    row[1] += times * one.bytes
    row[2] += times * one.seconds
  del network
  return tuple(
    Traffic(
      kind=kind,
      axes=axes,
      network=joined,
      dtype=dtype,
      count=number,
      bytes=size,
      seconds=seconds,
    )
    for (kind, axes, joined, dtype), (number, size, seconds) in sorted(
      rows.items(), key=lambda item: -item[1][1]
    )
  )


def _plan_gpus(
  config: TrainConfig, topology: Topology, price: float | None
) -> Plan:
  """The analytic plan: nothing is compiled for GPUs here."""
  names = tuple(name for name, _ in config.mesh.axes)
  sizes = mesh_shape(config.mesh, topology.devices)
  mesh = dict(zip(names, sizes, strict=True))
  recipe = make_recipe(config)
  abstract = AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))
  shardings = state_shardings(recipe, abstract)
  state = jax.eval_shape(recipe.init)
  parts = {
    field: memory.tree_bytes(getattr(state, field), getattr(shardings, field))
    for field in ('params', 'opt_state', 'ema')
  }
  fused = is_fused(config, topology)
  found = roofline.estimate(
    config,
    chip=topology.chip,
    mesh=mesh,
    bandwidth=roofline.gpu_bandwidth(topology.chip, mesh, topology.shape[1]),
    parts=roofline.Parts(
      state=sum(parts.values()), parameters=parts['params']
    ),
    fused_attention=fused,
  )
  total = {
    config.model.compute_dtype: int(
      roofline.product_operations(config)
      + roofline.attention_operations(config, fused)
    )
  }
  speed = speed_of(
    config,
    topology,
    products=found.products,
    kernel_time=found.attention,
    elementwise=found.elementwise + found.update,
    exposed={'all axes': found.exposed} if found.exposed else {},
    flops=total,
  )
  parameters = count(state.params)
  return Plan(
    topology=str(topology),
    chips=topology.chips,
    mesh=mesh,
    parameters=parameters,
    method='roofline',
    memory=Memory(
      parameters=parts['params'],
      optimizer=parts['opt_state'],
      average=parts['ema'],
      batch=0,
      temporaries=found.kept + found.working,
      code=0,
      host=0,
      usable=found.usable,
      arrays=(
        *memory.state_arrays(recipe, shardings, _ARRAYS // 2),
        *expected_arrays(config, mesh, fused),
      ),
    ),
    refusal='',
    speed=speed,
    traffic=_roofline_traffic(found, mesh, topology),
    budget=budget(
      config,
      parameters=parameters,
      step_seconds=speed.step,
      chips=topology.chips,
      price=price,
    ),
    versions={'jax': jax.__version__},
    options={},
    compile_seconds=0.0,
    cached=False,
  )


def _roofline_traffic(
  found: roofline.Estimate, mesh: Mapping[str, int], topology: Topology
) -> tuple[Traffic, ...]:
  speeds = roofline.gpu_bandwidth(topology.chip, mesh, topology.shape[1])
  return tuple(
    Traffic(
      kind='all',
      axes=axis,
      network='NVLink'
      if speeds[axis] == topology.chip.ici_bandwidth
      else 'network',
      dtype='',
      count=0,
      bytes=int(seconds * speeds[axis]),
      seconds=seconds,
    )
    for axis, seconds in found.collectives.items()
  )


def as_json(plan: Plan) -> dict[str, Any]:
  """A plan as JSON holds it."""
  found = dataclasses.asdict(plan)
  found['memory']['needed'] = plan.memory.needed
  found['memory']['fits'] = plan.memory.fits
  return found
