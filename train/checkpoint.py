"""Checkpoints, by Orbax: asynchronous, sharded, atomic.

A step's directory holds the arrays of the state and, as JSON, what is needed to
go on: the resolved configuration, the data's fingerprint and the evaluations.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from model.params import Params
from train.early_stopping import Best
from train.state import TrainState

_SAVE_TIMEOUT_SECONDS = 600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
  """What a checkpoint says about its run, beside the state."""

  step: int
  config: dict[str, Any]
  data_fingerprint: str
  best: Best


class _KeepLastAndBest:
  """Orbax preservation policy: the newest n steps, and the best one."""

  def __init__(self, keep_last: int):
    self.keep_last = keep_last
    self.best_step: int | None = None

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    del context
    newest = sorted(c.step for c in checkpoints)[-self.keep_last :]
    return [c.step in newest or c.step == self.best_step for c in checkpoints]


class Checkpoints(contextlib.AbstractContextManager):
  """The checkpoints of a run. Close it: the last save may be in flight.

  Args:
    directory: holds the steps, and nothing else.
    keep_last: number of newest steps to keep, beside the best. None opens the
      checkpoints to read: nothing is cleaned up, and a run may be writing.
  """

  def __init__(self, directory: epath.Path, *, keep_last: int | None):
    context = ocp.Context()
    context.async_options.timeout_secs = _SAVE_TIMEOUT_SECONDS
    # Orbax takes absolute paths only, and finds out in the middle of a save.
    directory = directory.expanduser().resolve()
    self._policy = _KeepLastAndBest(keep_last or 0)
    self._checkpointer = ocp.training.Checkpointer(
      directory,
      context=context,
      preservation_policy=self._policy,
      cleanup_tmp_directories=keep_last is not None,
    )
    self._directory = directory
    self._saving: Any = None
    newest = self.newest()
    if newest is not None:
      self._policy.best_step = newest.best.step

  def __exit__(self, *error: object) -> None:
    self._checkpointer.close()

  def steps(self) -> list[int]:
    """Steps that are saved, the oldest first."""
    return sorted(c.step for c in self._checkpointer.checkpoints)

  def newest(self) -> Info | None:
    """What the newest checkpoint says; None where there is none."""
    steps = self.steps()
    return self.info(steps[-1]) if steps else None

  def info(self, step: int) -> Info:
    """What the checkpoint of a step says about its run."""
    saved = dict(self._checkpointer.metadata(step).custom_metadata)
    return Info(**saved | {'best': Best(**saved['best'])})

  def save(self, state: TrainState, info: Info) -> None:
    """Starts to save; returns once the state has been copied."""
    self.wait()
    self._policy.best_step = info.best.step
    self._saving = self._checkpointer.save_async(
      info.step, state, custom_metadata=dataclasses.asdict(info), force=True
    )

  def wait(self) -> None:
    """Waits until the save in flight is complete; raises if it failed."""
    if self._saving is not None:
      self._saving.result()
      self._saving = None

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """Reads a state, onto the shardings of the abstract one.

    Raises:
      ValueError: the checkpoint is of another model or optimizer.
    """
    self.wait()
    self._check_shapes(step, abstract)
    return self._checkpointer.load(step, abstract)

  def restore_params(self, step: int, abstract: TrainState) -> Params:
    """Reads the parameters to evaluate and sample with, and nothing else.

    Raises:
      ValueError: the checkpoint is of another model or optimizer.
    """
    self._check_shapes(step, abstract)
    wanted = jax.tree.map(lambda _: ocp.PLACEHOLDER, abstract)
    if abstract.ema is None:
      wanted = wanted.replace(params=abstract.params)
    else:
      wanted = wanted.replace(ema=abstract.ema)
    return self._checkpointer.load(step, wanted).eval_params

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
      best = self.info(steps[-1]).best
      return steps[-1] if best.step not in steps else best.step
    if which.isdecimal() and int(which) in steps:
      return int(which)
    raise ValueError(
      f'--checkpoint is {which!r}; choose best, last or one of the saved steps '
      f'{steps}.'
    )

  def _check_shapes(self, step: int, abstract: TrainState) -> None:
    """Compares the saved arrays with the wanted ones, leaf by leaf."""
    saved = _shapes(self._checkpointer.metadata(step).metadata)
    wanted = _shapes(abstract)
    differing = [
      f'  {name}: saved {saved.get(name, "nothing")}, '
      f'wanted {wanted.get(name, "nothing")}'
      for name in sorted(saved.keys() | wanted.keys())
      if saved.get(name) != wanted.get(name)
    ]
    if differing:
      raise ValueError(
        f'Step {step} in {self._directory} was saved by another model or '
        'optimizer:\n' + '\n'.join(differing)
      )


def _shapes(tree: Any) -> dict[str, str]:
  """Name of each leaf of a tree, with its dtype and shape in words."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): (
      f'{leaf.dtype} {list(leaf.shape)}'
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
