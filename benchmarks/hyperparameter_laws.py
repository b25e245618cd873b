"""Laws of learning rate and batch size, on optima that none was fitted to.

python benchmarks/hyperparameter_laws.py

The optima were found by Lingle 2025 on grids of batch sizes (powers of 2) and
learning rates (powers of the square root of 2) with Llama-like models:
https://lucaslingle.substack.com/p/scaling-laws-for-optimal-lr-and-batch-1d4
Takes no time, on any machine.
"""

import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from train.laws.hyperparameters import (
  BATCH_SIZE,
  LAWS,
  LEARNING_RATE,
  Law,
  Setting,
)

# Parameters, tokens, tokens of the best batch, the best learning rate.
OPTIMA = (
  (46_006_272, 127_991_808, 32_768, 0.001953),
  (109_051_904, 127_991_808, 32_768, 0.000977),
  (368_050_176, 127_991_808, 65_536, 0.000691),
  (872_415_232, 127_991_808, 65_536, 0.000488),
  (2_944_401_408, 127_991_808, 32_768, 0.000244),
  (46_006_272, 255_983_616, 65_536, 0.001953),
  (109_051_904, 255_983_616, 65_536, 0.001381),
  (368_050_176, 255_983_616, 65_536, 0.000977),
  (872_415_232, 255_983_616, 65_536, 0.000488),
  (2_944_401_408, 255_983_616, 65_536, 0.000345),
  (46_006_272, 511_967_232, 65_536, 0.002762),
  (109_051_904, 511_967_232, 131_072, 0.001953),
  (368_050_176, 511_967_232, 131_072, 0.000977),
  (872_415_232, 511_967_232, 131_072, 0.000691),
  (46_006_272, 1_023_934_464, 131_072, 0.003906),
  (109_051_904, 1_023_934_464, 131_072, 0.001953),
  (368_050_176, 1_023_934_464, 131_072, 0.000977),
  (872_415_232, 1_023_934_464, 131_072, 0.000691),
)


def ratios(law: Law, *, more_tokens: bool) -> list[float]:
  """What a law says over what was best, of each of the optima.

  Args:
    law: of LEARNING_RATE or BATCH_SIZE.
    more_tokens: take the runs of more tokens than parameters; or the others.
  """
  found = []
  for parameters, tokens, batch, rate in OPTIMA:
    if (tokens > parameters) != more_tokens:
      continue
    run = Setting(
      parameters=parameters,
      with_head=parameters,
      tokens=tokens,
      flops=6.0 * parameters * tokens,
      batch_tokens=batch,
      learning_rate=rate,
      weight_decay=0.1,
    )
    best = {LEARNING_RATE: rate, BATCH_SIZE: batch}[law.field]
    found.append(law.formula(run) / best)
  return found


def summary(found: list[float]) -> tuple[float, float]:
  """Geometric mean, and root mean square in octaves, of ratios."""
  octaves = [math.log2(ratio) for ratio in found]
  mean = sum(octaves) / len(octaves)
  square = sum(octave**2 for octave in octaves) / len(octaves)
  return 2**mean, math.sqrt(square)


def main() -> None:
  """Prints a line a law."""
  for more_tokens, which in ((True, 'D > N'), (False, 'D < N')):
    print(f'| {which} | law over best | off, octaves | lowest | highest |')
    print('|---|---|---|---|---|')
    for law in LAWS:
      if law.field not in (LEARNING_RATE, BATCH_SIZE):
        continue
      found = ratios(law, more_tokens=more_tokens)
      mean, octaves = summary(found)
      print(
        f'| {law.paper.name}, {law.field} | {mean:.2f} | {octaves:.2f} | '
        f'{min(found):.2f} | {max(found):.2f} |'
      )
    print()


if __name__ == '__main__':
  main()
