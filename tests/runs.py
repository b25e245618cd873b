"""A small run of main.py, as a user would start it."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from train.exits import START_AGAIN

ROOT = pathlib.Path(__file__).resolve().parent.parent

# configs/tiny.py, smaller still; every kind of dropout is on.
TINY = {
  'steps': 120,
  'batch_size': 4,
  'sequence_length': 32,
  'loss.chunk': 16,
  'model.vocab_size': 384,
  'model.embed_dim': 32,
  'model.num_layers': 2,
  'model.num_heads': 2,
  'model.num_kv_heads': 2,
  'model.mlp_dim': 64,
  'model.embedding_dropout': 0.1,
  'model.attention_dropout': 0.1,
  'model.residual_dropout': 0.1,
  'model.mlp_dropout': 0.1,
  'optimizer.learning_rate': 2e-3,
  'optimizer.warmup_steps': 10,
  'data.split': 'train[:3%]',
  'data.validation_split': 'validation[:5%]',
  'data.tokenizer.vocab_size': 384,
  'data.workers': 1,
  'evaluation.every': 40,
  'evaluation.batch_size': 32,
  'checkpoint.every': 7,
  'log.every': 1,
}


def command(
  name: str,
  folder: pathlib.Path,
  workdir: str,
  *flags: str,
  config: str = 'tiny',
  **fields,
) -> list[str]:
  """The command line of main.py, to be run in the folder that holds all."""
  values = TINY | {
    'data.directory': 'data',
    'runtime.compilation_cache': folder / 'compiled',
  }
  values |= {key.replace('__', '.'): value for key, value in fields.items()}
  return [
    sys.executable,
    str(ROOT / 'main.py'),
    name,
    f'--config={ROOT / "configs" / config}.py',
    f'--workdir={workdir}',
    *(f'--config.{key}={value}' for key, value in values.items()),
    *flags,
  ]


def environment(devices: int = 1) -> dict[str, str]:
  """The environment of a run on emulated CPU devices."""
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
  }


def run(
  folder: pathlib.Path, arguments: list[str], *, code: int = 0
) -> subprocess.CompletedProcess:
  """Runs a command to its end and checks its exit status."""
  done = subprocess.run(
    arguments,
    cwd=folder,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == code, done.stdout + done.stderr
  return done


@contextlib.contextmanager
def started(
  arguments: list[str], workdir: pathlib.Path, step: int, devices: int = 1
) -> Iterator[subprocess.Popen]:
  """Starts a command, and yields once it has recorded a step or has ended."""
  with subprocess.Popen(
    arguments,
    cwd=workdir.parent,
    env=environment(devices),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    while process.poll() is None and last_step(workdir) < step:
      time.sleep(0.002)
    yield process


def run_until(
  arguments: list[str],
  workdir: pathlib.Path,
  step: int,
  signum: int,
  devices: int = 1,
) -> int:
  """Runs a command, and sends a signal once it has recorded a step.

  Returns:
    The exit status; negative where the signal ended the process.
  """
  with started(arguments, workdir, step, devices) as process:
    process.send_signal(signum)
    errors = process.communicate(timeout=120)[1]
  assert last_step(workdir) >= step, errors
  assert process.returncode in (-signal.SIGKILL, START_AGAIN), errors
  return process.returncode


def records(workdir: pathlib.Path, kind: str) -> dict[int, dict]:
  """Records of a kind in metrics.jsonl, by step."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  parsed = [json.loads(line) for line in lines if line.endswith('\n')]
  return {r['step']: r for r in parsed if r['kind'] == kind}


def last_step(workdir: pathlib.Path) -> int:
  """The last training step that has been recorded."""
  return max(records(workdir, 'train'), default=0)


def numbers(workdir: pathlib.Path) -> dict[int, tuple[float, float]]:
  """Loss and gradient norm of every recorded step."""
  return {
    step: (record['loss'], record['grad_norm'])
    for step, record in records(workdir, 'train').items()
  }
