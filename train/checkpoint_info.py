"""What a checkpoint says beside its arrays, and what can be wrong with one."""

import dataclasses
from typing import Any

from train.early_stopping import Best
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
    best: evaluation so far.
    evaluated: step of the last evaluation.
    left_out: batches that are not read (input_pipeline/left_out.py).
    rollbacks: how often the run went back.
  """

  step: int
  config: dict[str, Any]
  data_fingerprint: str
  best: Best
  evaluated: int | None = None
  left_out: tuple[tuple[int, int], ...] = ()
  rollbacks: int = 0


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
  info = Info(**saved | {'best': Best(**saved['best']), 'left_out': windows})
  best = info.best
  for name, values, kinds in (
    ('config', [info.config], (dict,)),
    ('data_fingerprint', [info.data_fingerprint], (str,)),
    ('best.value', [best.value], (float, int, type(None))),
    ('a step', [best.step, info.evaluated], (int, type(None))),
    ('a count', [best.waited, info.rollbacks, *sum(windows, ())], (int,)),
  ):
    for value in values:
      if type(value) not in kinds:
        raise TypeError(f'{name} is {value!r:.40}')
  return info


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
