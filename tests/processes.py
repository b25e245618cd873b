"""Programs of Python in processes of their own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATHS = {'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests')])}


def child(script, *arguments):
  """Starts a Python file, or a text of Python, in a process of its own."""
  program = [script] if isinstance(script, Path) else ['-c', script]
  return subprocess.Popen(
    [sys.executable, '-u', *program, *map(str, arguments)],
    env=os.environ | PATHS,
    stdout=subprocess.PIPE,
    text=True,
  )


class Cluster:
  """Commands that run at the same time and are killed if one of them hangs.

  Args:
    commands: the command line of each process.
    environments: what is set for each beside the environment of this process.
    folder: where they run, and where what they print is kept.
    seconds: after which all of them are killed.
  """

  def __init__(
    self,
    commands: Sequence[Sequence[str]],
    environments: Sequence[dict[str, str]],
    folder: Path,
    seconds: float = 400,
  ):
    self._end = time.monotonic() + seconds
    self._logs = [folder / f'process{i}.log' for i in range(len(commands))]
    self._processes = []
    for command, environment, log in zip(
      commands, environments, self._logs, strict=True
    ):
      with log.open('w') as file:
        self._processes.append(
          subprocess.Popen(
            list(command),
            cwd=folder,
            env=os.environ | PATHS | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
          )
        )

  def __enter__(self):
    return self

  def __exit__(self, *error):
    for process in self._processes:
      process.kill()
      process.wait()

  def signal(self, index: int, signum: int) -> None:
    """Sends a signal to one of them."""
    self._processes[index].send_signal(signum)

  def check_time(self) -> None:
    """Fails, with all that was printed, if the time is over."""
    assert time.monotonic() < self._end, f'hangs:\n{self._told()}'

  def wait(self, codes: Sequence[int]) -> list[str]:
    """Waits for all of them.

    Args:
      codes: the exit status that each must have.

    Returns:
      What each has printed.
    """
    while any(process.poll() is None for process in self._processes):
      self.check_time()
      time.sleep(0.05)
    found = [process.returncode for process in self._processes]
    assert found == list(codes), f'{found}:\n{self._told()}'
    return [log.read_text() for log in self._logs]

  def _told(self) -> str:
    return '\n'.join(
      f'--- process {index}, exit status {process.poll()}\n{log.read_text()}'
      for index, (process, log) in enumerate(
        zip(self._processes, self._logs, strict=True)
      )
    )


def port() -> int:
  """A port that nobody listens on."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]
