"""What the TPU compiler expects of a large bfloat16 product, by chip.

python benchmarks/plan_products.py

8,192 x 8,192 x 8,192 on one device, with the options of training: operations a
second by the compiler's own cycles, and their part of the peak. Seconds a chip.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from train.chips import CHIPS
from train.compiler_options import compiler_options
from train.planning import topologies
from train.planning.environment import set_up_environment
from train.planning.hlo import parse

_SIDE = 8192
_SMALLEST = {'v4': '2x2x1', 'v5p': '2x2x1', 'tpu7x': '2x2x1'}


def main() -> None:
  """Compiles and prints a line a chip."""
  set_up_environment()
  jax.config.update('jax_platforms', 'cpu')
  for chip in CHIPS.values():
    if not chip.is_tpu:
      continue
    machine = topologies.parse(f'{chip.name}:{_SMALLEST.get(chip.name, "1x1")}')
    device = topologies.devices(machine)[0]
    square = jax.ShapeDtypeStruct(
      (_SIDE, _SIDE), jnp.bfloat16, sharding=SingleDeviceSharding(device)
    )
    options: dict[str, str | bool] = {**compiler_options(device.device_kind)}
    lowered = jax.jit(jnp.matmul).lower(square, square)
    text = lowered.compile(compiler_options=options).as_text()
    assert text is not None
    module = parse(text)
    cycles = sum(i.cycles for i in module.computations[module.entry])
    speed = 2 * _SIDE**3 / (cycles / chip.clock)
    part = speed / chip.device_peak
    print(f'{chip.name}: {speed / 1e12:,.0f} TFLOPS, {part:.3f} of the peak')


if __name__ == '__main__':
  main()
