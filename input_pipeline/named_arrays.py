"""Arrays and JSON in one file: data, where a pickle would be a program."""

import io
import json
from typing import Any

import numpy as np


def pack(facts: Any, arrays: list[np.ndarray]) -> bytes:
  """The bytes of a file.

  Args:
    facts: what JSON holds.
    arrays: of numbers, of any shape.
  """
  file = io.BytesIO()
  text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
  assert not any(array.dtype.hasobject for array in arrays)
  np.savez(file, text, *arrays)
  return file.getvalue()


def unpack(data: bytes) -> tuple[Any, list[np.ndarray]]:
  """What `pack` was given.

  Raises:
    ValueError: the file holds objects, which are programs.
  """
  with np.load(io.BytesIO(data), allow_pickle=False) as file:
    text, *arrays = (file[f'arr_{number}'] for number in range(len(file.files)))
  return json.loads(text.tobytes()), arrays
