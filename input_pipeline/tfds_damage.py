"""Which file of a TFDS dataset is damaged: their readers do not say."""

from collections.abc import Callable
from typing import Any

from etils import epath


def damaged_files(builder: Any, split: str) -> list[str]:
  """What is wrong with the files of a split, a line each.

  Every file is read to its end.

  Args:
    builder: of the dataset.
    split: as TFDS takes it, such as 'train[:10%]'.
  """
  name = split.partition('[')[0]
  if name not in builder.info.splits:
    return []
  whole = builder.info.splits[name]
  count = _READERS.get(builder.info.file_format.value)
  found = []
  for path, expected in zip(whole.filepaths, whole.shard_lengths, strict=True):
    problem = ''
    if not path.exists():
      problem = 'it is missing'
    elif count is not None:
      try:
        if (records := count(path)) != expected:
          problem = f'it holds {records} of {expected} examples'
      except Exception as error:  # whatever the reader raises
        problem = str(error).partition('\n')[0]
    if problem:
      found.append(f'{path}: {problem}')
  return found


def _count_tfrecord(path: epath.Path) -> int:
  from input_pipeline.tensorflow_setup import tensorflow

  return sum(1 for _ in tensorflow().data.TFRecordDataset(str(path)))


def _count_array_record(path: epath.Path) -> int:
  from array_record.python import array_record_module

  reader = array_record_module.ArrayRecordReader(str(path))
  try:
    return len(reader.read_all())
  finally:
    reader.close()


_READERS: dict[str, Callable[[epath.Path], int]] = {
  'array_record': _count_array_record,
  'tfrecord': _count_tfrecord,
}
