"""Compiled programs, kept between runs in a folder of the user's own."""

import contextlib
import os
import stat
import sys

import jax


def keep_compiled_programs(path: str | None) -> None:
  """Lets JAX keep all that it compiles.

  Args:
    path: of a folder; None, or one that is somebody else's: nothing is kept.
  """
  folder = private_folder(path) if path else None
  # JAX reads the variable by itself.
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def private_folder(path: str) -> str | None:
  """Makes a folder that is this user's alone, or makes it so.

  Compiled programs are run as they are found: whoever writes to their folder
  runs programs as its reader.

  Args:
    path: of the folder, with ~ for the home; object stores have rights of
      their own and are not looked at.

  Returns:
    Its path; None, which is told, where that cannot be.
  """
  if '://' in path:
    return path
  path = os.path.abspath(os.path.expanduser(path))
  os.makedirs(os.path.dirname(path), exist_ok=True)
  # Another process of the run may make it at the same moment.
  with contextlib.suppress(FileExistsError):
    os.mkdir(path, 0o700)
  found = os.stat(path)
  if found.st_uid != os.geteuid():
    print(
      f'{path} is not used: it belongs to the user {found.st_uid}, and this is '
      f'the user {os.geteuid()}. Set runtime.compilation_cache to a folder of '
      'your own.',
      file=sys.stderr,
      flush=True,
    )
    return None
  if stat.S_IMODE(found.st_mode) & 0o077:
    os.chmod(path, 0o700)
  return path
