"""Options of the TPU compiler, for each chip, with their reasons.

They are given with each compilation, not in the environment, so that a plan
and a run compile the same program. An option is no promise: a compiler that
does not know one refuses it by name, and so do we.

Estimated times below are of a SwiGLU layer, 16,384 tokens x 4,096 x 14,336,
forward and backward, compiled by libtpu 0.0.52 and 0.0.42.1: the sum of the
compiler's own estimated cycles.
"""

import re
from importlib import metadata

from train.chips import chip_of

# On-chip memory that one fused operation may use. With more of it, products are
# computed in larger tiles: 48 -> 39 ms on v5p, 116 -> 92 ms on v5e, 34 -> 23 ms
# on v6e. The price is compilation, five times as long.
_VMEM = 'xla_tpu_scoped_vmem_limit_kib'

# Arrays from this size on (MiB) are multiplied part by part while the parts go
# round a ring, in place of being gathered before. For parameters split by
# mesh.fsdp that makes products small: a Llama-2-7B step on v5p:2x4x4 is
# estimated at 4.8 s by default, and at 2.7 s with gathers, which run behind the
# products; it compiles in half the time. No array is as large as this.
_EINSUM = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'}

# Products of rows with the matrix of their group (jax.lax.ragged_dot, of a
# mixture of experts) by a kernel that multiplies each row once. Without it
# every row is multiplied with every matrix and most results are dropped: 65,536
# rows and 8 matrices of 2,048 x 2,048 cost 8 times the operations, and v6e is
# estimated at 621 ms. It is the default of libtpu 0.0.42.1 on every chip, and
# was not of 0.0.52 but on v5p. The gradient of the matrices is computed in the
# dense way with it and without.
_GROUPED = {'xla_tpu_enable_ragged_dot_kernel': 'true'}

COMPILER_OPTIONS: dict[str, dict[str, str]] = {
  'v4': {**_EINSUM, **_GROUPED},
  'v5e': {_VMEM: '65536', **_EINSUM, **_GROUPED},
  'v5p': {_VMEM: '49152', **_EINSUM, **_GROUPED},
  'v6e': {_VMEM: '98304', **_EINSUM, **_GROUPED},
  # 61,440 is the value of the published recipes for this chip; it is the only
  # option of theirs that both compilers take and that changes a dense model.
  'tpu7x': {_VMEM: '61440', **_EINSUM, **_GROUPED},
}

# Known, and not used:
# - xla_tpu_enable_async_collective_fusion_* on v5p and v6e: libtpu 0.0.52
#   refuses them there, for results could be wrong (0.0.42.1 took them).
# - xla_tpu_impure_oom_fast_exit_threshold: not an option of one compilation.


class CompilerOptionError(ValueError):
  """The installed compiler refuses an option of the table."""


def compiler_options(device_kind: str) -> dict[str, str]:
  """The options to compile with for a device; empty where there are none."""
  chip = chip_of(device_kind)
  return {} if chip is None else COMPILER_OPTIONS.get(chip.name, {})


def libtpu_version() -> str | None:
  """Version of the TPU compiler; None: it is not installed."""
  try:
    return metadata.version('libtpu')
  except metadata.PackageNotFoundError:
    return None


def refused_option(
  error: Exception, options: dict[str, str], device_kind: str
) -> CompilerOptionError | None:
  """What to tell about an error of the compiler that an option caused.

  Args:
    error: what the compiler raised.
    options: those that it was given.
    device_kind: of the devices.

  Returns:
    The error to raise in its place; None if no option is to blame.
  """
  message = str(error)
  blamed = [
    name for name in options if re.search(rf'\b{re.escape(name)}\b', message)
  ]
  if not blamed or 'RESOURCE_EXHAUSTED' in message:
    return None
  reason = message.partition(': ')[2].splitlines()[0].strip()
  return CompilerOptionError(
    f'libtpu {libtpu_version()} refuses '
    + ', '.join(f'{name}={options[name]}' for name in blamed)
    + f' for {device_kind}: {reason} Install the libtpu of '
    'requirements/tpu.txt, or take the option out of '
    'train/compiler_options.py.'
  )
