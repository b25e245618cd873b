"""What the command line gives."""

import os
from collections.abc import Collection, Sequence
from typing import Any

from absl.flags import FLAGS, Error
from etils import epath
from ml_collections import ConfigDict

from configs import flags
from configs.check import check, from_json
from configs.mistakes import config_files, explain


class UsageError(Exception):
  """The command line is wrong; the message is all that a user needs."""


def parse(argv: list[str]) -> list[str]:
  """Parses the command line, and returns its words that are no flags.

  Raises:
    UsageError: there is a mistake in it.
  """
  try:
    flags.define_search(argv)
    words = FLAGS([a.replace('--dry-run', '--dry_run') for a in argv])
    # The flag reads the file when it is first used; look for it now.
    if not all(os.path.exists(file) for file in config_files(argv)):
      raise FileNotFoundError
    return words
  except (
    Error, AttributeError, KeyError, TypeError, ValueError, OSError,
  ) as error:  # fmt: skip
    raise UsageError(explain(argv, error)) from error


def command(argv: Sequence[str], known: Collection[str]) -> str:
  """The command that is to run, one of those that are known.

  Raises:
    UsageError: it is none of them.
  """
  words = argv[1:] or ['train']
  if len(words) > 1 or words[0] not in known:
    raise UsageError(
      f'{" ".join(words)!r} is no command; the commands are {", ".join(known)}.'
    )
  return words[0]


def workdir() -> epath.Path:
  """The folder of the run.

  Raises:
    UsageError: none is given.
  """
  if not flags.WORKDIR.value:
    raise UsageError('Give the folder of the run: --workdir=runs/NAME')
  return epath.Path(flags.WORKDIR.value).expanduser()


def config() -> ConfigDict:
  """The given configuration, or the one that the workdir holds.

  Raises:
    ValueError: it is not a configuration.
    UsageError: there is none.
  """
  if flags.CONFIG.value is not None:
    return check(flags.CONFIG.value)
  if flags.WORKDIR.value:
    saved = workdir() / 'config.json'
    if saved.exists():
      return from_json(saved.read_bytes(), str(saved))
  raise UsageError(
    'Give a configuration: --config=configs/tiny.py'
    + (f' ({flags.WORKDIR.value} holds none).' if flags.WORKDIR.value else '')
  )


def search() -> ConfigDict:
  """The search of the given configuration file.

  Raises:
    UsageError: no file is given.
  """
  found = FLAGS['search'].value if 'search' in FLAGS else None
  if found is None:
    raise UsageError(
      'tune needs a configuration file with a search beside its get_config(): '
      '--config=configs/tune_tiny.py'
    )
  return found


def target() -> dict[str, Any]:
  """The size of a large run; None: as in the tuned one."""
  return {
    'width': flags.WIDTH.value,
    'depth': flags.DEPTH.value,
    'batch_size': flags.BATCH_SIZE.value,
    'tokens': flags.TOKENS.value,
  }


def prompts() -> list[str]:
  """The texts to continue.

  Raises:
    UsageError: the file that should hold them is missing.
  """
  given = list(flags.PROMPTS.value)
  if flags.PROMPTS_FILE.value is not None:
    file = epath.Path(flags.PROMPTS_FILE.value)
    if not file.exists():
      raise UsageError(f'--prompts_file: there is no file {file}.')
    # What is not UTF-8 is refused by name.
    text = file.read_bytes().decode(errors='surrogateescape')
    given += text.splitlines()
  return given or ['']
