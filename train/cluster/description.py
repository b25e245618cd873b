"""What is said of a group of processes, and how numbers are read from it."""

import dataclasses
from collections.abc import Mapping

Environment = Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
  """What one launcher says; None: it does not say.

  Attributes:
    launcher: its name.
    num_processes: that it started.
    process_id: of this process.
    coordinator_address: HOST:PORT, on the host of process 0.
    local_devices: GPUs that this process takes among those it sees; None: all.
    problem: what is missing, if something is, and how to give it.
  """

  launcher: str
  num_processes: int | None = None
  process_id: int | None = None
  coordinator_address: str | None = None
  local_devices: tuple[int, ...] | None = None
  problem: str = ''

  @property
  def complete(self) -> bool:
    """Whether it says all that is needed to join, or that there is no need."""
    return self.num_processes == 1 or None not in (
      self.num_processes,
      self.process_id,
      self.coordinator_address,
    )


def integer(environ: Environment, name: str) -> int | None:
  """The number that a variable holds; None: it is not set, or empty.

  Raises:
    ValueError: it holds something else.
  """
  value = environ.get(name)
  if not value:
    return None
  if not value.isdecimal():
    raise ValueError(f'The variable {name} is {value!r}, which is no number.')
  return int(value)


def address(environ: Environment, host: str | None, port: int) -> str | None:
  """HOST:PORT; the variable that jax has for the port wins."""
  port = integer(environ, 'JAX_COORDINATOR_PORT') or port
  return None if host is None else f'{host}:{port}'
