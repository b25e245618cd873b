"""Speed of `prepare` with the profile for prose, from text to packed rows.

python benchmarks/prepare.py [--megabytes=200] [--rounds=3] [--profile=prose]

One process does all the work. A stage's figure is MB of text that was read, by
seconds of CPU in it (all threads together, so a busy machine disturbs little);
the median round is printed. The vocabulary is trained apart, for it takes as
long for a terabyte as for 100 MB. Downloads nothing.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import prose
from benchmarks.machine import describe_machine
from configs.base import get_config
from input_pipeline import prepare
from input_pipeline.config import DataConfig, data_config
from input_pipeline.engine import LocalEngine, Shuffle
from input_pipeline.store import open_store
from input_pipeline.tokenizer import load_tokenizer, train_bpe

NAMES = {
  'read_part': 'read',
  'clean_chunk': 'clean: stages on single documents',
  'equal texts': 'equal texts',
  'near-duplicates': 'near-duplicates: hash and verify',
  '_account': 'count what was left out',
  'encode_chunk': 'encode',
  'pack_shard': 'pack',
}


@dataclasses.dataclass(frozen=True)
class TimedEngine(LocalEngine):
  """Adds up seconds of CPU by stage."""

  seconds: dict[str, float]

  @contextlib.contextmanager
  def timed(self, name: str) -> Iterator[None]:
    """Adds the seconds of a block."""
    start = time.process_time()
    yield
    stage = NAMES[name]
    spent = time.process_time() - start
    self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

  def map(self, function: Any, tasks: Sequence[Any]) -> Iterator[Any]:
    """As the local engine, timed."""
    with self.timed(function.__name__):
      results = list(map(function, tasks))
    yield from results

  def shuffle(self, shuffle: Shuffle, tasks: Sequence[Any]) -> None:
    """As the local engine, timed."""
    with self.timed(shuffle.name):
      LocalEngine(1).shuffle(shuffle, tasks)


def main() -> None:
  """Prints MB of text a CPU-second, by stage and in all."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--megabytes', type=int, default=200)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--profile', default='prose')
  parser.add_argument('--vocab_size', type=int, default=32_768)
  arguments = parser.parse_args()
  print(describe_machine())
  with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    size = write_corpus(root, arguments.megabytes * 10**6)
    start = time.process_time()
    tokenizer = train_tokenizer(root, arguments.vocab_size)
    training = time.process_time() - start
    rates = collections.defaultdict(list)
    kept = 0.0
    for number in range(arguments.rounds):
      name = f'round {number}'
      config = make_config(root, name, arguments.profile, tokenizer)
      kept, found = _round(config)
      for stage, seconds in found.items():
        rates[stage].append(size / 1e6 / seconds)
  print(
    f'{size / 1e6:.0f} MB of prose, {kept:.0%} of documents kept; MB of text'
    f' a CPU-second, median of {arguments.rounds} rounds'
  )
  for stage, speeds in rates.items():
    print(f'  {stage:36} {statistics.median(speeds):8.1f}')
  print(f'  vocabulary of all of it, once        {size / 1e6 / training:8.1f}')


def write_corpus(root: pathlib.Path, size: int) -> int:
  """Writes documents as JSONL; returns their bytes."""
  written = 0
  with (root / 'corpus.jsonl').open('w') as file:
    for text in prose.documents(size):
      written += len(text.encode())
      file.write(json.dumps({'text': text}) + '\n')
  return written


def train_tokenizer(root: pathlib.Path, vocab_size: int) -> pathlib.Path:
  """Trains a vocabulary on the corpus."""
  with (root / 'corpus.jsonl').open() as file:
    texts = (json.loads(line)['text'] for line in file)
    path = root / 'tokenizer.json'
    path.write_bytes(train_bpe(texts, vocab_size))
  load_tokenizer(path)
  return path


def make_config(
  root: pathlib.Path, name: str, profile: str, tokenizer: pathlib.Path
) -> DataConfig:
  """Of a preparation of the corpus."""
  config = get_config()
  config.data.directory = str(root / name)
  config.data.source = 'jsonl'
  config.data.files = (str(root / 'corpus.jsonl'),)
  config.data.curation.profile = profile
  config.data.tokenizer.kind = 'file'
  config.data.tokenizer.path = str(tokenizer)
  return data_config(config)


def _round(config: DataConfig) -> tuple[float, dict[str, float]]:
  """Share of the documents that stay, and CPU-seconds by stage."""
  engine = TimedEngine(1, {})
  vars(prepare)['make_engine'] = lambda config: engine
  start = time.process_time()
  directory = prepare.prepare(config, log=lambda line: None)
  total = time.process_time() - start
  splits = open_store(directory).manifest.splits.values()
  kept = sum(split.documents for split in splits)
  share = kept / (kept + sum(sum(s.dropped.values()) for s in splits))
  rest = total - sum(engine.seconds.values())
  return share, {**engine.seconds, 'the rest': rest, 'everything': total}


if __name__ == '__main__':
  main()
