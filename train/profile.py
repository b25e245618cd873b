"""A profile of some steps: what devices and hosts did, and for how long."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from etils import epath

from train.state import TrainState

FOLDER = 'profile'
# What the profiler names after the host, and viewers look for.
_ENDINGS = ('.xplane.pb', '.trace.json.gz')

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]


@contextlib.contextmanager
def profiled(
  train_step: Step,
  *,
  start: int | None,
  steps: int,
  done: int,
  workdir: epath.Path,
) -> Iterator[Step]:
  """Gives a training step that profiles itself; its results are the same.

  Every process writes files of its own, which viewers put side by side, to
  `profile/plugins/profile/steps_FIRST_LAST` in the workdir.

  Args:
    train_step: the step.
    start: number of the first step to profile, counted as in the log; None:
      none.
    steps: how many to profile. What the run does between them is profiled too.
    done: steps that have been taken before this process. Steps among them are
      in no profile.
    workdir: folder of the run.
  """
  if start is None or done >= start + steps - 1:
    yield train_step
    return
  first, last = max(start, done + 1), start + steps - 1
  target = workdir / FOLDER / 'plugins' / 'profile' / f'steps_{first}_{last}'
  step = done
  with contextlib.ExitStack() as stack:

    def profiled_step(
      state: TrainState, batch: jax.Array
    ) -> tuple[TrainState, Metrics]:
      nonlocal step
      step += 1
      if step == first:
        stack.enter_context(_trace(target))
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        state, metrics = train_step(state, batch)
      if step == last:
        # The devices are still at work when the step returns.
        jax.block_until_ready(metrics)
        stack.close()
      return state, metrics

    yield profiled_step


@contextlib.contextmanager
def _trace(target: epath.Path) -> Iterator[None]:
  """Profiles the block; the files appear when it ends, however it ends."""
  with tempfile.TemporaryDirectory() as folder:
    # The profiler itself writes to local disks only.
    with jax.profiler.trace(folder):
      yield
    target.mkdir(parents=True, exist_ok=True)
    for file in Path(folder).rglob('*'):
      for ending in _ENDINGS:
        if file.name.endswith(ending):
          # Several processes may share a host, and so its name.
          name = f'process_{jax.process_index()}{ending}'
          (target / name).write_bytes(file.read_bytes())
