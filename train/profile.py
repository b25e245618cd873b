"""A profile of some steps: what devices and hosts did, and for how long."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

# (state, batch) -> (state, metrics), as train/step.py has it.
Step = Callable[[Any, Any], tuple[Any, Any]]


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

  The profile covers what happens between the steps too, such as waiting for
  data. It is written when the last of its steps has been computed, or at the
  end of the block, to `profile/process_N/plugins/profile/TIME` in the workdir:
  each process has a folder, for several may share a host.

  Args:
    train_step: the step.
    start: number of the first step to profile, counted as in the log; None:
      none.
    steps: how many to profile.
    done: steps that were taken before this process; they are in no profile.
    workdir: folder of the run, local or gs://.
  """
  if start is None or done >= start + steps - 1:
    yield train_step
    return
  first, last = max(start, done + 1), start + steps - 1
  folder = workdir / 'profile' / f'process_{jax.process_index()}'
  step = done
  with contextlib.ExitStack() as profile:

    def profiled_step(state: Any, batch: Any) -> tuple[Any, Any]:
      nonlocal step
      step += 1
      if step == first:
        profile.enter_context(
          jax.profiler.trace(str(folder), profiler_options=_options())
        )
      # Viewers tell steps apart by this mark.
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        state, metrics = train_step(state, batch)
      if step == last:
        # The devices are still at work when the step returns.
        jax.block_until_ready(metrics)
        profile.close()
      return state, metrics

    yield profiled_step


def _options() -> jax.profiler.ProfileOptions:
  options = jax.profiler.ProfileOptions()
  # Noting every call of a Python function would slow down what is measured.
  options.python_tracer_level = 0
  return options
