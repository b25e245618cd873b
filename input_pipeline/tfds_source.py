"""Examples of a TFDS dataset, ours or the catalogue's."""

import itertools
import os
import platform
from collections.abc import Iterator
from typing import Any

from etils import epath

from input_pipeline import lock
from input_pipeline.config import DataConfig
from input_pipeline.errors import DataError
from input_pipeline.tfds_damage import damaged_files

# `stdlib_text` is the text of this interpreter.
INTERPRETER = (
  f'{platform.python_implementation().lower()}-{platform.python_version()}'
)


def is_stdlib_text(name: str) -> bool:
  """Whether `data.name` is our own dataset."""
  return name.partition('/')[0] == 'stdlib_text'


def licence(config: DataConfig) -> str | None:
  """What the dataset says about its licence, if it is one of TFDS."""
  if config.source != 'tfds':
    return None
  info = _prepared(config).info.as_proto
  return info.redistribution_info.license or None


def ranges(config: DataConfig, split: str, size: int) -> list[tuple[int, int]]:
  """Cuts the examples of a split into ranges of about `size` bytes.

  A dataset that is not there yet is built first, in ArrayRecord files.

  Raises:
    ValueError: when the dataset, the split or the text field does not exist.
  """
  builder = _prepared(config)
  features = sorted(builder.info.features)
  if config.text_field not in features:
    raise ValueError(
      f'{config.name}: no feature {config.text_field!r}; it has'
      f' {", ".join(features)} (data.text_field chooses)'
    )
  names = sorted(builder.info.splits)
  if split.partition('[')[0] not in [*names, 'all'] and '+' not in split:
    raise ValueError(
      f'{config.name}: no split {split!r}; it has {", ".join(names)}'
      ' (data.split and data.validation_split choose)'
    )
  info = builder.info.splits[split]
  count = info.num_examples
  # Other formats are read from their beginning: in one piece, then.
  pieces = max(1, info.num_bytes // size) if _is_indexed(builder) else 1
  bounds = [count * n // pieces for n in range(pieces + 1)]
  return list(itertools.pairwise(bounds))


def examples(
  config: DataConfig, split: str, start: int, stop: int
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (id, example) of a range of a split, in its stored order.

  The id is the example's own, where it has one, else '<split>/<number>'.

  Raises:
    DataError: a file is damaged, or holds fewer examples than it should.
  """
  builder = _prepared(config)
  number = start
  try:
    source = _read(builder, split, start, stop)
    while (example := next(source, None)) is not None:
      identifier = f'{split}/{number}'
      if 'id' in example:
        identifier = text(example['id'])
      yield identifier, example
      number += 1
    if number != stop:
      raise EOFError(f'{number - start} of {stop - start} examples are there')
  except Exception as error:  # whatever TFDS and its readers raise
    raise _damaged(builder, split, error) from error


def _damaged(builder: Any, split: str, error: Exception) -> DataError:
  said = damaged_files(builder, split) or [
    f'{builder.data_dir}: {str(error).partition(chr(10))[0]}'
  ]
  return DataError(
    f'{builder.name}, {split}: {said[0]}'
    + (f', and {len(said) - 1} more files' if said[1:] else '')
    + '; remove the directory and build or copy it anew'
  )


def _prepared(config: DataConfig) -> Any:
  # TFDS asks the metadata server of Google Cloud where it runs, and waits.
  os.environ.setdefault('NO_GCE_CHECK', 'true')
  import tensorflow_datasets as tfds

  if is_stdlib_text(config.name):
    from input_pipeline import stdlib_text  # noqa: F401, registers itself
  directory = config.tfds_dir or epath.Path(config.directory) / 'tfds'
  try:
    builder = tfds.builder(config.name, data_dir=directory)
  except tfds.core.registered.DatasetNotFoundError as error:
    raise ValueError(
      f'data.name={config.name!r} is no TFDS dataset: {error}'
    ) from error
  if builder.is_prepared():
    return builder
  path = epath.Path(directory) / f'.{builder.name}.lock'
  with lock.locked(path, log=lambda line: None):
    builder = tfds.builder(
      config.name, data_dir=directory, file_format='array_record'
    )
    tfds.disable_progress_bar()
    builder.download_and_prepare()  # returns at once if another has done it
  return builder


def _is_indexed(builder: Any) -> bool:
  return builder.info.file_format.value == 'array_record'


def _read(
  builder: Any, split: str, start: int, stop: int
) -> Iterator[dict[str, Any]]:
  if _is_indexed(builder):
    source = builder.as_data_source(split=split)
    return (source[number] for number in range(start, stop))
  from input_pipeline.tensorflow_setup import tensorflow

  tensorflow()
  import tensorflow_datasets as tfds

  # One file at a time, so that the order is that of the files.
  order = tfds.ReadConfig(interleave_cycle_length=1)
  return iter(
    builder.as_dataset(
      split=split, shuffle_files=False, read_config=order
    ).as_numpy_iterator()
  )


def text(value: bytes | str) -> str:
  """The name of an example or a source as a string."""
  return value.decode(errors='replace') if isinstance(value, bytes) else value
