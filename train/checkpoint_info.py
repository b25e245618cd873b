"""What a checkpoint says beside its arrays, and what can be wrong with one."""

import dataclasses
from typing import Any

from train.early_stopping import NOTHING, Best, Seen
from train.fingerprint import names
from train.state import TrainState


class DamagedError(Exception):
  """A checkpoint does not hold what was saved, or cannot be read."""


class SaveError(Exception):
  """A checkpoint could not be written; older ones are as they were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
  """What a checkpoint says about its run, beside the state.

  Attributes:
    step: steps made.
    config: the resolved configuration, as JSON holds it.
    data_fingerprint: of the prepared data.
    seen: what decides about its end.
    evaluated: step of the last evaluation.
    left_out: batches that are not read (input_pipeline/left_out.py).
    rollbacks: how often the run went back.
  """

  step: int
  config: dict[str, Any]
  data_fingerprint: str
  seen: Seen = NOTHING
  evaluated: int | None = None
  left_out: tuple[tuple[int, int], ...] = ()
  rollbacks: int = 0

  @property
  def best(self) -> Best:
    """The best evaluation so far."""
    return self.seen.best


@dataclasses.dataclass(frozen=True)
class Restored:
  """A state that proved good, and the newer ones that did not.

  Attributes:
    state: the state.
    info: what its checkpoint says.
    remarks: what was wrong with each newer checkpoint, and where it is now.
  """

  state: TrainState
  info: Info
  remarks: list[str]


def info_of(saved: dict[str, Any]) -> Info:
  """The info that `dataclasses.asdict` and JSON made a dict of.

  Raises:
    TypeError: something in it is of another type.
  """
  windows = tuple((first, count) for first, count in saved['left_out'])
  seen = Seen(**saved['seen'] | {'best': Best(**saved['seen']['best'])})
  info = Info(**saved | {'seen': seen, 'left_out': windows})
  for name, values, kinds in (
    ('config', [info.config], (dict,)),
    ('data_fingerprint', [info.data_fingerprint], (str,)),
    ('a loss', _losses(seen), (float, int, type(None))),
    ('a step', _steps(info), (int, type(None))),
    ('a count', _counts(info), (int,)),
  ):
    for value in values:
      if type(value) not in kinds:
        raise TypeError(f'{name} is {value!r:.40}')
  return info


def _losses(seen: Seen) -> list[Any]:
  return [
    seen.best.value, seen.loss_sum, seen.lowest_training,
    seen.lowest_validation, seen.training_at_best,
  ]  # fmt: skip


def _steps(info: Info) -> list[Any]:
  seen = info.seen
  return [info.evaluated, seen.best.step, seen.cooldown, seen.out_of_time]


def _counts(info: Info) -> list[Any]:
  seen = info.seen
  return [
    info.rollbacks, *sum(info.left_out, ()), seen.best.waited,
    seen.loss_count, seen.diverging, seen.overfitting, seen.seconds,
  ]  # fmt: skip


def shapes_of(tree: Any) -> dict[str, str]:
  """Name of each leaf of a tree, with its dtype and shape in words."""
  return {
    name: f'{leaf.dtype} {list(leaf.shape)}'
    for name, leaf in names(tree).items()
  }


def first_cause(error: BaseException) -> str:
  """The first cause of an error, in one line: Orbax wraps it several times."""
  while (cause := error.__cause__ or error.__context__) is not None:
    error = cause
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:300]}'
