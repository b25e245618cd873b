"""Tokens a second of the training step, beside PyTorch where it is installed.

python benchmarks/train_step.py [--dtype=bfloat16] [--rounds=5]
python benchmarks/train_step.py --preset=124m --compile     on an accelerator

The same model on both sides, by default 6 layers, 384 wide, batch 16 x 256,
vocabulary 256, AdamW. Rows are one text each, unless --documents starts new
documents within them, which PyTorch's model does not tell apart. Needs no
TensorFlow. The two take turns, and the median round of each is printed: on a
shared machine only their ratio means much. MFU is of what large matrix products
reach in the same process, and of the chip's peak where that is known; on a GPU
the time that `plan` expects is printed beside. PyTorch is no dependency;
install it to compare: pip install torch==2.13.0
"""

import argparse
import ast
import dataclasses
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
# PyTorch wants memory of the same device.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import contextlib

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.machine import describe_machine, matmul_flops
from configs import base
from model.flops import training_flops_per_token
from train.chips import chip_of, peak_flops
from train.config import train_config
from train.planning import topologies
from train.planning.gpus import plan_gpus
from train.setup import make_setup
from train.state import init_state
from train.step import compile_step, jit_train_step
from train.tuning.synthetic import MARKS

# Tokens of a document, on average, with --documents.
_DOCUMENT = 300


@dataclasses.dataclass(frozen=True)
class Size:
  """What the flags of the same names change."""

  layers: int = 6
  width: int = 384
  batch: int = 16
  length: int = 256
  vocab: int = 256
  steps: int = 4


PRESETS = {
  'small': Size(),
  # GPT-2's sizes, and those of a model ten times as large.
  '124m': Size(12, 768, 32, 1_024, 50_304, 20),
  '1.3b': Size(24, 2_048, 8, 2_048, 32_768, 10),
}


def config(size: Size, arguments: argparse.Namespace) -> ConfigDict:
  """The model that is measured."""
  c = base.get_config()
  c.batch_size, c.sequence_length = size.batch, size.length
  c.model.vocab_size = size.vocab
  c.model.embed_dim, c.model.num_layers = size.width, size.layers
  c.model.num_heads = c.model.num_kv_heads = size.width // 64
  c.model.mlp_dim = 4 * size.width
  c.model.mlp = 'gelu'
  c.model.compute_dtype = arguments.dtype
  c.model.scan_layers = arguments.scan
  c.isolate_documents = arguments.documents
  c.loss.chunk = size.length
  for change in arguments.set:
    field, _, value = change.partition('=')
    with contextlib.suppress(SyntaxError, ValueError):
      value = ast.literal_eval(value)
    c.update_from_flattened_dict({field: value})
  return c


def random_rows(
  batch: int, length: int, vocab: int, documents: bool
) -> np.ndarray:
  """Rows of any tokens, [batch, length + 1], with marks of documents or not."""
  generator = np.random.default_rng(0)
  shape = (batch, length + 1)
  rows = generator.integers(4, vocab, shape)
  if documents:
    rows[generator.random(shape) < 1 / _DOCUMENT] = MARKS.bos_id
  return rows.astype(np.uint16)


def compiled(c: ConfigDict, size: Size, documents: bool) -> tuple[Any, ...]:
  """The state of step 0, a compiled step, and rows for it."""
  setup = make_setup(train_config(c), jax.devices()[:1])
  rows = jax.device_put(
    random_rows(size.batch, size.length, size.vocab, documents),
    setup.batch_sharding,
  )
  state = init_state(setup.recipe, setup.shardings)
  begin = time.perf_counter()
  step = compile_step(
    jit_train_step(setup.recipe, MARKS, setup.shardings, setup.batch_sharding),
    setup.mesh,
    state,
    rows,
  )
  print(
    f'meshwork compiled in {time.perf_counter() - begin:.1f} s, attention: '
    f'{setup.attention}'
  )
  return state, step, rows


