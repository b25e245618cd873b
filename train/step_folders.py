"""The folder of a run's checkpoints: one folder a step, named by its number."""

import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

# Beside the folder of the checkpoints: damaged ones, for you to look at.
QUARANTINE = 'quarantine'

# What a step is called while it is written or removed; never read.
_SAVING, _REMOVED = 'saving', 'removed'
# What is written last, after Orbax has written all else.
_FINGERPRINTS = 'fingerprints.json'
# Where Orbax keeps what it was given to keep beside the arrays.
_SAID = '_CHECKPOINT_METADATA'


@dataclasses.dataclass(frozen=True)
class StepFolders:
  """Steps on a disk or in a bucket. What is not named like one is left alone.

  Attributes:
    directory: holds the steps.
  """

  directory: epath.Path

  @property
  def _in_bucket(self) -> bool:
    return '://' in str(self.directory)

  def path(self, step: int) -> epath.Path:
    """The folder of a step."""
    return self.directory / str(step)

  def saving(self, step: int) -> epath.Path:
    """The folder of a step while it is written."""
    if self._in_bucket:
      return self.path(step)
    return self.directory / f'{step}.{_SAVING}'

  def complete(self, step: int, fingerprints: dict[str, int]) -> None:
    """Ends the writing of a step: from now on it counts as one."""
    path = self.saving(step)
    (path / _FINGERPRINTS).write_text(json.dumps(fingerprints))
    if not self._in_bucket:
      _sync(*_below(path), path)
      path.rename(self.path(step))
      _sync(self.directory)

  def fingerprints(self, step: int) -> dict[str, int]:
    """The fingerprint of each array of a step, by its name."""
    return json.loads((self.path(step) / _FINGERPRINTS).read_text())

  def steps(self) -> list[int]:
    """Steps that are there, good or damaged, the oldest first."""
    if not self.directory.exists():
      return []
    return sorted(
      int(path.name)
      for path in self.directory.iterdir()
      if path.name.isdecimal() and self._is_step(path)
    )

  def _is_step(self, path: epath.Path) -> bool:
    # On a disk a step gets its name when it is complete. In a bucket it has its
    # name from the beginning, and its last file in the end.
    if self._in_bucket:
      return (path / _FINGERPRINTS).exists()
    return path.is_dir() and any(path.iterdir())

  def clean(self) -> None:
    """Makes the folder, and removes what a kill left half written."""
    self.directory.mkdir(parents=True, exist_ok=True)
    for path in self.directory.iterdir():
      step, _, rest = path.name.partition('.')
      if step.isdecimal() and rest.startswith((_SAVING, _REMOVED)):
        path.rmtree()

  def remove(self, step: int) -> None:
    """Removes a step; however far that gets, no half of it is read."""
    path = self.path(step)
    if self._in_bucket:
      (path / _FINGERPRINTS).unlink()
    else:
      path = path.rename(path.with_name(f'{step}.{_REMOVED}'))
    path.rmtree()

  def quarantine(self, step: int) -> epath.Path:
    """Where a damaged step would be moved to: a place that is free."""
    place = self.directory.parent / QUARANTINE / str(step)
    number = 1
    while place.exists():
      number += 1
      place = place.with_name(f'{step}-{number}')
    return place

  def set_aside(self, step: int, place: epath.Path) -> None:
    """Moves a step."""
    place.parent.mkdir(exist_ok=True)
    self.path(step).rename(place)

  def amend(self, step: int, fields: dict[str, Any]) -> None:
    """Changes fields of what a step says beside its arrays."""
    path = self.path(step) / _SAID
    said = json.loads(path.read_text())
    said['custom_metadata'] |= fields
    partial = path.with_name(_SAID + '.partial')
    partial.write_text(json.dumps(said))
    partial.replace(path)
    if not self._in_bucket:
      _sync(path, path.parent)

  def size(self, step: int) -> int:
    """Bytes of the files of a step."""
    files = (path for path in _below(self.path(step)) if not path.is_dir())
    return sum(path.stat().length for path in files)


def _sync(*paths: epath.Path) -> None:
  """Makes files survive a loss of power: Orbax syncs the arrays only."""
  for path in paths:
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)


def _below(folder: epath.Path) -> Iterator[epath.Path]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _below(path)
    yield path
