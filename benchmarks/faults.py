"""Makes every fault of docs/faults.md happen, and prints what came of it.

python benchmarks/faults.py --kills=100

Each row is a test: whether it passed, how long it took, and what it measured.
On two cores 100 kills take about half an hour, the other tests a quarter.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

ROOT = pathlib.Path(__file__).resolve().parent.parent


def tests_of_the_table() -> list[str]:
  """The tests that docs/faults.md names, in its order."""
  text = (ROOT / 'docs/faults.md').read_text()
  return list(dict.fromkeys(re.findall(r'`(tests/\w+\.py::\w+)`', text)))


def main() -> int:
  """Runs the tests; returns the exit status of pytest."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--kills', type=int, default=10)
  parser.add_argument('--fuzz_cases', type=int, default=0)
  arguments = parser.parse_args()
  environment = os.environ | {'KILLS': str(arguments.kills)}
  if arguments.fuzz_cases:
    environment['FUZZ_CASES'] = str(arguments.fuzz_cases)
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder) / 'report.xml'
    status = subprocess.run(
      [
        sys.executable, '-m', 'pytest', '-q', '-m', 'slow or not slow',
        '-n', '2', '--dist', 'loadfile',
        f'--junitxml={report}', *tests_of_the_table(),
      ],
      cwd=ROOT,
      env=environment,
      check=False,
    ).returncode  # fmt: skip
    for case in ET.parse(report).iter('testcase'):
      kinds = {child.tag for child in case}
      word = 'FAILED' if kinds & {'failure', 'error'} else 'passed'
      seconds = float(case.get('time', 'nan'))
      print(f'{word}  {seconds:7.1f} s  {case.get("name")}')
      for measured in case.iter('property'):
        print(f'{"":18}{measured.get("name")}: {measured.get("value")}')
  return status


if __name__ == '__main__':
  sys.exit(main())
