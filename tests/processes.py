"""Programs of Python in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path


def child(script, *arguments):
  """Starts a Python file, or a text of Python, in a process of its own."""
  program = [script] if isinstance(script, Path) else ['-c', script]
  root = Path(__file__).parent.parent
  paths = os.pathsep.join([str(root), str(root / 'tests')])
  return subprocess.Popen(
    [sys.executable, '-u', *program, *map(str, arguments)],
    env=os.environ | {'PYTHONPATH': paths},
    stdout=subprocess.PIPE,
    text=True,
  )
