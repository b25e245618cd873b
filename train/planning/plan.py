"""Plans a run: what it needs of each chip, how fast it is, what it costs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from model.flops import mean_context
from model.params import count
from train.compiler_options import compiler_options, libtpu_version
from train.config import TrainConfig
from train.laws.advice import Advice, Repetition, advise
from train.planning import kernels, memory, timeline, topologies
from train.planning.budget import Budget, budget
from train.planning.cache import Cache
from train.planning.dimensions import dimensions
from train.planning.expected import expected_arrays
from train.planning.hlo import Module, parse
from train.planning.memory import Memory
from train.planning.network import network_of
from train.planning.program import Program, compile_program
from train.planning.speed import Speed, Traffic, speed_of, traffic_of
from train.planning.topologies import Topology
from train.setup import Setup, make_setup

# Temporaries that a plan names, and twice the arrays of the state.
ARRAYS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """All that is known of a run on a topology before it has begun.

  Attributes:
    topology: the machine.
    chips: of all slices.
    mesh: devices along each mesh axis.
    parameters: values of the model.
    method: 'compiled', or 'roofline' where nothing was.
    memory: of one device.
    refusal: what the compiler said where memory does not suffice, else ''.
    speed: None where it did not compile.
    traffic: collectives, most bytes first.
    budget: the whole run; None where it did not compile.
    advice: what published laws say of the run.
    versions: of jax and the compiler.
    options: that the compiler was given.
    compile_seconds: now, or when the program was cached.
    cached: whether the program came from the cache.
  """

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
  advice: Advice
  versions: dict[str, str | None]
  options: dict[str, str]
  compile_seconds: float
  cached: bool


def plan_tpus(
  config: TrainConfig,
  topology: Topology,
  *,
  price: float | None,
  cache: Cache,
  augmented: bool = False,
  data: Sequence[Repetition] = (),
) -> Plan:
  """Plans a run on TPUs by compiling its training step for them.

  Args:
    config: the run.
    topology: the machine.
    price: of a chip for an hour, or None.
    cache: of compiled programs.
    augmented: whether batches are augmented.
    data: how often each dataset is read; empty: not known.

  Raises:
    ValueError: the run does not fit the mesh, or cannot be planned here.
  """
  assert topology.chip.is_tpu
  setup = make_setup(config, topologies.devices(topology))
  program = compile_program(setup, cache, augmented=augmented)
  parameters = count(jax.eval_shape(setup.recipe.init).params)
  advice = advise(setup.config, parameters=parameters, data=data)
  module = parse(program.text) if program.text else None
  speed: Speed | None = None
  traffic: tuple[Traffic, ...] = ()
  run: Budget | None = None
  if module is not None:
    speed, traffic = _speed(setup, topology, module, program)
    run = budget(
      setup.config,
      parameters=parameters,
      step_seconds=speed.step,
      chips=topology.chips,
      price=price,
      advice=advice,
    )
  return Plan(
    topology=str(topology),
    chips=topology.chips,
    mesh=dict(setup.mesh.shape),
    parameters=parameters,
    method='compiled',
    memory=_memory(setup, topology, program, module),
    refusal=program.refusal,
    speed=speed,
    traffic=traffic,
    budget=run,
    advice=advice,
    versions={'jax': jax.__version__, 'libtpu': libtpu_version()},
    options=compiler_options(setup.mesh.devices.flat[0].device_kind),
    compile_seconds=program.compile_seconds,
    cached=program.cached,
  )


def _speed(
  setup: Setup, topology: Topology, module: Module, program: Program
) -> tuple[Speed, tuple[Traffic, ...]]:
  config, chip = setup.config, topology.chip
  experts = dict(config.mesh.rules)['experts']
  fractions = kernels.Fractions(
    visible=mean_context(config.model) / config.sequence_length,
    grouped=1 / math.prod(setup.mesh.shape[axis] for axis in experts),
  )
  ran = timeline.run(
    module,
    network_of(setup.mesh, chip, topology.shape),
    lambda call: kernels.kernel_seconds(call, fractions, chip),
  )
  exposed = {
    ' + '.join(axes) or 'none': seconds
    for axes, seconds in ran.exposed.items()
    if seconds > 0
  }
  traffic = traffic_of(ran)
  speed = speed_of(
    config,
    topology,
    products=ran.products,
    kernels=ran.kernels,
    elementwise=ran.elementwise,
    exposed=exposed,
    traffic=traffic,
    flops=program.flops,
  )
  return speed, traffic


def _memory(
  setup: Setup, topology: Topology, program: Program, module: Module | None
) -> Memory:
  state = jax.eval_shape(setup.recipe.init)
  parts, host = memory.split_by_memory(state, setup.shardings)
  arrays = memory.state_arrays(setup.recipe, setup.shardings, ARRAYS // 2)
  held, mesh = program.memory, dict(setup.mesh.shape)
  temporaries: int | None
  batch = 0
  if module is None:
    temporaries = memory.refused_temporaries(
      program.refusal, sum(parts.values())
    )
    arrays += expected_arrays(setup.config, mesh)
  else:
    host = held['host_argument_size_in_bytes'] + held['host_temp_size_in_bytes']
    # Arguments are padded to tiles; the padding is counted with the batch.
    batch = max(0, held['argument_size_in_bytes'] - sum(parts.values()))
    temporaries = (
      held['temp_size_in_bytes']
      + held['output_size_in_bytes']
      - held['alias_size_in_bytes']
    )
    arrays += memory.live_arrays(module, dimensions(setup.config, mesh), ARRAYS)
  return Memory(
    **parts,
    batch=batch,
    temporaries=temporaries,
    code=held.get('generated_code_size_in_bytes', 0),
    host=host,
    usable=int(topology.chip.usable_hbm / topology.chip.devices),
    placed=not program.refusal,
    arrays=tuple(arrays),
  )


def as_json(plan: Plan) -> dict[str, Any]:
  """A plan as JSON holds it."""
  found = dataclasses.asdict(plan)
  found['memory']['needed'] = plan.memory.needed
  found['memory']['fits'] = plan.memory.fits
  return found
