"""A run that goes on with other devices takes the same steps."""

import re
import signal

import numpy as np
import pytest
import runs
from processes import Cluster

from train.exits import START_AGAIN

pytestmark = pytest.mark.slow

FIELDS = {
  'steps': 60,
  'batch_size': 16,
  'evaluation__every': 60,
  'model__compute_dtype': 'float32',
}
# Devices, and how they share the work.
LEGS = [
  (8, {'mesh__fsdp': 8}),
  (16, {'mesh__data': 2, 'mesh__fsdp': 8}),
  (4, {'mesh__data': 4, 'accumulation_steps': 2}),
  (2, {'mesh__tensor': 2, 'mesh__data': 1}),
  (1, {'mesh__data': 1, 'accumulation_steps': 4}),
]


def command(folder, workdir, mesh):
  return runs.command('train', folder, workdir, **FIELDS | mesh)


def test_eight_devices_then_sixteen_four_two_and_one(tmp_path, record_property):
  devices, mesh = LEGS[0]
  with Cluster(
    [command(tmp_path, 'whole', mesh)], [runs.environment(devices)], tmp_path
  ) as cluster:
    cluster.wait([0])
  wanted, starts = runs.numbers(tmp_path / 'whole'), []
  for number, (devices, mesh) in enumerate(LEGS, start=1):
    last = number == len(LEGS)
    with Cluster(
      [command(tmp_path, 'legs', mesh)], [runs.environment(devices)], tmp_path
    ) as cluster:
      while not last and runs.last_step(tmp_path / 'legs') < 10 * number:
        cluster.check_time()
      if not last:
        cluster.signal(0, signal.SIGTERM)
      (output,) = cluster.wait([0 if last else START_AGAIN])
    (start,) = re.findall(r'steps (\d+) to 60', output)
    starts.append(int(start))
  found = runs.numbers(tmp_path / 'legs')
  assert sorted(found) == sorted(wanted) == list(range(1, 61))
  losses = np.array([[found[s][0], wanted[s][0]] for s in sorted(found)])
  difference = np.abs(losses[:, 0] - losses[:, 1])
  # On the same mesh to the last bit, then within rounding.
  assert not difference[: starts[1]].any()
  assert difference.max() < 1e-5, difference
  record_property('largest difference of a loss', f'{difference.max():.1e}')
