"""What the command line gives: configuration, search and workdir."""

from absl.flags import FLAGS
from etils import epath
from ml_collections import ConfigDict

from configs import flags
from configs.check import check, from_json


class UsageError(Exception):
  """The command line is wrong; the message is all that a user needs."""


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
