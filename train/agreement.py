"""What one host asks for, known to all hosts at the same step.

Signals reach hosts at different moments, and their clocks differ. What each
asks for passes through a tiny program on the devices, behind the step that was
just dispatched, and its answer is read one step later, when it is there: nobody
waits, and all hosts act at the same step.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Agreement:
  """The largest of what the hosts ask for, one call later.

  All processes call it in the same order.

  Args:
    devices: all devices of the run.
    count: numbers that a host gives.
  """

  def __init__(self, devices: Sequence[Any], count: int):
    self._alone = jax.process_count() == 1
    self._answer: jax.Array | None = None
    self._count = count
    if self._alone:
      return
    mesh = Mesh(np.array(devices), ('devices',))
    self._sharding = NamedSharding(mesh, PartitionSpec('devices'))
    self._mine = sum(d.process_index == jax.process_index() for d in devices)
    self._largest = jax.jit(
      lambda asked_DN: asked_DN.max(axis=0),
      out_shardings=NamedSharding(mesh, PartitionSpec()),
    )

  def ask(self, *asked: int) -> list[int]:
    """Says what this host asks for.

    Args:
      *asked: numbers, 0 for nothing.

    Returns:
      The largest of each number of any host in the call before; a process that
      is alone gets its own at once.
    """
    assert len(asked) == self._count
    if self._alone:
      return list(asked)
    before, mine_DN = (
      self._answer,
      np.tile(np.array(asked, np.int32), (self._mine, 1)),
    )
    self._answer = self._largest(
      jax.make_array_from_process_local_data(self._sharding, mine_DN)
    )
    if before is None:
      return [0] * self._count
    return np.asarray(before).tolist()
