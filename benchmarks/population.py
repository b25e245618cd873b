"""Many small trials: in one program, one after the other, one process each.

python benchmarks/population.py [--trials=8] [--steps=100] [--modes=one,baked]

Each trial has another learning rate and weight decay. Wall time of everything,
compilation included:

  one        a population: the numbers are inputs of one compiled program
  sequential the same program with one slot, trial after trial
  baked      trial after trial in this process, the numbers constants of each
             program, as in most trainers
  processes  baked, each trial in a process of its own, one after the other

The losses after the last step are compared with those of `baked`. Needs no
TensorFlow. On a GPU or TPU take --trials=16 and --steps=2000, and compare the
time of the steps alone: expect `one` to be 5 times as fast as `sequential`.
"""

import argparse
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from benchmarks.machine import describe_machine
from configs import base
from model.params import count
from train.config import TrainConfig, train_config
from train.scalars import scalars_of
from train.setup import Setup, make_setup
from train.state import init_state
from train.step import compile_step, jit_train_step
from train.tuning.population import Population
from train.tuning.synthetic import MARKS


def config_of(trial: int, arguments: argparse.Namespace) -> TrainConfig:
  """A trial: half a million parameters unless told otherwise."""
  c = base.get_config()
  c.steps = max(arguments.steps, 20)
  c.batch_size, c.sequence_length = arguments.batch, arguments.length
  c.model.vocab_size = 256
  c.model.embed_dim, c.model.num_layers = arguments.width, arguments.layers
  c.model.num_heads = c.model.num_kv_heads = max(1, arguments.width // 64)
  c.model.mlp_dim = 4 * arguments.width
  c.model.mlp = 'gelu'
  c.model.compute_dtype = arguments.dtype
  c.model.scan_layers = False
  c.loss.chunk = arguments.length
  c.optimizer.learning_rate = 1e-3 * 2 ** (trial / 2 - 2)
  c.optimizer.weight_decay = 0.05 * (1 + trial)
  c.optimizer.warmup_steps = 10
  return train_config(c)


def rows_of(config: TrainConfig, steps: int) -> np.ndarray:
  """Rows that can be learned, [steps, B, R]: each repeats a short pattern."""
  generator = np.random.default_rng(0)
  shape = (steps, config.batch_size, 16)
  patterns = generator.integers(3, config.model.vocab_size, shape)
  repeats = -(-(config.sequence_length + 1) // 16)
  rows = np.tile(patterns, (1, 1, repeats))[:, :, : config.sequence_length + 1]
  rows[:, :, 0] = MARKS.bos_id
  return rows.astype(np.uint16)


def setup_of(trial: int, arguments: argparse.Namespace) -> Setup:
  """A trial on one device."""
  return make_setup(config_of(trial, arguments), jax.devices()[:1])


def in_a_population(arguments: argparse.Namespace, size: int) -> list[float]:
  """The last loss of each trial, as many at a time as there are slots."""
  setup = setup_of(0, arguments)
  rows = rows_of(setup.config, arguments.steps)
  devices = jax.devices()[: 1 if size % jax.device_count() else None]
  population = Population(
    setup.recipe,
    MARKS,
    scalars_of(setup.config),
    size=size,
    devices=devices,
  )
  population.compile(np.stack([rows[0]] * size), rows[0])
  begin = time.perf_counter()
  losses: list[float] = []
  for first in range(0, arguments.trials, size):
    for slot in range(size):
      population.fill(slot, scalars_of(config_of(first + slot, arguments)))
    for rows_BR in rows:
      metrics = population.step(
        np.broadcast_to(rows_BR, (size, *rows_BR.shape))
      )
    losses += np.asarray(metrics['loss']).tolist()
  print(
    f'steps of all trials {time.perf_counter() - begin:.1f} s, {size} at once'
  )
  return losses


def baked(arguments: argparse.Namespace, trial: int) -> float:
  """The last loss of a trial whose numbers are constants of its program."""
  setup = setup_of(trial, arguments)
  state = init_state(setup.recipe, setup.shardings)
  rows = rows_of(setup.config, arguments.steps)
  sharding = setup.batch_sharding
  step = compile_step(
    jit_train_step(setup.recipe, MARKS, setup.shardings, sharding),
    setup.mesh,
    state,
    jax.device_put(rows[0], sharding),
  )
  for rows_BR in rows:
    state, metrics = step(state, jax.device_put(rows_BR, sharding))
  return float(metrics['loss'])


def in_processes(arguments: argparse.Namespace) -> list[float]:
  """`baked` in a process for each trial."""
  losses = []
  for trial in range(arguments.trials):
    command = [sys.executable, *sys.argv, f'--only_trial={trial}']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    losses.append(float(done.stdout.split()[-1]))
  return losses


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--trials', type=int, default=8)
  parser.add_argument('--steps', type=int, default=100)
  parser.add_argument('--width', type=int, default=128)
  parser.add_argument('--layers', type=int, default=2)
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--length', type=int, default=64)
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--modes', default='one,sequential,baked,processes')
  parser.add_argument('--only_trial', type=int, help='of `processes`')
  arguments = parser.parse_args()
  if arguments.only_trial is not None:
    print(baked(arguments, arguments.only_trial))
    return
  modes = {
    'one': lambda: in_a_population(arguments, arguments.trials),
    'sequential': lambda: in_a_population(arguments, 1),
    'baked': lambda: [baked(arguments, t) for t in range(arguments.trials)],
    'processes': lambda: in_processes(arguments),
  }
  shapes = jax.eval_shape(setup_of(0, arguments).recipe.init)
  print(describe_machine(), f'device {jax.devices()[0].device_kind}', sep=', ')
  print(
    f'{arguments.trials} trials of {count(shapes.params):,} parameters, '
    f'{arguments.steps} steps of {arguments.batch} x {arguments.length} tokens'
  )
  seconds, losses = {}, {}
  for mode in arguments.modes.split(','):
    begin = time.perf_counter()
    losses[mode] = modes[mode]()
    seconds[mode] = time.perf_counter() - begin
    print(
      f'{mode:10} {seconds[mode]:7.1f} s  '
      f'{seconds[mode] / seconds["one"]:5.2f} times that of one  '
      f'losses {min(losses[mode]):.4f} to {max(losses[mode]):.4f}',
      flush=True,
    )
  if 'baked' in losses:
    apart = max(
      abs(a - b) for a, b in zip(losses['one'], losses['baked'], strict=True)
    )
    print(f'losses of one and baked differ by {apart:.1e} at most')


if __name__ == '__main__':
  main()
