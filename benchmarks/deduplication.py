"""Speed of what compares documents, on the standard library's own text.

python benchmarks/deduplication.py [--rounds=5] [--megabytes=16]

Each part runs on one core and is timed in seconds of CPU, so a busy machine
disturbs little; the median round is printed. What all parts of curation share,
the words of a batch and their hashes, is within each figure, too. Downloads
nothing.
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.machine import describe_machine
from input_pipeline.curation import (
  banding,
  contamination,
  minhash,
  quality_model,
  repeated_lines,
  survivors,
)
from input_pipeline.curation.columns import Columns
from input_pipeline.stdlib_text import library_directory, topics

SIMILARITY, NGRAM, PERMUTATIONS = 0.8, 5, 128
BATCH_CHARACTERS = 1_000_000
SIMILAR_PAIRS = 1_000_000
Part = Callable[[Columns], Any]


def main() -> None:
  """Prints MB of text, documents and pairs a CPU-second."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--megabytes', type=int, default=16)
  arguments = parser.parse_args()
  print(describe_machine())
  texts = _texts(arguments.megabytes * 10**6)
  batches = _batches(texts)
  size = sum(len(text.encode()) for text in texts) / 1e6
  parts = _parts(texts)
  for part in parts.values():  # makes the tables that live as long as a process
    part(Columns(batches[0]))
  print(
    f'{len(texts)} documents, {size:.1f} MB; MB of text a CPU-second, median of'
    f' {arguments.rounds} rounds'
  )
  for name, part in parts.items():
    rates = [size / _seconds(part, batches) for _ in range(arguments.rounds)]
    print(f'  {name:28} {statistics.median(rates):8.1f}')
  _print_pairs(texts, arguments.rounds)


def _texts(size: int) -> list[str]:
  paths = sorted(library_directory().rglob('*.py'))
  found = list(topics().values())
  total = sum(map(len, found))
  for path in paths:
    if total >= size:
      break
    if {'site-packages', 'dist-packages'}.isdisjoint(path.parts):
      text = path.read_text(encoding='utf-8', errors='ignore')
      found.append(text)
      total += len(text)
  return found


def _batches(texts: list[str]) -> list[list[str]]:
  """As much at a time as `prepare` looks at; more would leave the cache."""
  batches: list[list[str]] = [[]]
  room = BATCH_CHARACTERS
  for text in texts:
    if room < 0:
      batches.append([])
      room = BATCH_CHARACTERS
    batches[-1].append(text)
    room -= len(text)
  return batches


def _parts(texts: list[str]) -> dict[str, Part]:
  prose = list(topics().values())
  code = [text for text in texts[len(prose) :] if text]
  evaluations = contamination.evaluations_of(
    {'code': [text[:4_000] for text in code[::8]]}, ngram=13
  )
  model = quality_model.train([Columns(prose)], [Columns(code[:600])])
  return {
    'words and their hashes': lambda columns: columns.folded_hash_W,
    'signatures': lambda columns: minhash.signatures(
      columns, NGRAM, PERMUTATIONS
    ),
    'records of lines': lambda columns: repeated_lines.line_records(
      columns, *_numbers(columns.num_documents), min_words=4
    ),
    'contamination': lambda columns: contamination.hits(columns, evaluations),
    'scores of quality': lambda columns: quality_model.scores(columns, model),
  }


def _numbers(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Ranks and positions of documents, in their order."""
  numbers = np.arange(size, dtype=np.uint64)
  return numbers, numbers


def _seconds(part: Part, batches: list[list[str]]) -> float:
  start = time.process_time()
  for batch in batches:
    part(Columns(batch))
  return time.process_time() - start


def _print_pairs(texts: list[str], rounds: int) -> None:
  """What follows the signatures: records, pairs and survivors."""
  shape = banding.bands(SIMILARITY, PERMUTATIONS)
  signatures = np.concatenate(
    [
      minhash.signatures(Columns(batch), NGRAM, PERMUTATIONS)
      for batch in _batches(texts)
    ]
  )
  numbers = _numbers(len(texts))
  pairs = np.zeros(SIMILAR_PAIRS, minhash.PAIR)
  ends = np.random.default_rng(0).integers(
    0, SIMILAR_PAIRS // 3, (SIMILAR_PAIRS, 2)
  )
  ends.sort(axis=1)
  ends[:, 1] += 1  # so that none is paired with itself
  for field, column in (('better', 0), ('worse', 1)):
    pairs[field] = pairs[f'{field}_rank'] = ends[:, column]

  def meet() -> None:
    records = minhash.band_records(signatures, *numbers, shape)
    order = np.lexsort([records[f] for f in ('position', 'rank', 'key')])
    minhash.similar_pairs(records[order], SIMILARITY)

  for name, count, work in (
    ('documents through buckets', len(texts), meet),
    ('pairs to survivors', pairs.size, lambda: survivors.survivors(pairs)),
  ):
    rates = []
    for _ in range(rounds):
      start = time.process_time()
      work()
      rates.append(count / (time.process_time() - start))
    print(f'  {name:28} {statistics.median(rates):10,.0f} a CPU-second')


if __name__ == '__main__':
  main()
