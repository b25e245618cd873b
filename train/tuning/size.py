"""How many trials are computed at a time."""

import os
from collections.abc import Mapping
from typing import Any

import jax

from train.config import MeshConfig
from train.distributed import agreed

# Suggestions learn from trials that have ended: no more than this share of a
# study is on its way at a time.
_SHARE = 5
_MOST_A_DEVICE = 16


class OutOfMemoryError(Exception):
  """So many trials do not fit into the memory of a device."""


def takes_all_devices(mesh: MeshConfig) -> bool:
  """Whether a trial is split over all devices, and is computed alone on them.

  It is where processes train together, or a mesh is asked for.
  """
  asked = any(size > 1 for size in (*mesh.sizes, *mesh.dcn))
  return jax.process_count() > 1 or asked


def chosen_size(asked: int | None, trials: int, devices: int) -> int:
  """Slots of a population, a multiple of the devices.

  Args:
    asked: by the search; None: as many as help.
    trials: of the study.
    devices: that share the slots.
  """
  if asked is None:
    asked = max(1, min(trials // _SHARE, _MOST_A_DEVICE * devices))
  return -(-asked // devices) * devices


def check_memory(needed: Mapping[str, int], device: Any) -> None:
  """Compares what a compiled step needs with what a device has.

  Args:
    needed: as `Population.compile` tells.
    device: one of those that share the slots.

  Raises:
    OutOfMemoryError: it is too much, here or for another process.
  """
  usable = _usable(device)
  if agreed(sum(needed.values()) > usable):
    parts = ', '.join(f'{v / 1e9:.2f} GB {k}' for k, v in needed.items())
    raise OutOfMemoryError(
      f'A step needs {parts}, and a device has {usable / 1e9:.2f} GB.'
    )


def _usable(device: Any) -> float:
  """Bytes of a device; of a CPU, what the machine has free."""
  statistics = device.memory_stats()
  if statistics and 'bytes_limit' in statistics:
    return statistics['bytes_limit']
  return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def is_out_of_memory(error: BaseException) -> bool:
  """Whether an error of the compiler or of a step is one of memory."""
  return 'RESOURCE_EXHAUSTED' in str(error)
