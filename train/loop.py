"""The training loop: from prepared data to a trained model."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
from etils import epath

from train.agreement import Agreement
from train.checkpoint import Checkpoints
from train.checkpoint_info import Info, Restored
from train.config import TrainConfig
from train.data import epochs_by_name, prepared_stores, repeats
from train.distributed import (
  check_same,
  check_same_program,
  peers_give_signs,
  wait_for_all,
)
from train.journal import Journal
from train.lock import one_run_at_a_time
from train.platform_notice import google_preemption, platform_notice
from train.profile import profiled
from train.rows import Batch
from train.run import RollBack, Run, Stopped
from train.setup import (
  Setup,
  compile_eval_step,
  make_setup,
  trace_train_step,
)
from train.signals import stop_request
from train.state import TrainState, abstract_state, init_state
from train.step import compile_lowered, lower
from train.summary import session_record, summary
from train.timing import Stopwatch
from train.watchdog import Watchdog, watched
from train.workdir import (
  CHECKPOINTS,
  check_same_run,
  facts_of_a_run,
  start_workdir,
)

if TYPE_CHECKING:
  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.config import TrainingData
  from input_pipeline.stores import Stores


@one_run_at_a_time
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
    BadNumbersError: the numbers broke down, or the run diverged.
    DamagedError: there are checkpoints, and none of them is good.
    SaveError: a checkpoint could not be written.
    SuspectDeviceError: a device computes wrong numbers.
    Interrupted: a signal came; the state is saved.
  """
  watch = Stopwatch(started)
  setup = make_setup(config)
  stores = prepared_stores(data)
  with contextlib.ExitStack() as stack:
    request = stack.enter_context(stop_request())
    stack.enter_context(platform_notice(request, google_preemption()))
    watchdog = stack.enter_context(watched(Watchdog(config.watchdog)))
    checkpoints = stack.enter_context(
      Checkpoints(workdir / CHECKPOINTS, keep_last=config.checkpoint_keep_last)
    )
    stream = stores.stream(
      seed=config.seed, batch_size=config.batch_size, repack=augmentation.repack
    )
    begun = _begin(setup, stores, checkpoints, resolved, workdir, allow_change)
    step = begun.info.step
    journal = stack.enter_context(
      Journal(config, workdir, watch, step=step, epochs=epochs_by_name(stream))
    )
    start_workdir(workdir, resolved, [s.directory for s in stores.stores])
    facts = session_record(setup, stores, stream, step)
    journal.line(summary(config, facts, step))
    journal.session(step, **facts)
    for line in [*begun.remarks, *repeats(stream, config.steps)]:
      journal.event(step, line)
    run = Run(
      config=config,
      setup=setup,
      augmentation=augmentation,
      stores=stores,
      stream=stream,
      checkpoints=checkpoints,
      journal=journal,
      watch=watch,
      watchdog=watchdog,
      request=request,
      agreement=Agreement(jax.devices(), 3),
      info=begun.info,
      state=begun.state,
    )
    # There is room for one state: the steps give up their first one.
    del begun
    watch.startup_done()
    journal.ends_at(run.last_step())
    if not run.finished():
      batches = run.batches()
      with watch.phase('compile'), ThreadPoolExecutor(1) as background:
        # Importing TensorFlow and reading the first batch takes seconds too.
        first = background.submit(next, batches, None)
        train_step, eval_step = _compile(run)
        if (batch := first.result()) is not None:
          batches = itertools.chain([batch], batches)
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
      request.steps_begin()
      peers_give_signs()
      while not run.finished():
        try:
          _go_on(run, batches, train_step, eval_step)
        except RollBack as back:
          batches = run.roll_back(back)
    return run.end(step)


def _begin(
  setup: Setup,
  stores: 'Stores',
  checkpoints: Checkpoints,
  resolved: dict[str, Any],
  workdir: epath.Path,
  allow_change: bool,
) -> Restored:
  """The newest good state of the run in the workdir, or a new one.

  Raises:
    ValueError: the run in the workdir is another one.
    DamagedError: it has checkpoints, and none of them is good.
  """
  newest = checkpoints.newest()
  check_same(
    facts_of_a_run(resolved) | {'the newest checkpoint': newest and newest.step}
  )
  if newest is None:
    info = Info(
      step=0,
      config=resolved,
      data_fingerprint=stores.fingerprint,
    )
    return Restored(init_state(setup.recipe, setup.shardings), info, [])
  changes = check_same_run(
    newest,
    config=resolved,
    data_fingerprint=stores.fingerprint,
    workdir=workdir,
    allow_change=allow_change,
  )
  restored = checkpoints.restore_newest(
    abstract_state(setup.recipe, setup.shardings)
  )
  step = restored.info.step
  return Restored(
    restored.state,
    dataclasses.replace(
      restored.info, config=resolved, data_fingerprint=stores.fingerprint
    ),
    [f'Changed at step {step}: {change}' for change in changes]
    + restored.remarks,
  )


def _compile(run: Run) -> tuple[Any, Any]:
  """The compiled steps, of which all processes have the same."""
  setup, rows = run.setup, run.stores.first.rows('train')
  abstract = abstract_state(setup.recipe, setup.shardings)
  traced = trace_train_step(
    setup, run.marks, abstract, rows, augmented=bool(run.augmentation.active)
  )
  lowered = lower(traced, setup.mesh)
  check_same_program(lowered)
  return (
    compile_lowered(lowered, setup.mesh),
    compile_eval_step(setup, run.marks, abstract.eval_params, rows),
  )


def _go_on(
  run: Run, batches: Iterator[Batch], train_step: Any, eval_step: Any
) -> None:
  """Makes a step, and what is due after it.

  Raises:
    RollBack: a step is bad, and so it is to be.
    Interrupted: a signal came; the state is saved.
  """
  # One that was stopped in an evaluation begins with that.
  if not run.owes_evaluation():
    with run.watch.phase('data_wait'):
      run.batch = next(batches)
    with run.watch.phase('step_time'):
      run.state, metrics = train_step(run.state, run.batch)
    # The devices compute this step while the host looks at the last one.
    run.settle()
    run.made_a_step(metrics)
    run.poll_saves()

  stopped, overdue = run.asked()
  evaluates = run.owes_evaluation() and not stopped
  saves = overdue or run.owes_save() or bool(stopped)
  checks = run.owes_check()
  if not (evaluates or saves or checks):
    return
  run.settle()
  run.check_devices()
  if evaluates:
    try:
      saves = run.evaluate(eval_step) or saves
    except Stopped as stop:
      stopped = stop.signum
  if saves or stopped:
    run.save(last=bool(stopped) or run.finished())
  if stopped:
    raise run.interrupted(stopped)
