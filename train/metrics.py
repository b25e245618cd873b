"""The record of a run: metrics.jsonl, mirrored to TensorBoard."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from train.goodput import Account, Goodput

FILE_NAME = 'metrics.jsonl'
# Kinds that a resumed run produces again. Records of sessions and of spent
# time stay: the time was spent.
REPEATED_KINDS = frozenset({'train', 'evaluation', 'checkpoint', 'event'})
TENSORBOARD_KINDS = frozenset({'train', 'evaluation'})
# JSON has no such numbers.
NON_FINITE = {'nan': math.nan, 'inf': math.inf, '-inf': -math.inf}
# Object stores cannot append: the file is replaced this often, in seconds.
REMOTE_INTERVAL = 60.0


class MetricsWriter(contextlib.AbstractContextManager):
  """Appends records to `<workdir>/metrics.jsonl`, one JSON object a line.

  On a local file system every record is whole on disk when `write` returns.
  Object stores (`gs://`) cannot append, so there the whole file is replaced at
  every record but those of kind 'train', and at least once a minute while
  records come: a killed process loses up to a minute of 'train' records. The
  TensorBoard files of such a run are written by tensorboardX, which needs
  google-cloud-storage.

  One process writes; the others must not create a writer.

  Args:
    workdir: Directory of the run; created if missing.
    tensorboard: Mirror the numbers of kinds 'train' and 'evaluation' to event
      files in `<workdir>/tensorboard`.
    resume_step: The step that the run continues from. Records of later steps
      which it will produce again are dropped, and so is a half-written last
      line; what they tell of the time stays. None: the run starts at its
      beginning, and all of them are dropped.
    clock: Gives the `time` of a record, in seconds since the epoch.

  Raises:
    ValueError: An existing metrics.jsonl cannot be read.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    *,
    tensorboard: bool,
    resume_step: int | None,
    clock: Callable[[], float] = time.time,
  ):
    self._clock = clock
    self._directory = epath.Path(workdir)
    self._directory.mkdir(parents=True, exist_ok=True)
    last_step = -1 if resume_step is None else resume_step
    path = self._directory / FILE_NAME
    records = read_metrics(workdir) if path.exists() else []
    records = records_until(records, last_step)
    lines = [_encode_line(record) for record in records]
    self._account = Account()
    for record in records:
      self._account.add(record)
    self._lines: _LocalLines | _RemoteLines
    if '://' in os.fspath(workdir):
      self._lines = _RemoteLines(path, lines, clock)
    else:
      self._lines = _LocalLines(path, lines)
    self._events = None
    if tensorboard:
      self._events = _event_writer(
        self._directory / 'tensorboard', last_step + 1
      )

  def __exit__(self, *error: object) -> None:
    self.close()

  def write(self, kind: str, step: int, **values: Any) -> None:
    """Appends a record with the keys kind, step, time and those of `values`.

    Args:
      kind: 'session', 'train', 'evaluation', 'checkpoint', 'event', 'time' or
        'goodput'.
      step: Updates of the weights so far.
      **values: Plain Python numbers, strings, None, and lists and dicts of
        them. The strings "nan", "inf" and "-inf" are read back as numbers.
    """
    assert 'time' not in values, 'the writer adds the time'
    now = self._clock()
    record = {'kind': kind, 'step': step, 'time': round(now, 3), **values}
    self._lines.append(_encode_line(record), urgent=kind != 'train')
    self._account.add(record)
    if self._events is not None and kind in TENSORBOARD_KINDS:
      for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
          self._events.add_scalar(f'{kind}/{name}', value, step, now)

  def goodput(self) -> Goodput:
    """Where the time of the run went, over all records so far."""
    return self._account.goodput()

  def close(self) -> None:
    """Writes what is pending and closes the files; twice does no harm."""
    self._lines.close()
    if self._events is not None:
      self._events.close()
      self._events = None


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Returns the records of `<workdir>/metrics.jsonl` in their order.

  A last line without a line end which is no JSON was cut by a crash, and is
  left out.

  Raises:
    ValueError: There is no such file, or a line of it is no record.
  """
  path = epath.Path(workdir) / FILE_NAME
  if not path.exists():
    raise ValueError(
      f'{path} does not exist: {os.fspath(workdir)} holds no run. Train with'
      f' `python main.py --config=CONFIG.py --workdir={os.fspath(workdir)}`'
      ' first, or name the workdir of a run.'
    )
  lines = path.read_bytes().split(b'\n')
  records = []
  for number, line in enumerate(lines, 1):
    complete = number < len(lines)
    if not complete and not line:
      continue
    record = _decode_line(line)
    if record is not None:
      records.append(record)
    elif complete:
      raise ValueError(
        f'{path}, line {number} is no record (a JSON object with kind, step'
        f' and time): {line[:60]!r}. Remove the line to go on without it.'
      )
  return records


def records_until(
  records: Iterable[dict[str, Any]], last_step: int
) -> list[dict[str, Any]]:
  """Returns the records that a run resumed at `last_step` keeps.

  Where a record that says what was `spent` is dropped, a record of kind 'time'
  stands for it: the steps are made again, and yet they took their time. One is
  enough for records in a row, since each tells all since the process began.
  """
  kept: list[dict[str, Any]] = []
  spent: list[dict[str, Any]] = []
  for record in records:
    if record['kind'] not in REPEATED_KINDS or record['step'] <= last_step:
      kept += [*spent, record]
      spent = []
    elif 'spent' in record:
      place = {name: record[name] for name in ('step', 'time')}
      spent = [{'kind': 'time', **place, **record['spent']}]
  return kept + spent


class _LocalLines:
  """A file that grows by whole lines."""

  def __init__(self, path: epath.Path, lines: list[str]):
    _replace_file(path, lines)
    self._path = path

  def append(self, line: str, *, urgent: bool) -> None:
    del urgent  # Every line is.
    # Closing hands the line to the file system, which network file systems
    # need before others can see it.
    with open(self._path, 'ab') as file:
      file.write(line.encode())

  def close(self) -> None:
    pass


class _RemoteLines:
  """An object that is replaced as a whole, now and then."""

  def __init__(
    self, path: epath.Path, lines: list[str], clock: Callable[[], float]
  ):
    self._path = path
    self._lines = lines
    self._clock = clock
    self._written = 0
    self._flush()

  def append(self, line: str, *, urgent: bool) -> None:
    self._lines.append(line)
    if urgent or self._clock() - self._flushed_at >= REMOTE_INTERVAL:
      self._flush()

  def close(self) -> None:
    if self._written < len(self._lines):
      self._flush()

  def _flush(self) -> None:
    # A store shows an object only when it is complete.
    self._path.write_text(''.join(self._lines))
    self._written = len(self._lines)
    self._flushed_at = self._clock()


def _replace_file(path: epath.Path, lines: list[str]) -> None:
  temporary = f'{os.fspath(path)}.tmp'
  with open(temporary, 'w', encoding='utf-8') as file:
    file.writelines(lines)
    file.flush()
    # Else a power cut could leave the new name with no content.
    os.fsync(file.fileno())
  os.replace(temporary, path)


def _event_writer(directory: epath.Path, purge_step: int) -> Any:
  # TensorBoard is optional, and importing its writer takes a second.
  import tensorboardX

  earlier = len(list(directory.iterdir())) if directory.exists() else 0
  return tensorboardX.SummaryWriter(
    os.fspath(directory),
    purge_step=purge_step if earlier else None,
    # The name has the start in seconds: a quick restart would overwrite.
    filename_suffix=f'.{earlier}',
  )


def _encode_line(record: dict[str, Any]) -> str:
  return json.dumps(_encode(record), allow_nan=False) + '\n'


def _encode(value: Any) -> Any:
  if isinstance(value, float) and not math.isfinite(value):
    return 'nan' if math.isnan(value) else 'inf' if value > 0 else '-inf'
  if isinstance(value, dict):
    return {key: _encode(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_encode(item) for item in value]
  return value


def _decode_line(line: bytes) -> dict[str, Any] | None:
  try:
    record = json.loads(line)
  except ValueError:  # No JSON, or no UTF-8.
    return None
  if not isinstance(record, dict) or not {'kind', 'step', 'time'} <= set(
    record
  ):
    return None
  return _decode(record)


def _decode(value: Any) -> Any:
  if isinstance(value, str) and value in NON_FINITE:
    return NON_FINITE[value]
  if isinstance(value, dict):
    return {key: _decode(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_decode(item) for item in value]
  return value
