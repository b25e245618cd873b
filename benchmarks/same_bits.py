"""Whether the training step gives the same bits twice, on this device.

python benchmarks/same_bits.py --documents
XLA_FLAGS=--xla_gpu_deterministic_ops=true python benchmarks/same_bits.py

Ten steps from one state, two times in one process, with the flags of
benchmarks/train_step.py. Needs no TensorFlow.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from benchmarks import train_step as benchmark

STEPS = 10


def main() -> None:
  """Prints how many arrays of the state differ, and the seconds of a step."""
  arguments, size = benchmark.arguments_of_command()
  print(size, jax.devices()[0].device_kind)
  c = benchmark.config(size, arguments)
  state, step, rows = benchmark.compiled(c, size, arguments.documents)
  # The step takes the memory of the state that it is given.
  begin, ends = jax.device_get(state), []
  for _ in range(2):
    state = jax.device_put(begin, jax.tree.map(lambda x: x.sharding, state))
    start = time.perf_counter()
    for _ in range(STEPS):
      state, _ = step(state, rows)
    ends.append(jax.device_get(state))
    seconds = (time.perf_counter() - start) / STEPS
  first, second = map(jax.tree.leaves, ends)
  differ = sum(
    np.asarray(a).tobytes() != np.asarray(b).tobytes()
    for a, b in zip(first, second, strict=True)
  )
  print(
    f'{differ} of {len(first)} arrays differ after {STEPS} steps; '
    f'{1e3 * seconds:.1f} ms a step with the copy to the host'
  )


if __name__ == '__main__':
  main()
