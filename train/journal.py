"""What a run tells: lines for a person, records for the report."""

import contextlib
import signal
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from model.flops import training_flops_per_token
from train.chips import peak_flops
from train.config import TrainConfig
from train.console import Console, format_goodput
from train.goodput import DONE
from train.metrics import MetricsWriter
from train.signals import Interrupted
from train.timing import Stopwatch


class Journal(contextlib.AbstractContextManager):
  """Console and metrics of a run; silent on all hosts but the first.

  Args:
    config: the run.
    workdir: where metrics are written.
    watch: the process's time, which throughput is measured by.
    step: the step that the process starts from.
    epochs: of a step, how often the data was read before.
  """

  def __init__(
    self,
    config: TrainConfig,
    workdir: epath.Path,
    watch: Stopwatch,
    *,
    step: int,
    epochs: Callable[[int], dict[str, float]],
  ):
    self._config = config
    self._workdir = workdir
    self._watch = watch
    self._epochs = epochs
    self._writer: MetricsWriter | None = None
    self._console: Console | None = None
    self._begun = False
    self._start(step)
    # Of the processes before this one.
    self._earlier = 0.0
    if self._writer is not None:
      sessions = self._writer.goodput().sessions
      self._earlier = sum(session.seconds for session in sessions)

  def _start(self, step: int) -> None:
    self._step = step
    self._last = (step, self._watch.training())
    if jax.process_index() == 0:
      self._writer = MetricsWriter(
        self._workdir,
        tensorboard=self._config.log_tensorboard,
        resume_step=step or None,
      )
      self._console = Console(self._config.steps, step)

  def rewind(self, step: int, bad: int) -> None:
    """Forgets the steps after one; the run makes them again.

    Args:
      step: the one that the run has gone back to.
      bad: the last one that was made.
    """
    # Two records, the second of a lower step: what lies before it is lost.
    self._time(bad)
    self._close()
    self._start(step)
    self._time(step)

  def __exit__(
    self, kind: Any, error: BaseException | None, trace: object
  ) -> None:
    try:
      try:
        # Before that the records are those of earlier processes.
        if self._begun:
          self._end(error)
      finally:
        self._close()
    except Exception:
      # The disk may be what failed, and the first error is the one to tell.
      if error is None:
        raise

  def _end(self, error: BaseException | None) -> None:
    """Records and prints where the time went, and how the process ended."""
    self._time(self._step)
    self._goodput(self._step, ended=_how_it_ended(error))
    if self._writer is not None:
      self.line(format_goodput(self._writer.goodput()))

  def _close(self) -> None:
    if self._writer is not None:
      self._writer.close()
    if self._console is not None:
      self._console.close()

  def line(self, text: str) -> None:
    """Prints text."""
    if self._console is not None:
      self._console.line(text)

  def seconds(self) -> float:
    """That all processes of the run have taken so far, one after the other.

    Known to the first host alone; the others tell what this process has taken.
    """
    return self._earlier + self._watch.totals()['total']

  def event(self, step: int, message: str, **values: Any) -> None:
    """Prints and records something that happened once."""
    self.line(message)
    self.record_event(step, message, **values)

  def record_event(self, step: int, message: str, **values: Any) -> None:
    """Records something that happened, and where the time went until then."""
    self._write('event', step, message=message, **values)
    self._time(step)

  def session(self, step: int, **values: Any) -> None:
    """Records the start of a process."""
    self._begun = True
    self._write('session', step, **values, spent=self._spent())

  def ends_at(self, step: int) -> None:
    """Takes another step for the last one."""
    if self._console is not None:
      self._console.ends_at(step)

  def advance(self, step: int) -> None:
    """Moves the progress bar."""
    self._step = max(self._step, step)
    if self._console is not None:
      self._console.advance(step)

  def train(self, step: int, metrics: dict[str, float]) -> None:
    """Prints and records the metrics of a step, with the throughput."""
    config, (last_step, last_seconds) = self._config, self._last
    seconds = self._watch.training()
    self._last = (step, seconds)
    tokens = (step - last_step) * config.batch_size * config.sequence_length
    per_second = tokens / max(seconds - last_seconds, 1e-9)
    per_device = per_second / jax.device_count()
    peak = peak_flops(jax.devices()[0].device_kind)
    flops = training_flops_per_token(config.model)
    record = metrics | {
      'tokens_per_second': per_second,
      'tokens_per_second_per_device': per_device,
      'mfu': None if peak is None else per_device * flops / peak,
    }
    record |= self._epochs(step)
    if self._console is not None:
      self._console.train_line({'step': step} | record)
    self._write('train', step, **record, spent=self._spent())

  def evaluation(self, step: int, **values: Any) -> None:
    """Prints and records an evaluation."""
    if self._console is not None:
      self._console.evaluation_line({'step': step} | values)
    self._write('evaluation', step, **values)
    self._time(step)
    self._goodput(step)

  def checkpoint(self, step: int, seconds: float) -> None:
    """Records a save, and for how long it held the loop up."""
    self._write('checkpoint', step, seconds=seconds, spent=self._spent())

  def _time(self, step: int) -> None:
    """Records where the process's time went so far."""
    self._write('time', step, **self._spent())

  def _goodput(self, step: int, **values: Any) -> None:
    """Records where the time of the whole run went so far."""
    if self._writer is not None:
      self._write('goodput', step, **self._writer.goodput().record(), **values)

  def _spent(self) -> dict[str, float]:
    return {k: round(v, 4) for k, v in self._watch.totals().items()}

  def _write(self, kind: str, step: int, **values: Any) -> None:
    self._step = max(self._step, step)
    if self._writer is not None:
      self._writer.write(kind, step, **values)


def _how_it_ended(error: BaseException | None) -> str:
  if error is None:
    return DONE
  if isinstance(error, Interrupted):
    return signal.Signals(error.signum).name
  return type(error).__name__
