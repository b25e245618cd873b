"""Checkpoints: asynchronous, sharded and atomic by Orbax; checked by us.

A step's directory holds the arrays of the state and, as JSON, what is needed to
go on: the resolved configuration, the data's fingerprint, the evaluations, and
the shape and fingerprint of every array. Orbax returns what it finds on the
disk, right or wrong (its compressed chunks have no checksum): here the arrays
are compared with their fingerprints, and a run goes back to an older step where
they differ.
"""

import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from model.params import Params
from train.checkpoint_info import (
  DamagedError,
  Info,
  Restored,
  SaveError,
  first_cause,
  info_of,
  shapes_of,
)
from train.distributed import agreed, wait_for_all
from train.fingerprint import fingerprints, fingerprints_later, names
from train.state import TrainState, cooled_down
from train.step_folders import StepFolders

_SAVE_TIMEOUT_SECONDS = 600


class Checkpoints(contextlib.AbstractContextManager):
  """The checkpoints of a run. Close it: the last save may be in flight.

  All processes call the same methods in the same order.

  Args:
    directory: holds the steps. What is not named like a step is left alone.
    keep_last: number of newest steps to keep, beside the best. None opens the
      checkpoints to read: nothing is cleaned up, and a run may be writing.
  """

  def __init__(self, directory: epath.Path, *, keep_last: int | None):
    # Orbax takes absolute paths only, and finds out in the middle of a save.
    self._directory = directory.expanduser().resolve()
    self._folders = StepFolders(self._directory)
    self._keep_last = keep_last
    self._pool = concurrent.futures.ThreadPoolExecutor(1)
    self._saving: tuple[int, concurrent.futures.Future[None]] | None = None
    if keep_last is not None and jax.process_index() == 0:
      self._folders.clean()
    wait_for_all()

  def __exit__(self, kind: Any, error: BaseException | None, *rest: Any):
    try:
      if error is None:
        self.wait()
      elif self._saving is not None:
        # The others may not come.
        self._end_save()
    except SaveError as failure:
      if error is None:
        raise
      # The first cause is the one to report.
      error.add_note(str(failure))
    finally:
      self._pool.shutdown()

  def steps(self) -> list[int]:
    """Steps that are saved, good or damaged, the oldest first."""
    return self._folders.steps()

  def newest(self) -> Info | None:
    """What the newest readable checkpoint says; None where there is none.

    Raises:
      DamagedError: there are checkpoints, and none of them can be read.
    """
    problems = []
    for step in reversed(self.steps()):
      try:
        return self.info(step)
      except DamagedError as error:
        problems.append(str(error))
    if problems:
      raise DamagedError(self._no_good_one(problems))
    return None

  def info(self, step: int) -> Info:
    """What the checkpoint of a step says about its run.

    Raises:
      DamagedError: it cannot be read.
    """
    return self._read(step)[0]

  def _read(self, step: int) -> tuple[Info, dict[str, str], dict[str, int]]:
    """What a checkpoint says: of its run, and of shapes and bits of arrays."""
    path = self._folders.path(step)
    with _damage(path):
      saved = dict(ocp.metadata(path).custom_metadata)
      arrays, prints = saved.pop('arrays'), self._folders.fingerprints(step)
      info = info_of(saved)
      if info.step != step or arrays.keys() != prints.keys():
        raise ValueError(f'it says that it is of step {info.step}')
      return info, arrays, prints

  def save(self, state: TrainState, info: Info) -> None:
    """Starts to save; returns once the state may be given up.

    A step that is saved already is told what the run knows of it by now.

    Raises:
      SaveError: the save before this one, or the beginning of this one, failed.
    """
    self.wait()
    assert self._keep_last is not None, 'the checkpoints are open to read'
    if info.step in self.steps():
      if jax.process_index() == 0:
        self._folders.amend(info.step, dataclasses.asdict(info))
      wait_for_all()
      return
    saved = dataclasses.asdict(info) | {'arrays': shapes_of(state)}
    context = ocp.Context()
    context.async_options.timeout_secs = _SAVE_TIMEOUT_SECONDS
    try:
      with context:
        prints = fingerprints_later(state)
        response = ocp.save_async(
          self._folders.saving(info.step), state, custom_metadata=saved
        )
    except Exception as error:
      raise self._failure(info.step, error) from error
    self._saving = (
      info.step,
      self._pool.submit(self._finish, response, prints, info),
    )

  def _finish(
    self, response: Any, prints: Callable[[], dict[str, int]], info: Info
  ) -> None:
    """What is done in the background until a step is on the disk."""
    response.result()
    if jax.process_index() == 0:
      self._folders.complete(info.step, prints())
      self._remove_old(info)

  def _remove_old(self, info: Info) -> None:
    assert self._keep_last is not None
    steps = [step for step in self.steps() if step <= info.step]
    for step in steps[: -self._keep_last]:
      if step != info.best.step:
        self._folders.remove(step)

  def poll(self) -> None:
    """Raises SaveError if the save in flight has failed; does not wait."""
    if self._saving is not None:
      future = self._saving[1]
      if future.done() and future.exception() is not None:
        self._end_save()

  def wait(self) -> None:
    """Waits until the save in flight is complete; raises SaveError."""
    if self._saving is not None:
      self._end_save()
      # Process 0 makes it complete.
      wait_for_all()

  def _end_save(self) -> None:
    assert self._saving is not None
    (step, future), self._saving = self._saving, None
    try:
      future.result()
    except Exception as error:
      raise self._failure(step, error) from error

  def _failure(self, step: int, error: Exception) -> SaveError:
    others = [other for other in self.steps() if other != step]
    return SaveError(
      f'Step {step} could not be saved in {self._directory}: '
      f'{first_cause(error)} '
      f'Steps that are saved: {others or "none"}.'
    )

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """Reads a state, onto the shardings of the abstract one.

    Raises:
      ValueError: the checkpoint is of another model or optimizer.
      DamagedError: it does not hold what was saved.
    """
    return self._restore(step, abstract, abstract)

  def restore_params(self, step: int, abstract: TrainState) -> Params:
    """Reads the parameters to evaluate and sample with, and nothing else.

    Raises:
      ValueError: the checkpoint is of another model or optimizer.
      DamagedError: it does not hold what was saved.
    """
    wanted = jax.tree.map(lambda _: ocp.PLACEHOLDER, abstract)
    if abstract.ema is None:
      wanted = wanted.replace(params=abstract.params)
    else:
      wanted = wanted.replace(ema=abstract.ema)
    return self._restore(step, abstract, wanted).eval_params

  def _restore(self, step: int, abstract: TrainState, wanted: Any) -> Any:
    """Reads the wanted leaves of a state; the others are placeholders."""
    self.wait()
    path, problem, state = self._folders.path(step), None, None
    try:
      _, arrays, prints = self._read(step)
      self._checkshapes_of(step, arrays, abstract)
      with _damage(path):
        state = ocp.load(path, wanted)
    except DamagedError as error:
      problem = error
    # The fingerprints are computed by all processes together, or by none.
    if agreed(problem is not None):
      raise problem or DamagedError(
        f'{path} cannot be read by another process.'
      )
    wrong = [
      name
      for name, value in fingerprints(_only_arrays(state)).items()
      if value != prints[name]
    ]
    if wrong:
      raise DamagedError(
        f'{path} is damaged: {len(wrong)} of {len(prints)} arrays have other '
        f'bits than were saved ({", ".join(wrong[:3])}'
        f'{", ..." if len(wrong) > 3 else ""}).'
      )
    return state

  def restore_newest(
    self, abstract: TrainState, last: int | None = None
  ) -> Restored:
    """Reads the newest state that is good, and sets the damaged ones aside.

    Nothing is moved before an older one has proved good.

    Args:
      abstract: its shapes, dtypes and shardings.
      last: no step after this one is looked at; None: all are.

    Raises:
      ValueError: a checkpoint is of another model or optimizer.
      DamagedError: none is good.
    """
    problems: dict[int, str] = {}
    for step in reversed(self.steps()):
      if last is not None and step > last:
        continue
      try:
        state = self.restore(step, abstract)
      except DamagedError as error:
        problems[step] = str(error)
        continue
      said = [self._set_aside(s, why) for s, why in problems.items()]
      wait_for_all()
      info = self.info(step)
      # A step that was saved before its evaluation is told of it later.
      return Restored(cooled_down(state, info.seen.cooldown), info, said)
    raise DamagedError(self._no_good_one(list(problems.values())))

  def set_aside_after(self, step: int) -> list[str]:
    """Moves newer steps away, so that the run can save such steps again.

    Returns:
      What was moved, in words.
    """
    newer = [other for other in self.steps() if other > step]
    said = [self._set_aside(s, f'Step {s} was left behind.') for s in newer]
    wait_for_all()
    return said

  def _set_aside(self, step: int, why: str) -> str:
    place = self._folders.quarantine(step)
    wait_for_all()
    if jax.process_index() == 0 and self._keep_last is not None:
      self._folders.set_aside(step, place)
    return f'{why} It is now {place}.'

  def _no_good_one(self, problems: list[str]) -> str:
    return (
      f'None of the checkpoints in {self._directory} is good, and nothing was '
      'changed:\n  '
      + '\n  '.join(problems)
      + '\nTo start over, choose another '
      '--workdir.'
    )

  def check(self, step: int) -> None:
    """Reads all arrays of a step, one at a time, on a device of this process.

    Raises:
      DamagedError: it does not hold what was saved.
    """
    _, _, prints = self._read(step)
    path = self._folders.path(step)
    with _damage(path):
      saved = ocp.metadata(path).metadata
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    for name in names(saved):
      with _damage(path):
        value = ocp.load(path, _one_leaf(saved, name, here))
      found = fingerprints(_only_arrays(value))
      if found != {name: prints.get(name)}:
        raise DamagedError(f'{path} is damaged: {name} has other bits.')
    if missing := prints.keys() - names(saved).keys():
      raise DamagedError(f'{path} is damaged: {sorted(missing)} are missing.')

  def size(self, step: int) -> int:
    """Bytes of the files of a step."""
    return self._folders.size(step)

  def find(self, which: str) -> int:
    """The step that 'best', 'last' or a number names.

    'best' is the step with the best evaluation, or the newest one before any
    evaluation.

    Raises:
      ValueError: there is no such checkpoint.
    """
    steps = self.steps()
    if not steps:
      raise ValueError(
        f'There is no checkpoint in {self._directory}. Train first: '
        'python main.py train --config=... --workdir=...'
      )
    if which == 'last':
      return steps[-1]
    if which == 'best':
      newest = self.newest()
      assert newest is not None
      best = newest.best
      return steps[-1] if best.step not in steps else best.step
    if which.isdecimal() and int(which) in steps:
      return int(which)
    raise ValueError(
      f'--checkpoint is {which!r}; choose best, last or one of the saved steps '
      f'{steps}.'
    )

  def _checkshapes_of(
    self, step: int, saved: dict[str, str], abstract: TrainState
  ) -> None:
    """Compares the saved arrays with the wanted ones, leaf by leaf."""
    wanted = shapes_of(abstract)
    differing = [
      f'  {name}: saved {saved.get(name, "nothing")}, '
      f'wanted {wanted.get(name, "nothing")}'
      for name in sorted(saved.keys() | wanted.keys())
      if saved.get(name) != wanted.get(name)
    ]
    if differing:
      raise ValueError(
        f'Step {step} in {self._directory} was saved by another model or '
        'optimizer; nothing was changed:\n' + '\n'.join(differing)
      )


@contextlib.contextmanager
def _damage(path: epath.Path) -> Iterator[None]:
  """Whatever goes wrong in reading a checkpoint is damage to it."""
  try:
    yield
  except Exception as error:
    raise DamagedError(
      f'{path} cannot be read: {first_cause(error)}'
    ) from error


def _only_arrays(tree: Any) -> Any:
  """The tree without placeholders."""
  return jax.tree.map(lambda x: None if x is ocp.PLACEHOLDER else x, tree)


def _one_leaf(tree: Any, name: str, sharding: Any) -> Any:
  """The tree with one leaf to load, and placeholders for the others."""

  def leaf(path, value):
    if jax.tree_util.keystr(path, simple=True, separator='.') != name:
      return ocp.PLACEHOLDER
    return jax.ShapeDtypeStruct(
      value.shape, np.dtype(value.dtype), sharding=sharding
    )

  return jax.tree_util.tree_map_with_path(leaf, tree)
