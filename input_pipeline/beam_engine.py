"""Runs the stages of `prepare` with Apache Beam, on one machine or on many.

Tasks are the elements, and their results lie in files that all workers reach,
as with the local engine. Only the records of a shuffle travel through Beam.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from input_pipeline.engine import Shuffle, Task, cut, reduce_partition
from input_pipeline.workers import guarded


@dataclasses.dataclass(frozen=True)
class BeamEngine:
  """Runs each stage as a pipeline of its own.

  Attributes:
    runner: of Beam, e.g. 'FnApiRunner' on this machine or 'DataflowRunner'.
      Beam's own default is not taken, as it reaches for the network.
    options: of the runner, as on a command line: '--project=...'.
  """

  runner: str
  options: tuple[str, ...]

  def map(
    self, function: Callable[[Task], Any], tasks: Sequence[Task]
  ) -> Iterator[Any]:
    """Yields function(task) for every task, after all are done.

    The result comes from a second call here, which finds the task finished. A
    task that failed by a fault of the user's data fails here once more, with
    its message as it is.
    """
    if tasks:
      beam = _beam()
      with self._pipeline() as pipeline:
        _spread(pipeline, tasks) | 'Run' >> beam.Map(_run, function)
    for task in tasks:
      yield function(task)

  def shuffle(self, shuffle: Shuffle, tasks: Sequence[Any]) -> None:
    """Leaves the result of every partition in its file."""
    beam = _beam()
    if not shuffle.missing():
      return
    with self._pipeline() as pipeline:
      (
        _spread(pipeline, tasks)
        | 'Emit' >> beam.FlatMap(_emit, shuffle)
        | 'By partition' >> beam.GroupByKey()
        | 'Reduce' >> beam.Map(_reduce, shuffle)
      )
    # A partition that got no record is not in the pipeline.
    for partition in shuffle.missing():
      reduce_partition(shuffle, partition, [np.empty(0, shuffle.kind)])

  def _pipeline(self) -> Any:
    beam = _beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    # Workers elsewhere import this package; nothing of this process is sent.
    options = PipelineOptions(list(self.options), save_main_session=False)
    try:
      return beam.Pipeline(runner=self.runner, options=options)
    except ValueError as error:
      # Of an unknown runner, or options that the runner lacks.
      said = ' '.join(str(error).split())
      raise ValueError(
        f'data.engine.runner={self.runner!r} with data.engine.options='
        f'{self.options}: {said}'
      ) from error


def _beam() -> Any:
  try:
    import apache_beam
  except ImportError as error:
    raise ValueError(
      "data.engine.name='beam' needs Apache Beam: install the extra 'beam'"
      ' (pip install .[beam])'
    ) from error
  return apache_beam


def _spread(pipeline: Any, tasks: Sequence[Any]) -> Any:
  beam = _beam()
  return pipeline | 'Tasks' >> beam.Create(tasks) | beam.Reshuffle()


def _run(task: Any, function: Callable[[Any], Any]) -> None:
  guarded(function, task)


def _emit(task: Any, shuffle: Shuffle) -> Iterator[tuple[int, bytes]]:
  parts = cut(shuffle.emit(task), shuffle.partitions)
  for partition, records in enumerate(parts):
    if records.size:
      yield partition, records.tobytes()


def _reduce(group: tuple[int, Iterable[bytes]], shuffle: Shuffle) -> None:
  partition, pieces = group
  records = [np.frombuffer(piece, shuffle.kind) for piece in pieces]
  reduce_partition(shuffle, partition, records)
