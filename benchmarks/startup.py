"""Seconds from the start of the process to the first step, cold and warm.

python benchmarks/startup.py [--config=configs/tiny.py] [--rounds=3]

Cold: nothing is compiled yet. Warm: the compilation cache of the run before is
there. The dataset is prepared beforehand, in a folder of its own.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine

ROOT = pathlib.Path(__file__).resolve().parent.parent


def seconds_to_first_step(
  config: str, folder: pathlib.Path, name: str
) -> float:
  """Runs two steps and returns the seconds until the first was recorded."""
  workdir = folder / name
  begin = time.time()
  subprocess.run(
    _command('train', config, folder, workdir), check=True, capture_output=True
  )
  records = map(
    json.loads, (workdir / 'metrics.jsonl').read_text().splitlines()
  )
  return next(r['time'] for r in records if r['kind'] == 'train') - begin


def _command(name, config, folder, workdir):
  return [
    sys.executable,
    str(ROOT / 'main.py'),
    name,
    f'--config={config}',
    f'--workdir={workdir}',
    f'--config.data.directory={folder}/data',
    f'--config.runtime.compilation_cache={workdir.parent}/compiled',
    '--config.steps=2',
    '--config.optimizer.warmup_steps=1',
    '--config.log.every=1',
  ]


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default=str(ROOT / 'configs/tiny.py'))
  parser.add_argument('--rounds', type=int, default=3)
  arguments = parser.parse_args()
  print(describe_machine())
  cold: list[float] = []
  warm: list[float] = []
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    subprocess.run(
      _command('prepare', arguments.config, folder, folder / 'none'), check=True
    )
    for number in range(arguments.rounds):
      # Each round has a cache folder of its own, beside its two runs.
      for kind, seconds in (('cold', cold), ('warm', warm)):
        seconds.append(
          seconds_to_first_step(arguments.config, folder, f'{number}/{kind}')
        )
        print(f'round {number + 1}, {kind}: {seconds[-1]:.1f} s')
  print(
    f'median of {arguments.rounds}: cold {statistics.median(cold):.1f} s, '
    f'warm {statistics.median(warm):.1f} s'
  )


if __name__ == '__main__':
  main()
