"""Compiles the training step of a run for chips that are not there."""

import dataclasses
import hashlib
import json
import math
import sys
import time
from importlib import metadata
from typing import Any

import jax
import numpy as np

from train.compiler_options import (
  CompilerOptionError,
  compiler_options,
  libtpu_version,
)
from train.planning.cache import Cache
from train.planning.flops import product_flops
from train.rows import Marks
from train.setup import Setup, trace_train_step
from train.state import abstract_state
from train.step import compile_lowered, lower

# Ids of the marks are constants of the program; any will do to plan it.
_MARKS = Marks(pad_id=0, bos_id=1, continue_id=2)
_SMALL_VOCABULARY = 2**16


@dataclasses.dataclass(frozen=True)
class RowShape:
  """What a store of the run's rows would have: their length and type."""

  row_length: int
  dtype: Any


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled step, or the reason why there is none.

  Attributes:
    text: as the compiler prints it; '' if it did not compile.
    memory: fields of JAX's CompiledMemoryStats.
    refusal: the compiler's message where memory does not suffice.
    flops: operations of its matrix products over all devices, by type.
    compile_seconds: that compilation took, now or when it was cached.
    cached: whether it came from the cache.
  """

  text: str
  memory: dict[str, int]
  refusal: str
  flops: dict[str, int]
  compile_seconds: float
  cached: bool


_STATISTICS = (
  'argument_size_in_bytes', 'output_size_in_bytes', 'alias_size_in_bytes',
  'temp_size_in_bytes', 'generated_code_size_in_bytes',
  'host_argument_size_in_bytes', 'host_temp_size_in_bytes',
)  # fmt: skip


def trace(setup: Setup, *, augmented: bool) -> Any:
  """Traces the step of a run for rows as `prepare` would write them."""
  config = setup.config
  small = config.model.vocab_size <= _SMALL_VOCABULARY
  rows = RowShape(
    config.sequence_length + 1, np.dtype(np.uint16 if small else np.uint32)
  )
  state = abstract_state(setup.recipe, setup.shardings)
  return trace_train_step(setup, _MARKS, state, rows, augmented=augmented)


def compile_program(
  setup: Setup, cache: Cache, *, augmented: bool, log: bool = True
) -> Program:
  """Compiles the step, or takes it from the cache.

  Args:
    setup: the run, on devices of a topology.
    cache: of compiled programs.
    augmented: whether batches are augmented.
    log: say on standard error what takes long.

  Raises:
    CompilerOptionError: the installed compiler refuses an option.
  """
  traced = trace(setup, augmented=augmented)
  flops = dict(product_flops(traced.jaxpr.jaxpr))
  lowered = lower(traced, setup.mesh)
  key = _key(lowered, setup)
  found = cache.read(key)
  if found is not None:
    return Program(**found, flops=flops, cached=True)
  if log:
    print(
      f'Compiling for {setup.mesh.devices.flat[0].device_kind} '
      '(minutes for a large model) ...',
      file=sys.stderr,
      flush=True,
    )
  begin = time.perf_counter()
  text, refusal = '', ''
  held: dict[str, int] = {}
  try:
    compiled = compile_lowered(lowered, setup.mesh)
  except CompilerOptionError:
    raise
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    refusal = str(error)
  else:
    statistics = compiled.memory_analysis()
    held = {name: getattr(statistics, name) for name in _STATISTICS}
    text = compiled.as_text()
  made: dict[str, Any] = {
    'text': text,
    'memory': held,
    'refusal': refusal,
    'compile_seconds': time.perf_counter() - begin,
  }
  cache.write(key, made)
  return Program(**made, flops=flops, cached=False)


def _key(lowered: Any, setup: Setup) -> str:
  """A name for all that the compiled program depends on."""
  devices = setup.mesh.devices
  kind = devices.flat[0].device_kind
  places = [
    (*d.coords, d.core_on_chip, getattr(d, 'slice_index', None) or 0)
    for d in devices.flat
  ]
  facts = (
    kind,
    devices.shape,
    places,
    sorted(compiler_options(kind).items()),
    (jax.__version__, metadata.version('jaxlib'), libtpu_version()),
  )
  digest = hashlib.sha256(lowered.as_text().encode())
  digest.update(json.dumps(facts).encode())
  assert math.prod(devices.shape) == len(places)
  return digest.hexdigest()
