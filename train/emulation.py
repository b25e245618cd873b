"""Devices made of this machine's processors, for programs that run once."""

import os
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax


def quick_flags() -> str:
  """XLA_FLAGS with which little time goes into compiling for processors.

  What is computed runs slower: it is for programs that run once. The fusion
  emitters double the time; from jaxlib 0.11 on no flag turns them off, and one
  that XLA does not know ends the process.
  """
  flags = ['--xla_backend_optimization_level=0']
  major, minor = metadata.version('jaxlib').split('.')[:2]
  if (int(major), int(minor)) < (0, 11):
    flags.append('--xla_cpu_use_fusion_emitters=false')
  return ' '.join(flags)


def emulated_devices() -> Sequence[Any]:
  """Devices made of this machine's processors: 8, or JAX_NUM_CPU_DEVICES.

  To be called before anything has used a device.
  """
  os.environ.setdefault('XLA_FLAGS', quick_flags())
  jax.config.update('jax_platforms', 'cpu')
  if not os.environ.get('JAX_NUM_CPU_DEVICES'):
    jax.config.update('jax_num_cpu_devices', 8)
  return jax.devices()
