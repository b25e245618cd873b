"""The training loop: from prepared data to a trained model."""

import contextlib
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from train.checkpoint import Checkpoints, Info, SaveError
from train.config import TrainConfig
from train.data import (
  epochs_by_name,
  prepared_stores,
  repeats,
  train_batches,
  validation_splits,
)
from train.distributed import check_same, wait_for_all
from train.early_stopping import NO_EVALUATION, Best, observe, should_stop
from train.evaluate import evaluate
from train.journal import Journal
from train.profile import profiled
from train.setup import (
  compile_eval_step,
  compile_train_step,
  data_marks,
  make_setup,
)
from train.signals import Interrupted, stop_request
from train.state import TrainState, abstract_state, init_state
from train.summary import session_record, summary
from train.timing import Stopwatch
from train.workdir import (
  CHECKPOINTS,
  check_same_run,
  facts_of_a_run,
  start_workdir,
)

if TYPE_CHECKING:
  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.config import TrainingData


class NonFiniteError(RuntimeError):
  """The loss or a gradient became infinite or not a number."""


def train(
  config: TrainConfig,
  data: 'TrainingData',
  augmentation: 'AugmentationConfig',
  *,
  resolved: dict[str, Any],
  workdir: epath.Path,
  allow_change: bool,
  started: float,
) -> TrainState:
  """Trains, or goes on with the run that the workdir holds.

  Args:
    config: the training part of the configuration.
    data: the datasets.
    augmentation: how training rows change.
    resolved: all of it, as JSON holds it.
    workdir: folder of the run.
    allow_change: go on although the configuration or the data has changed.
    started: time.perf_counter() when the process began.

  Returns:
    The state with the best evaluation.

  Raises:
    ValueError: the configuration does not fit the data, the devices or the
      run in the workdir.
    NonFiniteError: the numbers broke down.
    DamagedError: there are checkpoints, and none of them is good.
    SaveError: a checkpoint could not be written.
    Interrupted: a signal came; the state is saved.
  """
  watch = Stopwatch(started)
  setup = make_setup(config)
  stores = prepared_stores(data)
  marks = data_marks(config.model, stores.first.manifest)
  stream = stores.stream(
    seed=config.seed, batch_size=config.batch_size, repack=augmentation.repack
  )
  abstract = abstract_state(setup.recipe, setup.shardings)
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(
      Checkpoints(workdir / CHECKPOINTS, keep_last=config.checkpoint_keep_last)
    )

    # Go on from the newest good checkpoint, or start.
    newest = checkpoints.newest()
    check_same(
      facts_of_a_run(resolved)
      | {'the newest checkpoint': newest and newest.step}
    )
    changes, set_aside = [], []
    if newest is None:
      step, best = 0, NO_EVALUATION
      state = init_state(setup.recipe, setup.shardings)
    else:
      changes = check_same_run(
        newest,
        config=resolved,
        data_fingerprint=stores.fingerprint,
        workdir=workdir,
        allow_change=allow_change,
      )
      restored = checkpoints.restore_newest(abstract)
      state, set_aside = restored.state, restored.set_aside
      step, best = restored.info.step, restored.info.best

    journal = stack.enter_context(
      Journal(config, workdir, watch, step=step, epochs=epochs_by_name(stream))
    )
    start_workdir(workdir, resolved, [s.directory for s in stores.stores])
    facts = session_record(setup, stores, stream, step)
    journal.line(summary(config, facts, step))
    journal.session(step, **facts)
    for change in changes:
      journal.event(step, f'Changed at step {step}: {change}')
    for line in set_aside:
      journal.event(step, line)
    for warning in repeats(stream, config.steps):
      journal.event(step, warning)

    begun = step

    def finished() -> bool:
      return step >= config.steps or should_stop(best, config.early_stopping)

    watch.startup_done()
    batches = train_batches(setup, augmentation, stores.first, stream, step)
    if not finished():
      with watch.phase('compile'), ThreadPoolExecutor(1) as background:
        # Importing TensorFlow and reading the first batch takes seconds too.
        first = background.submit(next, batches)
        rows = stores.first.rows('train')
        train_step = compile_train_step(
          setup, marks, abstract, rows, augmented=bool(augmentation.active)
        )
        eval_step = compile_eval_step(setup, marks, abstract.eval_params, rows)
        batches = itertools.chain([first.result()], batches)
        wait_for_all()
      train_step = stack.enter_context(
        profiled(
          train_step,
          start=config.log_profile_start,
          steps=config.log_profile_steps,
          done=step,
          workdir=workdir,
        )
      )

    def settle(step: int, metrics: dict[str, jax.Array]) -> None:
      """Fetches the metrics of a step that has been dispatched."""
      with watch.phase('step_time'):
        fetched = {k: v.item() for k, v in jax.device_get(metrics).items()}
      if not fetched.pop('finite'):
        message = (
          f'Step {step}: loss {fetched["loss"]}, gradient norm '
          f'{fetched["grad_norm"]}. The weights were not changed by it. Lower '
          'optimizer.learning_rate or optimizer.clip_norm, or lengthen '
          'optimizer.warmup_steps; the same command goes on from the newest '
          'checkpoint.'
        )
        journal.record_event(step, message)
        raise NonFiniteError(message)
      journal.advance(step)
      if step % config.log_every == 0 or step == config.steps:
        journal.train(step, fetched)

    saved_at = time.monotonic()

    def save(step: int) -> None:
      nonlocal saved_at
      saved_at = begin = time.monotonic()
      info = Info(
        step=step,
        config=resolved,
        data_fingerprint=stores.fingerprint,
        best=best,
      )
      with watch.phase('checkpoint'):
        try:
          checkpoints.save(state, info)
        except SaveError as error:
          unsaved(error)
      journal.checkpoint(step, time.monotonic() - begin)

    def unsaved(error: SaveError) -> None:
      journal.event(step, str(error))
      if config.checkpoint_on_failure == 'stop':
        raise error

    request = stack.enter_context(stop_request())
    pending = None
    while not finished():
      with watch.phase('data_wait'):
        batch = next(batches)
      with watch.phase('step_time'):
        state, metrics = train_step(state, batch)
      step += 1
      # The devices compute this step while the host looks at the last one.
      if pending is not None:
        settle(*pending)
      pending = (step, metrics)

      try:
        checkpoints.poll()
      except SaveError as error:
        unsaved(error)

      last = step == config.steps
      evaluates = last or step % config.evaluation_every == 0
      saves = last or step % config.checkpoint_every == 0
      stopped, overdue = _agreed(
        request.signum, time.monotonic() - saved_at, step, config
      )
      saves = saves or overdue
      if not (evaluates or saves or stopped):
        continue
      settle(*pending)
      pending = None
      if evaluates:
        with watch.phase('evaluation'):
          result = evaluate(
            eval_step, state.eval_params, validation_splits(setup, stores)
          )
        best = observe(
          best,
          result[config.early_stopping.metric],
          step,
          config.early_stopping,
        )
        improved = best.step == step
        saves = saves or improved or should_stop(best, config.early_stopping)
        journal.evaluation(step, **result, improved=improved)
      if saves or stopped:
        save(step)
      if stopped:
        checkpoints.wait()
        interrupted = Interrupted(stopped, step)
        journal.record_event(step, str(interrupted))
        raise interrupted

    if begun < step < config.steps:
      journal.event(
        step,
        f'Stopped early at step {step}: {best.waited} evaluations without an '
        f'improvement of {config.early_stopping.metric} by more than '
        f'{config.early_stopping.min_delta}.',
      )
    checkpoints.wait()
    if best.step is not None and best.step != step:
      state = checkpoints.restore(best.step, abstract)
    journal.time(step)
    journal.line(_farewell(best, step, config))
    return state


def _agreed(
  signum: int | None, seconds: float, step: int, config: TrainConfig
) -> tuple[int, bool]:
  """What clocks and signals of the hosts ask for, the same on every host.

  Args:
    signum: the signal that this host received, if any.
    seconds: since the last save.
    step: updates made.
    config: the run.

  Returns:
    The signal that any host received, or 0; whether a save is overdue.
  """
  minutes = config.checkpoint_minutes
  overdue = minutes is not None and seconds >= 60 * minutes
  if jax.process_count() == 1:
    return signum or 0, overdue
  # Asking the other hosts waits for them, so it is done now and then.
  if step % config.log_every:
    return 0, False
  mine = np.array([signum or 0, overdue], np.int32)
  signum, overdue = multihost_utils.process_allgather(mine).max(axis=0)
  return int(signum), bool(overdue)


def _farewell(best: Best, step: int, config: TrainConfig) -> str:
  if best.step is None:
    return f'Done at step {step}.'
  return (
    f'Done at step {step}. Best {config.early_stopping.metric} '
    f'{best.value:.4f} at step {best.step}; evaluate and sample use it.'
  )
