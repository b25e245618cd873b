"""The table of faults names tests that exist."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def test_every_row_is_a_test():
  text = (ROOT / 'docs/faults.md').read_text()
  rows = re.findall(r'^\| (\d*) ?\| .* \| `(\S+)::(\w+)` \|$', text, re.M)
  assert len(rows) == text.count('`tests/')
  for _, path, name in rows:
    tree = ast.parse((ROOT / path).read_text())
    assert name in {
      node.name for node in tree.body if isinstance(node, ast.FunctionDef)
    }, f'{path}::{name}'
  # All of the twenty-five kinds.
  assert {int(number) for number, _, _ in rows if number} == set(range(1, 26))
