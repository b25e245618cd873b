"""Names the machine that a number was measured on."""

import os
import pathlib
import platform


def describe_machine() -> str:
  """Processor, cores and Python, in a line."""
  info = pathlib.Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  models = [line for line in lines if 'model name' in line]
  cpu = models[0].partition(':')[2].strip() if models else platform.machine()
  return f'{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}'
