"""The plan of a run on GPUs: by the roofline, for nothing compiles for them."""

from collections.abc import Mapping, Sequence

import jax

from model.params import count
from train.config import TrainConfig
from train.laws.advice import Repetition, advise
from train.planning import memory, roofline
from train.planning.budget import budget
from train.planning.expected import expected_arrays, is_fused
from train.planning.keeps import kept_by
from train.planning.layout import Layout, lay_out
from train.planning.operations import attention_operations, product_operations
from train.planning.plan import ARRAYS, Plan
from train.planning.speed import Traffic, speed_of
from train.planning.topologies import Topology


def plan_gpus(
  config: TrainConfig,
  topology: Topology,
  price: float | None,
  data: Sequence[Repetition] = (),
) -> Plan:
  """Plans a run on GPUs.

  Args:
    config: the run.
    topology: hosts and GPUs of each.
    price: of a GPU for an hour, or None.
    data: how often each dataset is read; empty: not known.

  Raises:
    ValueError: the run does not fit the mesh.
  """
  layout = lay_out(config, topology.devices)
  speeds = roofline.gpu_bandwidth(topology.chip, layout.mesh, topology.shape[1])
  found = roofline.estimate(layout, chip=topology.chip, bandwidth=speeds)
  traffic = _traffic(found, topology, speeds)
  waiting = {'all axes': found.exposed, 'the link to the host': found.waiting}
  speed = speed_of(
    config,
    topology,
    products=found.products,
    kernels=found.attention,
    elementwise=found.elementwise + found.update,
    exposed={name: seconds for name, seconds in waiting.items() if seconds},
    traffic=traffic,
    flops={config.model.compute_dtype: _operations(config)},
  )
  parameters = count(jax.eval_shape(layout.recipe.init).params)
  advice = advise(config, parameters=parameters, data=data)
  return Plan(
    topology=str(topology),
    chips=topology.chips,
    mesh=dict(layout.mesh),
    parameters=parameters,
    method='roofline',
    memory=_memory(layout, found),
    refusal='',
    speed=speed,
    traffic=traffic,
    budget=budget(
      config,
      parameters=parameters,
      step_seconds=speed.step,
      chips=topology.chips,
      price=price,
      advice=advice,
    ),
    advice=advice,
    versions={'jax': jax.__version__},
    options={},
    compile_seconds=0.0,
    cached=False,
  )


def _operations(config: TrainConfig) -> int:
  """Of the matrix products of a step, attention included."""
  keeps = kept_by(config.model)
  fused = is_fused(config.model)
  return int(
    product_operations(config, keeps)
    + attention_operations(config, keeps, fused=fused)
  )


def _traffic(
  found: roofline.Estimate, topology: Topology, speeds: Mapping[str, float]
) -> tuple[Traffic, ...]:
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


def _memory(layout: Layout, found: roofline.Estimate) -> memory.Memory:
  state = jax.eval_shape(layout.recipe.init)
  parts, host = memory.split_by_memory(state, layout.shardings)
  return memory.Memory(
    **parts,
    batch=0,
    temporaries=found.kept + found.working,
    code=0,
    host=host,
    usable=found.usable,
    placed=None,
    arrays=(
      *memory.state_arrays(layout.recipe, layout.shardings, ARRAYS // 2),
      *expected_arrays(layout.config, layout.mesh),
    ),
  )