def meshwork_round(
  c: ConfigDict, size: Size, documents: bool
) -> Callable[[], float]:
  """A function that runs some steps and returns their seconds."""
  state, step, rows = compiled(c, size, documents)

  def measure() -> float:
    nonlocal state
    begin = time.perf_counter()
    for _ in range(size.steps):
      state, metrics = step(state, rows)
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - begin

  return measure


def torch_peer_round(
  size: Size, arguments: argparse.Namespace
) -> Callable[[], float]:
  """The same in PyTorch."""
  from benchmarks.torch_peer import torch_round

  return torch_round(
    **dataclasses.asdict(size),
    dtype=arguments.dtype,
    compiled=arguments.compile,
  )


def forecast(c: ConfigDict) -> None:
  """Prints what `plan` expects of a step on this GPU."""
  chip = chip_of(jax.devices()[0].device_kind)
  if chip is None or chip.is_tpu:
    return
  plan = plan_gpus(train_config(c), topologies.parse(f'{chip.name}:1x1'), None)
  assert plan.speed is not None
  print(
    f'plan expects {1e3 * plan.speed.step:.1f} ms a step, '
    f'{plan.speed.tokens_a_second:,.0f} tokens/s, and '
    f'{(plan.memory.needed or 0) / 1e9:.1f} GB'
  )


def arguments_of_command() -> tuple[argparse.Namespace, Size]:
  """What was asked for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--preset', choices=PRESETS, default='small')
  names = [field.name for field in dataclasses.fields(Size)]
  for name in names:
    parser.add_argument(f'--{name}', type=int, help='in place of the preset')
  parser.add_argument('--documents', action='store_true')
  parser.add_argument('--scan', action='store_true', help='scan the layers')
  parser.add_argument('--compile', action='store_true', help='torch.compile')
  parser.add_argument('--alone', action='store_true', help='without PyTorch')
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='FIELD=VALUE',
    help='another value of a field of the configuration',
  )
  arguments = parser.parse_args()
  changes = {name: getattr(arguments, name) for name in names}
  changes = {name: n for name, n in changes.items() if n is not None}
  return arguments, dataclasses.replace(PRESETS[arguments.preset], **changes)


def main() -> None:
  """Measures and prints."""
  arguments, size = arguments_of_command()
  device = jax.devices()[0]
  print(describe_machine(), f'device {device.device_kind}', sep=', ')
  print(size)
  ceiling = matmul_flops(arguments.dtype)
  print(f'large products reach {ceiling / 1e12:,.3g} TFLOP/s')
  c = config(size, arguments)
  forecast(c)
  sides = {'meshwork': meshwork_round(c, size, arguments.documents)}
  # One warm round before anything else takes memory.
  sides['meshwork']()
  used = (device.memory_stats() or {}).get('peak_bytes_in_use')
  if used:
    print(f'meshwork took {used / 1e9:.1f} GB at its peak')
  if not arguments.alone:
    try:
      sides['torch'] = torch_peer_round(size, arguments)
      sides['torch']()
    except ModuleNotFoundError as error:
      print(f'torch is not compared: {error}')
  seconds: dict[str, list[float]] = {name: [] for name in sides}
  for _ in range(arguments.rounds):
    for name, measure in sides.items():
      seconds[name].append(measure())
  tokens = size.steps * size.batch * size.length
  flops = training_flops_per_token(train_config(c).model)
  peak = peak_flops(device.device_kind)
  for name, values in seconds.items():
    rate = tokens / statistics.median(values)
    print(
      f'{name:9} {rate:10,.0f} tokens/s median of {arguments.rounds}, '
      f'{tokens / max(values):,.0f} to {tokens / min(values):,.0f}, '
      f'{1e3 * statistics.median(values) / size.steps:.1f} ms a step, '
      f'{rate * flops / ceiling:.1%} of large products'
      + (f', MFU {rate * flops / peak:.1%}' if peak else '')
    )
  if 'torch' in sides:
    ratios = [
      t / m for m, t in zip(seconds['meshwork'], seconds['torch'], strict=True)
    ]
    print(f'meshwork / torch {statistics.median(ratios):.2f}')


if __name__ == '__main__':
  main()
