"""Memory that `prepare` takes for much text, with all its processes.

python benchmarks/prepare_memory.py [--megabytes=1000] [--workers=2]

Runs `main.py prepare` with the profile for prose and a vocabulary of 32,768 on
documents of benchmarks/prose.py, and adds up what its processes hold of memory
(their proportional set size, in which shared pages count once) five times a
second. Linux only. Downloads nothing.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from benchmarks.prepare import write_corpus

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main() -> None:
  """Prints the time, and the most memory at any moment."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--megabytes', type=int, default=1_000)
  parser.add_argument('--workers', type=int, default=2)
  arguments = parser.parse_args()
  print(describe_machine())
  with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    size = write_corpus(root, arguments.megabytes * 10**6)
    print(f'{size / 1e6:,.0f} MB of prose, {arguments.workers} workers')
    start = time.monotonic()
    process = subprocess.Popen(
      [
        sys.executable,
        'main.py',
        'prepare',
        '--config=configs/base.py',
        '--config.data.source=jsonl',
        f"--config.data.files=('{root}/corpus.jsonl',)",
        f'--config.data.directory={root}/stores',
        '--config.data.curation.profile=prose',
        f'--config.data.workers={arguments.workers}',
      ],
      cwd=ROOT,
    )
    most = 0
    while process.poll() is None:
      most = max(most, sum(map(_memory, _family(process.pid))))
      time.sleep(0.2)
    seconds = time.monotonic() - start
  if process.returncode:
    sys.exit(process.returncode)
  print(f'{seconds:.0f} s, {most / 1e9:.2f} GB of memory at the most')


def _family(parent: int) -> list[int]:
  """The process, its children, and so on."""
  found = [parent]
  for process in found:
    try:
      for task in pathlib.Path(f'/proc/{process}/task').iterdir():
        found += map(int, (task / 'children').read_text().split())
    except OSError:  # it has just ended
      continue
  return found


def _memory(process: int) -> int:
  try:
    text = pathlib.Path(f'/proc/{process}/smaps_rollup').read_text()
  except OSError:
    return 0
  line = next((x for x in text.splitlines() if x.startswith('Pss:')), '')
  return 1024 * int(line.split()[1]) if line else 0


if __name__ == '__main__':
  main()
