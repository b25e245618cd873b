"""Compiled programs as text, kept between plans."""

import json
import os
import pathlib
import zlib
from typing import Any

# Counts up when what is stored changes.
_FORMAT = 1


class Cache:
  """Files of a folder, one for each program.

  A file that cannot be read counts as missing: it is written anew.
  """

  def __init__(self, directory: str | None):
    self.directory = (
      None if directory is None else pathlib.Path(directory).expanduser()
    )

  def read(self, key: str) -> dict[str, Any] | None:
    """What was written under a key; None: nothing."""
    path = self._path(key)
    if path is None or not path.exists():
      return None
    try:
      return json.loads(zlib.decompress(path.read_bytes()))
    except (zlib.error, ValueError):
      return None

  def write(self, key: str, content: dict[str, Any]) -> None:
    """Keeps JSON under a key: whole, or not at all."""
    path = self._path(key)
    if path is None:
      return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    partial.write_bytes(zlib.compress(json.dumps(content).encode()))
    partial.replace(path)

  def _path(self, key: str) -> pathlib.Path | None:
    if self.directory is None:
      return None
    return self.directory / f'{key}-{_FORMAT}.json.z'
