"""Names the machine that a number was measured on, and what it can reach."""

import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def describe_machine() -> str:
  """Processor, cores and Python, in a line."""
  info = pathlib.Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  models = [line for line in lines if 'model name' in line]
  cpu = models[0].partition(':')[2].strip() if models else platform.machine()
  return f'{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}'


def median_seconds(function: Callable[..., Any], *arguments: Any) -> float:
  """Seconds of a compiled function: the median of 7 rounds after the first.

  An accelerator is given ten calls at a time, so that it never waits for the
  next one.
  """
  calls = 1 if jax.default_backend() == 'cpu' else 10
  seconds = []
  jax.block_until_ready(function(*arguments))
  for _ in range(7):
    begin = time.perf_counter()
    for _ in range(calls):
      found = function(*arguments)
    jax.block_until_ready(found)
    seconds.append((time.perf_counter() - begin) / calls)
  return statistics.median(seconds)


def matmul_flops(dtype: str) -> float:
  """Operations a second that large products of random matrices reach here.

  Ten products, each of the result of the one before, in one program: 8,192
  wide on an accelerator, 1,024 on a processor.
  """
  side = 1_024 if jax.default_backend() == 'cpu' else 8_192
  x, matrix = (
    jax.random.normal(jax.random.key(seed), (side, side), dtype)
    for seed in range(2)
  )

  @jax.jit
  def products(x, matrix):
    # Divided, so that numbers keep their size.
    return jax.lax.fori_loop(
      0, 10, lambda _, y: (y @ matrix) * jnp.asarray(side**-0.5, dtype), x
    )

  return 10 * 2 * side**3 / median_seconds(products, x, matrix)
