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

  def children(self, index: int) -> list[int]:
    """The processes that one of them has started."""
    pid = str(self._processes[index].pid)
    found = subprocess.check_output(['ps', '-o', 'pid=', '--ppid', pid])
    return [int(number) for number in found.split()]

  def check_time(self) -> None:
    """Fails, with all that was printed, if the time is over."""
    assert time.monotonic() < self._end, f'hangs:\n{self._told()}'

  def wait(self, codes: Sequence[int | tuple[int, ...] | None]) -> list[str]:
    """Waits for all of them.

    Args:
      codes: the exit status that each must have, or those that it may have;
        None: it is not waited for.

    Returns:
      What each has printed.
    """
    waited = [
      process
      for process, code in zip(self._processes, codes, strict=True)
      if code is not None
    ]
    while any(process.poll() is None for process in waited):
      self.check_time()
      time.sleep(0.05)
    found = [process.poll() for process in self._processes]
    for code, one in zip(codes, found, strict=True):
      wanted = code if isinstance(code, tuple) else (code,)
      assert one in wanted, f'{found}:\n{self._told()}'
    return [log.read_text() for log in self._logs]

  def wait_for_all(self) -> None:
    """Waits for all of them, whatever their exit status."""
    while any(process.poll() is None for process in self._processes):
      self.check_time()
      time.sleep(0.05)

  def wait_for_text(self, index: int, text: str) -> None:
    """Waits until one of them has printed something."""
    while text not in self._logs[index].read_text():
      ended = self._processes[index].poll() is not None
      assert not ended or text in self._logs[index].read_text(), self._told()
      self.check_time()
      time.sleep(0.05)

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


ALONE = {
  'JAX_PLATFORMS': 'cpu',
  'JAX_NUM_CPU_DEVICES': '1',
  'TF_CPP_MIN_LOG_LEVEL': '3',
}


def open_mpi(count):
  """What mpirun of Open MPI 5 tells each of its processes."""
  shared = ALONE | {
    'JAX_COORDINATOR_PORT': str(port()),
    'OMPI_COMM_WORLD_SIZE': str(count),
    'PMIX_NAMESPACE': 'prterun-localhost-812@1',
  }
  return [shared | {'OMPI_COMM_WORLD_RANK': str(rank)} for rank in range(count)]


def slurm(count):
  """What srun tells each of its tasks."""
  shared = ALONE | {
    'JAX_COORDINATOR_PORT': str(port()),
    'SLURM_JOB_ID': '7',
    'SLURM_NTASKS': str(count),
    'SLURM_STEP_NODELIST': 'localhost',
  }
  return [shared | {'SLURM_PROCID': str(rank)} for rank in range(count)]
