"""What is wrong with a command line, in a line for a person."""

import itertools
import os
import pathlib
import runpy
from typing import Any

from configs.check import fields, unknown_field


def explain(argv: list[str], error: Exception) -> str:
  """What is wrong with --config or one of its overrides, in one line."""
  files = config_files(argv)
  overrides = [a for a in argv if a.startswith('--config.')]
  if overrides and not files:
    return f'{overrides[0]}: --config.FIELD=VALUE needs --config=FILE first.'
  if not all(os.path.exists(file) for file in files):
    return f'--config: there is no file {files[-1]}.'
  if not files:
    return str(error)
  defined = defined_in(files[-1])
  known = fields(defined['get_config']())
  for argument in overrides:
    name, equals, _ = argument.removeprefix('--config.').partition('=')
    if equals and name not in known:
      if any(k.startswith(f'{name}.') for k in known):
        return f'config.{name} is a section; set one of its fields.'
      return unknown_field(name, known)
  if 'get_search' in defined:
    searched = fields(defined['get_search']())
    for argument in (a for a in argv if a.startswith('--search.')):
      name, equals, _ = argument.removeprefix('--search.').partition('=')
      if equals and name not in searched:
        return unknown_field(name, searched, 'search')
  return ' '.join(str(error).split())


def defined_in(file: str) -> dict[str, Any]:
  """What a configuration file defines, by name."""
  return runpy.run_path(file)


def config_files(argv: list[str]) -> list[str]:
  """Paths given as --config=FILE, --config FILE or --config=FILE:ARGUMENT."""
  given = [a.partition('=')[2] for a in argv if a.startswith('--config=')]
  given += [b for a, b in itertools.pairwise(argv) if a == '--config']
  return [file.partition(':')[0] for file in given]


def is_ours(error: ValueError) -> bool:
  """Whether Meshwork's own code raised it: its messages are for users."""
  traceback = error.__traceback__
  while traceback is not None and traceback.tb_next is not None:
    traceback = traceback.tb_next
  if traceback is None:
    return False
  raised_in = pathlib.Path(traceback.tb_frame.f_code.co_filename).resolve()
  here = pathlib.Path(__file__).resolve().parent.parent
  rooms = {
    here / room for room in ('model', 'train', 'input_pipeline', 'configs')
  }
  return bool(rooms & set(raised_in.parents))
