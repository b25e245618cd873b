"""For how long a save holds the training loop up, as a share of the save.

python benchmarks/save_blocked.py --megabytes=512

Saves a state of random numbers several times. The loop is held up while the
fingerprints are computed and the state is copied; the rest is written while
training goes on. Prints seconds of both, and the median share after the first
save, which also makes what later ones reuse.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
from etils import epath

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from train.bad_steps import new_history
from train.checkpoint import Checkpoints
from train.checkpoint_info import Info
from train.state import TrainState


def state_of(megabytes: int) -> TrainState:
  """Parameters and two moments, in arrays of the usual sizes."""
  count = max(1, megabytes * 2**20 // (3 * 4 * 2**22))
  make = jax.jit(
    lambda key: {
      f'layer_{i}': jax.random.normal(jax.random.fold_in(key, i), (2048, 2048))
      for i in range(count)
    }
  )
  params, first, second = (make(jax.random.key(seed)) for seed in range(3))
  return TrainState(
    jnp.zeros((), jnp.int32), params, (first, second), None, new_history()
  )


def main() -> None:
  """Prints a line for each save, and the median."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--megabytes', type=int, default=512)
  parser.add_argument('--saves', type=int, default=6)
  arguments = parser.parse_args()
  state = jax.block_until_ready(state_of(arguments.megabytes))
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  print(f'{jax.devices()[0].device_kind}, state of {size / 1e6:,.0f} MB')
  shares = []
  with (
    tempfile.TemporaryDirectory() as folder,
    Checkpoints(epath.Path(folder), keep_last=1) as checkpoints,
  ):
    for step in range(1, arguments.saves + 1):
      info = Info(step=step, config={}, data_fingerprint='')
      begin = time.perf_counter()
      checkpoints.save(state, info)
      blocked = time.perf_counter() - begin
      checkpoints.wait()
      total = time.perf_counter() - begin
      print(f'blocked {blocked:.3f} s of {total:.2f} s: {blocked / total:.1%}')
      if step > 1:
        shares.append(blocked / total)
  print(f'median share after the first: {statistics.median(shares):.1%}')


if __name__ == '__main__':
  main()
