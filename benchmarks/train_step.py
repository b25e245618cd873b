"""Tokens a second of the training step, beside PyTorch where it is installed.

python benchmarks/train_step.py [--dtype=bfloat16] [--rounds=5]

The same model on both sides: 6 layers, 384 wide, batch 16 x 256, vocabulary
256, AdamW. Needs no TensorFlow. The two take turns, and the median round of
each is printed: on a shared machine only their ratio means much. PyTorch is no
dependency; install it to compare: pip install torch==2.13.0
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.machine import describe_machine
from configs import base
from model.flops import training_flops_per_token
from train.chips import peak_flops
from train.config import train_config
from train.mesh import batch_sharding, make_mesh
from train.rows import Marks
from train.setup import with_attention
from train.state import init_state, make_recipe, state_shardings
from train.step import compile_step, jit_train_step

STEPS_A_ROUND = 4


def config(arguments: argparse.Namespace) -> ConfigDict:
  """The model that is measured."""
  c = base.get_config()
  c.batch_size, c.sequence_length = arguments.batch, arguments.length
  c.model.vocab_size = arguments.vocab
  c.model.embed_dim, c.model.num_layers = arguments.width, arguments.layers
  c.model.num_heads = c.model.num_kv_heads = arguments.width // 64
  c.model.mlp_dim = 4 * arguments.width
  c.model.mlp = 'gelu'
  c.model.compute_dtype = arguments.dtype
  c.model.scan_layers = arguments.scan
  c.loss.chunk = arguments.length
  return c


def meshwork_round(c: ConfigDict) -> Callable[[], float]:
  """A function that runs some steps and returns their seconds."""
  run = train_config(c)
  mesh = make_mesh(run.mesh)
  run, _ = with_attention(run, mesh)
  recipe = make_recipe(run)
  shardings = state_shardings(recipe, mesh)
  sharding = batch_sharding(
    mesh, run.mesh.rules, batch_size=run.batch_size, field='batch_size'
  )
  rows = np.random.default_rng(0).integers(
    4, c.model.vocab_size, (run.batch_size, run.sequence_length + 1)
  )
  rows = jax.device_put(rows.astype(np.uint16), sharding)
  state = init_state(recipe, shardings)
  marks = Marks(pad_id=0, bos_id=1, continue_id=2)
  begin = time.perf_counter()
  step = compile_step(
    jit_train_step(recipe, marks, shardings, sharding), mesh, state, rows
  )
  print(f'meshwork compiled in {time.perf_counter() - begin:.1f} s')

  def measure() -> float:
    nonlocal state
    begin = time.perf_counter()
    for _ in range(STEPS_A_ROUND):
      state, metrics = step(state, rows)
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - begin

  return measure


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--layers', type=int, default=6)
  parser.add_argument('--width', type=int, default=384)
  parser.add_argument('--batch', type=int, default=16)
  parser.add_argument('--length', type=int, default=256)
  parser.add_argument('--vocab', type=int, default=256)
  parser.add_argument('--scan', action='store_true', help='scan the layers')
  parser.add_argument('--compile', action='store_true', help='torch.compile')
  arguments = parser.parse_args()
  print(describe_machine(), f'device {jax.devices()[0].device_kind}', sep=', ')
  c = config(arguments)
  sides = {'meshwork': meshwork_round(c)}
  try:
    from benchmarks.torch_peer import torch_round

    sides['torch'] = torch_round(
      layers=arguments.layers,
      width=arguments.width,
      batch=arguments.batch,
      length=arguments.length,
      vocab=arguments.vocab,
      dtype=arguments.dtype,
      steps=STEPS_A_ROUND,
      compiled=arguments.compile,
    )
  except ModuleNotFoundError as error:
    print(f'torch is not compared: {error}')
  for measure in sides.values():
    measure()
  seconds: dict[str, list[float]] = {name: [] for name in sides}
  for _ in range(arguments.rounds):
    for name, measure in sides.items():
      seconds[name].append(measure())
  tokens = STEPS_A_ROUND * arguments.batch * arguments.length
  flops = training_flops_per_token(train_config(c).model)
  peak = peak_flops(jax.devices()[0].device_kind)
  for name, values in seconds.items():
    rate = tokens / statistics.median(values)
    print(
      f'{name:9} {rate:10,.0f} tokens/s median of {arguments.rounds}, '
      f'{tokens / max(values):,.0f} to {tokens / min(values):,.0f}, '
      f'{rate * flops / 1e9:,.0f} GFLOP/s'
      + (f', MFU {rate * flops / peak:.1%}' if peak else '')
    )
  if 'torch' in sides:
    ratios = [
      t / m for m, t in zip(seconds['meshwork'], seconds['torch'], strict=True)
    ]
    print(f'meshwork / torch {statistics.median(ratios):.2f}')


if __name__ == '__main__':
  main()
