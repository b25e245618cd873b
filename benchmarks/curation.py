"""Speed of each stage of curation and of whole profiles, on one core.

python benchmarks/curation.py [--rounds=5] [--megabytes=20] [--datatrove=PATH]

Prose is what the interpreter has to read: the topics of `pydoc`, the long
docstrings of the standard library and LICENSE texts of installed packages;
`code` is the library's own files. What is there is repeated up to the size,
each time with other numbers of the words, so that no two documents are equal.
Each stage sees the texts as the stages before it in its profile leave them, and
seconds are of CPU. Where datatrove can be imported (with spaCy; --datatrove
names a folder with both), its filters of the same names run beside. Downloads
nothing.
"""

import argparse
import ast
import contextlib
import importlib.metadata
import itertools
import pathlib
import statistics
import sys
import sysconfig
import time
from collections.abc import Iterator
from pydoc_data import topics

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from configs.curation import get_curation
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import Profile, curation_config
from input_pipeline.curation.stages import STAGES

BATCH = 1_000_000
COMPARED_BYTES = 2_000_000
MIN_PROSE = 500


def main() -> None:
  """Prints MB of text a CPU-second, by profile and stage."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--megabytes', type=float, default=20.0)
  parser.add_argument('--datatrove', help='a folder to import datatrove from')
  arguments = parser.parse_args()
  print(describe_machine())
  config = curation_config(get_curation().to_dict())
  size = int(arguments.megabytes * 1e6)
  files = _library()
  corpora = {
    'prose': _repeat(_prose(files), size),
    'docs': _repeat(_prose(files), size),
    'code': _repeat(files, size),
  }
  print(
    f'MB of text a CPU-second on one core, median of {arguments.rounds} rounds'
  )
  for name, texts in corpora.items():
    rates: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
      for stage, rate in _round(getattr(config, name), texts):
        rates.setdefault(stage, []).append(rate)
    kept = statistics.median(rates.pop('kept'))
    mean = sum(map(len, texts)) / len(texts)
    print(
      f'{name}: {len(texts)} documents of {mean:.0f} characters, '
      f'{kept:.0%} kept'
    )
    _print(rates)
  if arguments.datatrove:
    sys.path.append(arguments.datatrove)
  _compare(corpora['prose'], arguments.rounds)


def _round(profile: Profile, texts: list[str]) -> Iterator[tuple[str, float]]:
  """Yields (stage, MB a second) of one pass; 'all stages', and 'kept'."""
  seconds: dict[str, float] = {}
  sizes: dict[str, int] = {}
  total = kept = 0
  start = time.process_time()
  for batch in _batches(texts):
    columns = Columns(batch)
    for name, stage in STAGES.items():
      options = getattr(profile, name)
      if not options.enabled:
        continue
      size = sum(map(len, columns.texts))
      begin = time.process_time()
      outcome = stage.apply(columns, options)
      spent = time.process_time() - begin
      seconds[name] = seconds.get(name, 0.0) + spent
      sizes[name] = sizes.get(name, 0) + size
      stays = (outcome.rule_D < 0).tolist()
      if outcome.texts is not None:
        # As `prepare` does: documents leave when a stage changes texts.
        columns = Columns(list(itertools.compress(outcome.texts, stays)))
        stays = [True] * columns.num_documents
    kept += sum(stays)
  total = sum(map(len, texts))
  yield 'all stages', total / 1e6 / (time.process_time() - start)
  for name, spent in seconds.items():
    yield name, sizes[name] / 1e6 / spent
  yield 'kept', kept / len(texts)


def _compare(texts: list[str], rounds: int) -> None:
  """The filters of datatrove beside the stages of the same name."""
  try:
    from datatrove.data import Document
    from datatrove.pipeline import filters
  except ImportError as error:
    print(f'datatrove is not there to compare with ({error})')
    return
  part, size = [], 0
  for text in texts:
    if size < COMPARED_BYTES:
      part.append(text)
      size += len(text)
  version = importlib.metadata.version('datatrove')
  print(f'gopher stages alone, on {size / 1e6:.1f} MB of the same prose')
  prose = curation_config(get_curation().to_dict()).prose
  rates: dict[str, list[float]] = {}
  pairs = {
    'gopher_quality': filters.GopherQualityFilter(),
    'gopher_repetition': filters.GopherRepetitionFilter(),
  }
  documents = [Document(text=text, id=str(n)) for n, text in enumerate(part)]
  for name, other in pairs.items():
    other.filter(documents[0])  # loads its words
    for _ in range(rounds):
      begin = time.process_time()
      for batch in _batches(part):
        STAGES[name].apply(Columns(batch), getattr(prose, name))
      middle = time.process_time()
      for document in documents:
        other.filter(document)
      end = time.process_time()
      rates.setdefault(name, []).append(size / 1e6 / (middle - begin))
      theirs = f'{name}, datatrove {version}'
      rates.setdefault(theirs, []).append(size / 1e6 / (end - middle))
  _print(rates)


def _print(rates: dict[str, list[float]]) -> None:
  for name, found in rates.items():
    print(f'  {name:36} {statistics.median(found):8.2f}')


def _batches(texts: list[str]) -> Iterator[list[str]]:
  batch, size = [], 0
  for text in texts:
    batch.append(text)
    size += len(text)
    if size >= BATCH:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


def _library() -> list[str]:
  """The standard library's own files, tests and packages of others aside."""
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  found = []
  for path in sorted(root.rglob('*.py')):
    parts = path.relative_to(root).parts
    if not {'site-packages', 'test', 'tests', 'lib2to3'} & set(parts):
      with contextlib.suppress(UnicodeDecodeError):
        found.append(path.read_text('utf-8'))
  return [text for text in found if text.strip()]


def _prose(files: list[str]) -> list[str]:
  found = list(topics.topics.values())
  for text in files:
    for node in ast.walk(ast.parse(text)):
      if (
        isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and len(docstring := ast.get_docstring(node) or '') >= MIN_PROSE
      ):
        found.append(docstring)
  for package in importlib.metadata.distributions():
    for file in package.files or []:
      if 'licen' in file.name.lower() and file.suffix != '.py':
        with contextlib.suppress(OSError, UnicodeDecodeError):
          found.append(pathlib.Path(str(file.locate())).read_text('utf-8'))
  return list(dict.fromkeys(text for text in found if len(text) >= MIN_PROSE))


def _repeat(texts: list[str], size: int) -> list[str]:
  """Repeats the texts up to a size, no two of them equal."""
  found, total = [], 0
  for number in itertools.count():
    for text in texts:
      if number:
        middle = text.find(' ', len(text) // 2) + 1
        text = f'{text[:middle]}Copy {number} of it. {text[middle:]}'
      found.append(text)
      total += len(text)
      if total >= size:
        return found
  raise AssertionError


if __name__ == '__main__':
  main()
