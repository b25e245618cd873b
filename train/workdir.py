"""The folder of a run: what is written there, and what a restart compares."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
from etils import epath

from train.checkpoint_info import Info
from train.redact import redact_arguments, redact_text

CONFIG_FILE = 'config.json'
RUN_FILE = 'run.json'
TOKENIZER_FILE = 'tokenizer.json'
SAMPLE_FILE = 'sample.txt'
CHECKPOINTS = 'checkpoints'

# Fields that a restart may change: the machine, the cadence of logs and saves,
# and how, not what, the step computes.
_FREE_BEGINNINGS = (
  'mesh.',
  'log.',
  'checkpoint.',
  'runtime.',
  'model.splash_',
  'offload.',
  'watchdog.',
  'device_check.',
)
_FREE_FIELDS = (
  'accumulation_steps',
  'microbatches',
  'data.directory',
  'data.max_bad_fraction',
  'data.workers',
  'data.prefetch',
  'evaluation.batch_size',
  'loss.chunk',
  'optimizer.shard_axes',
  'model.attention',
  'model.context_parallelism',
  'model.scan_layers',
  'model.remat',
)

# Fields that may differ between the hosts of a run.
_OF_A_HOST = ('runtime.', 'data.directory', 'data.workers')

_PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
  'tensorflow-datasets',
)  # fmt: skip


class ChangedRunError(ValueError):
  """A workdir holds a run of another configuration or of other data."""


def write_json(path: epath.Path, content: Any) -> None:
  """Writes JSON whole or not at all."""
  partial = path.with_name(path.name + '.partial')
  partial.write_text(json.dumps(content, indent=2) + '\n')
  partial.replace(path)


def package_versions() -> dict[str, str]:
  """Versions of Python and of the packages that a result depends on."""
  versions = {'python': sys.version.split()[0]}
  for package in _PACKAGES:
    try:
      versions[package] = metadata.version(package)
    except metadata.PackageNotFoundError:
      versions[package] = 'not installed'
  return versions


def start_workdir(
  workdir: epath.Path, resolved: dict[str, Any], stores: Sequence[epath.Path]
) -> None:
  """Writes what explains a run: its configuration, tokenizer and machine.

  Args:
    workdir: folder of the run.
    resolved: the whole configuration, as JSON holds it.
    stores: directories of the prepared data, which have one tokenizer.
  """
  if jax.process_index() != 0:
    return
  workdir.mkdir(parents=True, exist_ok=True)
  write_json(workdir / CONFIG_FILE, resolved)
  write_json(
    workdir / RUN_FILE,
    {
      'command': redact_arguments(sys.argv),
      'commit': _commit(),
      'dataset': ', '.join(str(store) for store in stores),
      'devices': [d.device_kind for d in jax.devices()],
      'processes': jax.process_count(),
      'versions': package_versions(),
      'random_generator': jax.config.values['jax_default_prng_impl'],
      'xla_flags': redact_text(os.environ.get('XLA_FLAGS', '')),
    },
  )
  (stores[0] / TOKENIZER_FILE).copy(workdir / TOKENIZER_FILE, overwrite=True)


def _commit() -> str | None:
  """The checkout's commit; None where it is no checkout or git is missing.

  A copy without its history is told by MESHWORK_COMMIT what it is a copy of.
  """
  told = os.environ.get('MESHWORK_COMMIT')
  if told:
    return told
  try:
    git = subprocess.run(
      ['git', 'describe', '--always', '--dirty'],
      cwd=os.path.dirname(os.path.abspath(__file__)),
      capture_output=True,
      text=True,
      check=True,
    )
  except (FileNotFoundError, subprocess.CalledProcessError):
    return None
  return git.stdout.strip()


def flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Nested dicts to one dict with dotted names."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
  """Lines 'field: saved -> given' for fields that a restart may not change."""
  before, after = flatten(saved), flatten(given)
  return [
    f'{name}: {before.get(name, "absent")} -> {after.get(name, "absent")}'
    for name in sorted(before.keys() | after.keys())
    if before.get(name, 'absent') != after.get(name, 'absent')
    and not name.startswith(_FREE_BEGINNINGS)
    and name not in _FREE_FIELDS
  ]


def facts_of_a_run(config: dict[str, Any]) -> dict[str, Any]:
  """What must be the same on all hosts, by name: fields, versions.

  Args:
    config: the resolved configuration, as JSON holds it.
  """
  fields = {
    name: value
    for name, value in flatten(config).items()
    if not name.startswith(_OF_A_HOST)
  }
  versions = package_versions()
  return fields | {f'the version of {k}': v for k, v in versions.items()}


def check_same_run(
  info: Info,
  *,
  config: dict[str, Any],
  data_fingerprint: str,
  workdir: epath.Path,
  allow_change: bool,
) -> list[str]:
  """Compares a checkpoint's run with the one that is about to go on.

  Args:
    info: the newest checkpoint.
    config: the resolved configuration, as JSON holds it.
    data_fingerprint: fingerprint of the prepared data.
    workdir: for the message.
    allow_change: go on in spite of differences.

  Returns:
    The differences that were allowed.

  Raises:
    ChangedRunError: there are differences, and they are not allowed.
  """
  changed = differences(info.config, config)
  if info.data_fingerprint != data_fingerprint:
    changed.append(
      f'data fingerprint: {info.data_fingerprint} -> {data_fingerprint}'
    )
  hint = ''
  if any(re.match(r'data\.mixture\..*\.weights: ', c) for c in changed):
    hint = (
      '\nRows that were read stay as they were if the weights keep their'
      f" entries and get another: '{info.step}: WEIGHT', or a later step."
    )
  if changed and not allow_change:
    raise ChangedRunError(
      f'{workdir} holds a run at step {info.step} that differs (saved -> '
      'given):\n  ' + '\n  '.join(changed) + '\nTake the change back, start '
      'in another --workdir, or add --allow_change to go on from that step.'
      + hint
    )
  return changed
