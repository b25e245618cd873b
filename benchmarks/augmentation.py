"""Speed of augmentation, beside plain reading in the same run.

python benchmarks/augmentation.py [--rounds=9]

Batches of 64 rows of 2,048 inputs from documents of log-normal lengths (2.4 a
row). Tokens are counted a second of CPU: each augmentation alone at the rate
of its paper, then all of them at once. All take turns in every round; the
median round is printed.
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.machine import describe_machine
from configs import base
from input_pipeline import packing
from input_pipeline.augmentation.augment import Augment
from input_pipeline.augmentation.config import augmentation_config
from input_pipeline.augmentation.draft import Vocabulary
from input_pipeline.memory import keep_freed_memory
from input_pipeline.order import row_indices

BATCH_SIZE, LENGTH, VOCAB = 64, 2_048, 32_768
BATCHES_A_ROUND = 20
PAD, BOS, CONTINUE, EOS = range(4)
RATES = {
  'token dropout': {'token_dropout.rate': 0.1},
  'metadata prefix': {'metadata_prefix.rate': 1.0},
  'fill in the middle': {'fill_in_the_middle.rate': 0.5},
  'UL2, R': {'ul2.r_rate': 1.0},
  'UL2, X': {'ul2.x_rate': 1.0},
  'UL2, S': {'ul2.s_rate': 1.0},
  'target offset': {'target_offset.rate': 0.36},
  'right to left': {'right_to_left.rate': 0.5},
  'token replacement': {'token_replacement.rate': 0.15},
  'input masking': {'input_masking.rate': 0.15},
}
ALL = {
  'token_dropout.rate': 0.1,
  'metadata_prefix.rate': 0.9,
  'fill_in_the_middle.rate': 0.3,
  'ul2.r_rate': 0.1,
  'ul2.x_rate': 0.1,
  'ul2.s_rate': 0.1,
  'target_offset.rate': 0.36,
  'right_to_left.rate': 0.4,
  'token_replacement.rate': 0.05,
  'input_masking.rate': 0.05,
}


def main() -> None:
  """Prints the throughput of each."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=9)
  arguments = parser.parse_args()
  print(describe_machine())
  # As the pipeline does.
  keep_freed_memory()
  rows_NR = make_rows()
  sides: dict[str, Callable[[int], object]] = {
    'reading only': lambda step: read(rows_NR, step)
  }
  for name, rates in (RATES | {'all at once': ALL}).items():
    sides[name] = augmenting(rows_NR, rates)
  speeds: dict[str, list[float]] = {name: [] for name in sides}
  for round_number in range(arguments.rounds + 1):
    for name, side in sides.items():
      start = time.process_time()
      for batch in range(BATCHES_A_ROUND):
        side(BATCHES_A_ROUND * round_number + batch)
      seconds = time.process_time() - start
      if round_number:
        tokens = BATCHES_A_ROUND * BATCH_SIZE * LENGTH
        speeds[name].append(tokens / seconds / 1e6)
  print(f'M tokens a CPU-second, median of {arguments.rounds} rounds')
  for name, values in speeds.items():
    print(f'  {name:20}{statistics.median(values):8.1f}')


def make_rows() -> np.ndarray:
  """Packed rows of random tokens, [rows, LENGTH + 1]."""
  generator = np.random.default_rng(0)
  lengths_D = generator.lognormal(6.2, 1.1, 8_000).astype(np.int64) + 1
  documents = [
    generator.integers(200, VOCAB, length).astype(np.uint16)
    for length in lengths_D
  ]
  pieces_P4, num_rows = packing.pack(lengths_D, LENGTH + 1)
  return packing.fill_rows(
    pieces_P4,
    documents,
    num_rows=num_rows,
    row_length=LENGTH + 1,
    dtype=np.dtype('<u2'),
    pad_id=PAD,
    bos_id=BOS,
    continue_id=CONTINUE,
    eos_id=EOS,
  )


def read(rows_NR: np.ndarray, step: int) -> np.ndarray:
  """The rows of a step."""
  return rows_NR[
    row_indices(
      step,
      seed=0,
      batch_size=BATCH_SIZE,
      num_rows=len(rows_NR),
      row_start=0,
      row_stop=BATCH_SIZE,
    )
  ]


def augmenting(
  rows_NR: np.ndarray, rates: dict[str, float]
) -> Callable[[int], object]:
  """Reads and augments the rows of a step."""
  config = base.get_config()
  config.augmentation.update_from_flattened_dict(rates)
  tokens = [f'<|offset_{i}|>' for i in range(2, 6)]
  tokens += [f'<|span_{i}|>' for i in range(100)]
  tokens += [f'<|ul2_{mode}|>' for mode in 'rxs']
  tokens += [f'<|fim_{part}|>' for part in ('prefix', 'suffix', 'middle')]
  tokens += ['<|mask|>', '<|source|>', '<|right_to_left|>']
  config.data.tokenizer.special_tokens = tuple(tokens)
  name = np.arange(200, 212)
  augment = Augment(
    augmentations=augmentation_config(config).active,
    vocabulary=Vocabulary(
      pad_id=PAD,
      bos_id=BOS,
      continue_id=CONTINUE,
      eos_id=EOS,
      special={token: 4 + i for i, token in enumerate(tokens)},
      ordinary_V=np.arange(200, VOCAB),
      encode=lambda text: name,
    ),
    seed=0,
    steps=1_000_000,
  )

  def side(step: int) -> object:
    batch_NR = read(rows_NR, step)
    sources = ['web'] * int((batch_NR == BOS).sum())
    return augment(
      batch_NR, step=step, place_N=np.arange(BATCH_SIZE), sources=sources
    )

  return side


if __name__ == '__main__':
  main()
