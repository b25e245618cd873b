"""Who imports what, and how long files and functions are."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ('configs', 'input_pipeline', 'model', 'train')
STANDARD = sys.stdlib_module_names

ALLOWED = {
  'configs': {'absl', 'etils', 'ml_collections', 'configs'},
  'model': {'jax', 'flax', 'numpy', 'model'},
  'input_pipeline': {
    'apache_beam', 'array_record', 'etils', 'ftfy', 'input_pipeline', 'numpy',
    'py3langid', 'pyarrow', 'tensorflow', 'tensorflow_datasets', 'tiktoken',
    'tokenizers', 'zstandard',
  },
  'train': {
    'absl', 'cmaes', 'etils', 'flax', 'input_pipeline', 'jax', 'model', 'numpy',
    'optax', 'optuna', 'orbax', 'scipy', 'sqlalchemy', 'tensorboardX', 'tqdm',
    'train',
  },
}  # fmt: skip
WITHOUT_TENSORFLOW = (
  'config', 'mesh', 'optimizer', 'rows', 'scalars', 'schedule', 'setup',
  'state', 'step', 'tuning.population',
)  # fmt: skip


def files(*rooms):
  found = [
    path for room in rooms for path in sorted((ROOT / room).rglob('*.py'))
  ]
  assert found
  return found


def is_type_checking(node):
  return isinstance(node, ast.If) and ast.unparse(node.test) in (
    'TYPE_CHECKING',
    'typing.TYPE_CHECKING',
  )


@functools.cache
def imports(path):
  """Modules that a file imports, as (name, whether inside a function)."""
  found = set()

  def walk(node, lazy):
    if is_type_checking(node):
      for child in node.orelse:
        walk(child, lazy)
      return
    if isinstance(node, ast.Import):
      found.update((alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path} imports relatively'
      found.update(
        (f'{node.module}.{alias.name}', lazy) for alias in node.names
      )
    lazy = lazy or isinstance(node, ast.FunctionDef)
    for child in ast.iter_child_nodes(node):
      walk(child, lazy)

  walk(ast.parse(path.read_text()), lazy=False)
  return found


def tops(path):
  return {name.partition('.')[0] for name, _ in imports(path)}


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_imports_what_it_may(room):
  for path in files(room):
    surplus = tops(path) - ALLOWED[room] - STANDARD
    if path.name == 'global_array.py':
      surplus -= {'jax'}
    assert not surplus, f'{path.relative_to(ROOT)} imports {surplus}'


def test_one_file_of_the_input_pipeline_knows_jax():
  assert 'jax' in tops(ROOT / 'input_pipeline/global_array.py')


def test_training_reaches_for_data_lazily_and_in_few_places():
  found = {
    (path.relative_to(ROOT).as_posix(), lazy)
    for path in files('train')
    for name, lazy in imports(path)
    if name.startswith('input_pipeline.')
  }
  assert ('train/data.py', True) in found
  places = ('data', 'commands', 'exits', 'lock', 'run')
  assert found <= {(f'train/{place}.py', True) for place in places}


def test_only_tuning_needs_its_libraries():
  for path in files('train'):
    if path.parent.name != 'tuning':
      assert not tops(path) & {'cmaes', 'optuna'}, path


def test_nobody_imports_main():
  for path in files(*ROOMS, 'benchmarks', 'tests'):
    assert 'main' not in tops(path), path


def test_main_imports_rooms_lazily():
  eager = {
    name.partition('.')[0]
    for name, lazy in imports(ROOT / 'main.py')
    if not lazy
  }
  assert (
    eager & {'jax', 'tensorflow', 'model', 'train', 'input_pipeline'} == set()
  )


def test_the_step_loads_without_tensorflow_and_without_data():
  program = f"""
import importlib, sys
for name in ('tensorflow', 'tensorflow_datasets', 'ml_collections',
             'input_pipeline'):
  sys.modules[name] = None
for name in {WITHOUT_TENSORFLOW!r}:
  importlib.import_module('train.' + name)
"""
  result = subprocess.run(
    [sys.executable, '-c', program],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr


def test_files_and_functions_are_short():
  for path in [ROOT / 'main.py', *files(*ROOMS)]:
    name, source = path.relative_to(ROOT).as_posix(), path.read_text()
    assert len(source.splitlines()) <= 400, name
    assert path.name != 'utils.py'
    for node in ast.walk(ast.parse(source)):
      if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        lines = node.end_lineno - node.lineno + 1
        loop = (name, node.name) == ('train/loop.py', 'train')
        assert lines <= 60 or loop, f'{name}: {node.name} has {lines} lines'
