"""Speed of each stage of `prepare`, on the standard library's own text.

python benchmarks/prepare.py [--rounds=3] [--vocab_size=32768]

Each stage runs in one process and is timed in seconds of CPU, all threads
together, so a busy machine disturbs little; the median round is printed. The
`tokenizers` library encodes a part of the same text beside. Downloads nothing.
"""

import argparse
import functools
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from etils import epath

from benchmarks.machine import describe_machine
from configs.curation import get_curation
from input_pipeline import chunks, encode, tokenizer
from input_pipeline.config import DataConfig, EngineConfig, TokenizerConfig
from input_pipeline.curation.config import curation_config
from input_pipeline.engine import LocalEngine
from input_pipeline.progress import Progress
from input_pipeline.read import read
from input_pipeline.selection import chunk_tasks, find_equal, without
from input_pipeline.sources import parts

COMPARED_BYTES = 4_000_000
Result = TypeVar('Result')


def main() -> None:
  """Prints MB of text a CPU-second, by stage."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--vocab_size', type=int, default=32_768)
  arguments = parser.parse_args()
  print(describe_machine())
  rates: dict[str, list[float]] = {}
  with tempfile.TemporaryDirectory() as directory:
    config = _config(directory, arguments.vocab_size)
    parts(config)  # builds the dataset, once
    for number in range(arguments.rounds):
      work = epath.Path(directory) / f'round {number}'
      for stage, text_bytes, seconds in _round(config, work):
        rates.setdefault(stage, []).append(text_bytes / 1e6 / seconds)
  print(f'MB of text a CPU-second, median of {arguments.rounds} rounds')
  for stage, found in rates.items():
    print(f'  {stage:32} {statistics.median(found):8.1f}')


def _config(directory: str, vocab_size: int) -> DataConfig:
  return DataConfig(
    directory=directory,
    source='tfds',
    name='stdlib_text',
    split='train',
    validation_split='validation',
    tfds_dir=None,
    files=(),
    validation_files=(),
    validation_fraction=0.05,
    text_field='text',
    source_field=None,
    licence_field=None,
    on_bad_document='error',
    tokenizer=TokenizerConfig(
      kind='bpe', vocab_size=vocab_size, train_bytes=100_000_000, path=None
    ),
    curation=curation_config(get_curation().to_dict()),
    engine=EngineConfig(name='local', runner='', options=()),
    workers=1,
    prefetch=2,
    sequence_length=1_024,
  )


def _round(
  config: DataConfig, work: epath.Path
) -> Iterator[tuple[str, int, float]]:
  """Yields (stage, bytes of text, CPU-seconds)."""
  engine = LocalEngine(1)
  found, seconds = _timed(
    lambda: read(
      config, work / 'text', engine, Progress('Read', lambda line: None)
    )
  )
  tasks = chunk_tasks(found.chunks)
  everything = sum(
    int(chunks.load_table(task.directory, task.name)['bytes'].sum())
    for task in tasks
  )
  yield 'read', everything, seconds
  equal, seconds = _timed(lambda: find_equal(tasks, work / 'equal', engine))
  yield 'leave equal texts out', everything, seconds

  tasks = [t for t in without(tasks, equal[:, 0]) if t.split == 'train']
  names, kept = [t.name for t in tasks], [t.kept_D for t in tasks]
  texts = [
    text
    for name, mask in zip(names, kept, strict=True)
    for text in chunks.texts(work / 'text', name, mask)
  ]
  size = sum(len(text.encode()) for text in texts)
  data, seconds = _timed(
    lambda: tokenizer.train_bpe(texts, config.tokenizer.vocab_size)
  )
  yield 'train the tokenizer', size, seconds
  path = work / 'tokenizer.json'
  path.write_bytes(data)
  yield from _encode(work, path, names, kept, size)
  yield from _compare(path, texts)


def _encode(
  work: epath.Path, path: epath.Path, names: list[str], kept: list, size: int
) -> Iterator[tuple[str, int, float]]:
  tasks = [
    encode.EncodeTask(
      text_directory=work / 'text',
      directory=work / 'tokens',
      name=name,
      kept_D=mask,
      tokenizer=path,
      encoder='tiktoken',
    )
    for name, mask in zip(names, kept, strict=True)
  ]
  _, seconds = _timed(lambda: [encode.encode_chunk(task) for task in tasks])
  yield 'encode, write and all', size, seconds
  task = encode.PackTask(
    text_directory=work / 'text',
    token_directory=work / 'tokens',
    work_directory=work / 'packed',
    directory=work,
    name='train',
    chunk_names=tuple(names),
    kept=tuple(kept),
    row_length=1_025,
    tokenizer=path,
  )
  _, seconds = _timed(lambda: encode.pack_shard(task))
  yield 'pack', size, seconds


def _compare(
  path: epath.Path, texts: list[str]
) -> Iterator[tuple[str, int, float]]:
  """The two libraries on the same texts, a document at a time."""
  part, size = [], 0
  for text in texts:
    if size < COMPARED_BYTES:
      part.append(text)
      size += len(text.encode())
  for encoder in ('tiktoken', 'tokenizers'):
    loaded = tokenizer.load_tokenizer(path, encoder=encoder)
    _, seconds = _timed(functools.partial(_encode_all, loaded, part))
    yield f'encode only, by {encoder}', size, seconds


def _encode_all(loaded: tokenizer.Tokenizer, texts: list[str]) -> None:
  for text in texts:
    loaded.encode(text)


def _timed(function: Callable[[], Result]) -> tuple[Result, float]:
  start = time.process_time()
  result = function()
  return result, time.process_time() - start


if __name__ == '__main__':
  main()
