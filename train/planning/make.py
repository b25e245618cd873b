"""Plans a run on whatever machine is named."""

from collections.abc import Sequence

from train.config import TrainConfig
from train.laws.advice import Repetition
from train.planning.cache import Cache
from train.planning.gpus import plan_gpus
from train.planning.plan import Plan, plan_tpus
from train.planning.topologies import Topology


def make_plan(
  config: TrainConfig,
  topology: Topology,
  *,
  price: float | None,
  cache: Cache,
  augmented: bool = False,
  data: Sequence[Repetition] = (),
) -> Plan:
  """Plans a run: TPUs by compiling, GPUs by the roofline.

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
  if topology.chip.is_tpu:
    return plan_tpus(
      config,
      topology,
      price=price,
      cache=cache,
      augmented=augmented,
      data=data,
    )
  return plan_gpus(config, topology, price, data)
