"""A run without steps, whose clocks are set by hand."""

import types
from pathlib import Path

import cases
from etils import epath

import train.journal
import train.timing
from train.goodput import goodput
from train.journal import Journal
from train.metrics import MetricsWriter, read_metrics
from train.timing import Stopwatch

METRICS = {
  'loss': 1.0, 'grad_norm': 1.0, 'param_norm': 1.0, 'learning_rate': 0.1,
  'z_loss': 0.0, 'tokens': 256.0, 'spike_score': 0.0,
}  # fmt: skip
FACTS = {
  'resumed': False, 'devices': 'x', 'processes': 1, 'mesh': {'data': 2},
  'parameters': 1, 'parameters_embedding': 1, 'tokens_per_step': 1,
  'flops_per_token': 1.0, 'peak_flops_per_device': None, 'dataset': {},
  'versions': {},
}  # fmt: skip


class Machine:
  """A run's processes with clocks that are set by hand; seconds are exact.

  Attributes:
    wall: the wall clock, and `steady` the monotonic one.
    lost: what the run does not keep, and `kept` what it does, step by step.
  """

  def __init__(self, workdir: Path, monkeypatch, log_every: int = 1):
    self.workdir = epath.Path(workdir)
    self.wall, self.steady = 1e9, 50.0
    self.step, self.kept, self.lost = 0, [], 0.0
    self.config = cases.tiny_train_config(
      **{'log.every': log_every, 'log.tensorboard': False}
    )
    clock = types.SimpleNamespace(perf_counter=lambda: self.steady)
    monkeypatch.setattr(train.timing, 'time', clock)

    def writer(workdir, **options):
      return MetricsWriter(workdir, clock=lambda: self.wall, **options)

    monkeypatch.setattr(train.journal, 'MetricsWriter', writer)

  def passes(self, seconds: float) -> None:
    self.wall += seconds
    self.steady += seconds

  def spend(self, phase: str, seconds: float) -> None:
    with self.watch.phase(phase):
      self.passes(seconds)

  def start(self, step: int, startup: float, compilation: float) -> None:
    self.watch = Stopwatch(self.steady)
    self.passes(startup / 2)
    self._back_to(step)
    self.journal = Journal(
      self.config,
      self.workdir,
      self.watch,
      step=step,
      epochs=lambda step: {'epoch': 0.0},
    )
    self.journal.session(step, **FACTS)
    self.passes(startup / 2)
    self.watch.startup_done()
    self.spend('compile', compilation)

  def steps(self, count: int, data: float, seconds: float) -> None:
    for _ in range(count):
      self.spend('data_wait', data)
      self.spend('step_time', seconds)
      self.step += 1
      self.kept.append((self.step, data + seconds))
      self.journal.advance(self.step)
      if self.step % self.config.log_every == 0:
        self.journal.train(self.step, dict(METRICS))

  def evaluate(self, seconds: float) -> None:
    self.spend('evaluation', seconds)
    self.kept.append((self.step, seconds))
    result = {'loss': 1.0, 'perplexity': 3.0, 'bits_per_byte': 1.0}
    self.journal.evaluation(self.step, **result, improved=True)

  def save(self, seconds: float) -> None:
    self.spend('checkpoint', seconds)
    self.kept.append((self.step, seconds))
    self.journal.checkpoint(self.step, seconds)

  def roll_back(self, step: int, seconds: float) -> None:
    """For a bad step that takes as long as it takes to go back."""
    bad = self.step + 1
    self.spend('step_time', seconds)
    self.passes(seconds)
    self.lost += 2 * seconds
    self._back_to(step)
    self.journal.rewind(step, bad)

  def end(self, error: BaseException | None = None) -> None:
    self.journal.__exit__(type(error), error, None)

  def _back_to(self, step: int) -> None:
    self.step = step
    self.lost += sum(seconds for at, seconds in self.kept if at > step)
    self.kept = [(at, seconds) for at, seconds in self.kept if at <= step]

  def told(self):
    return goodput(read_metrics(self.workdir))
