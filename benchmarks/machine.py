"""Names the machine that a number was measured on."""

import os
import pathlib
import platform


def describe_machine() -> str:
  """Processor, cores and Python, in a line."""
  info = pathlib.Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  names = [l.partition(':')[2].strip() for l in lines if 'model name' in l]
  cpu = names[0] if names else platform.processor() or platform.machine()
  return f'{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}'
