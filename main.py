"""Meshwork: trains language models on a mesh of devices.

python main.py COMMAND --config=configs/tiny.py --workdir=runs/tiny

Commands:
  train     train, or go on with the run in the workdir (the default); prepares
            the data first if that is missing
  supervise train, and start again after faults
  prepare   make the dataset
  evaluate  loss of a checkpoint on the validation split
  sample    continue prompts
  checkpoints  the steps that are saved; with --verify, whether they are good
  report    write the workdir's report.html anew
  documents which documents a step was trained on
  verify    compare every mesh with one device, on emulated devices
  plan      memory, speed and cost of a run on a machine that need not be here

Fields of the config are set by --config.FIELD=VALUE. All but prepare and a
first train find the config of the run in the workdir.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from configs.check import check, from_json, to_dict
from configs.mistakes import config_files, explain, is_ours

_STARTED = time.perf_counter()

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration file, such as configs/tiny.py.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run: checkpoints, metrics, report.'
)
_ALLOW_CHANGE = flags.DEFINE_bool(
  'allow_change',
  False,
  'train: go on although configuration or data differ from the saved run.',
)
_MULTIHOST = flags.DEFINE_bool(
  'multihost',
  None,
  'Expect a cluster; --nomultihost: run alone. Neither: a cluster that the '
  'launcher describes is joined.',
)
flags.DEFINE_string('coordinator_address', None, 'HOST:PORT of process 0.')
flags.DEFINE_integer('num_processes', None, 'Processes of the cluster.')
flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.')
_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'best', 'evaluate, sample: best, last or a step.'
)
_PROMPTS = flags.DEFINE_multi_string(
  'prompt', [], 'sample: a text to continue; may be given several times.'
)
_PROMPTS_FILE = flags.DEFINE_string(
  'prompts_file', None, 'sample: a file with a prompt on each line.'
)
_MAX_TOKENS = flags.DEFINE_integer(
  'max_tokens', 200, 'sample: tokens to generate at most.'
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature', 0.8, 'sample: divides the logits; 0 takes the likeliest.'
)
_TOP_K = flags.DEFINE_integer(
  'top_k', None, 'sample: choose among this many likeliest tokens.'
)
_TOP_P = flags.DEFINE_float(
  'top_p', 0.95, 'sample: choose among the likeliest of this probability.'
)
_VERIFY = flags.DEFINE_bool(
  'verify', False, 'checkpoints, prepare: compare with the checksums.'
)
_MAX_RESTARTS = flags.DEFINE_integer(
  'max_restarts', 20, 'supervise: start again this often at most.'
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'sample: seed of the choice.', 0, (1 << 32) - 1
)
_STEP = flags.DEFINE_integer(
  'step', None, 'documents: the step, counted as in the log.'
)
_ROW = flags.DEFINE_integer(
  'row', None, 'documents: only this row of the batch.'
)
_JSON = flags.DEFINE_bool('json', False, 'documents, plan: print JSON.')
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'plan: the machine, such as v5p:4x4x4 or h100:8x8.'
)
_SEARCH = flags.DEFINE_bool(
  'search', False, 'plan: find the mesh, remat policy and microbatch.'
)


class UsageError(Exception):
  """The command line is wrong; the message is all that a user needs."""


def train() -> None:
  """Trains or resumes, then writes the report."""
  from input_pipeline.augmentation.config import augmentation_config
  from input_pipeline.config import training_data
  from train.config import train_config
  from train.loop import train as run
  from train.redact import redact
  from train.report import write_report

  config, workdir = _config(), _workdir()
  run(
    train_config(config),
    training_data(config),
    augmentation_config(config),
    resolved=redact(to_dict(config)),
    workdir=workdir,
    allow_change=_ALLOW_CHANGE.value,
    started=_STARTED,
  )
  if _is_first_process():
    print(f'Report: {write_report(workdir)}')


def supervise() -> None:
  """Trains in a process of its own, and starts it again after faults."""
  from train.supervise import saved_steps
  from train.supervise import supervise as run

  workdir = _workdir()
  words = ['train' if word == 'supervise' else word for word in sys.argv[1:]]
  sys.exit(
    run(
      [sys.executable, sys.argv[0], *words],
      lambda: saved_steps(workdir),
      max_restarts=_MAX_RESTARTS.value,
    )
  )


def prepare() -> None:
  """Makes the dataset."""
  from input_pipeline.augmentation.config import augmentation_config
  from input_pipeline.config import training_data
  from input_pipeline.stores import prepare_stores
  from train.distributed import first_process_does

  def work() -> None:
    data, check = training_data(config), _VERIFY.value
    for store in prepare_stores(data, log=print, check=check):
      print(f'Dataset: {store}')

  config = _config()
  # Tokens that training will miss cannot be added to a store afterwards.
  augmentation_config(config)
  first_process_does(work, 'prepare the data')


def evaluate() -> None:
  """Prints the validation metrics of a checkpoint as JSON."""
  from input_pipeline.config import training_data
  from train.commands import evaluate_run
  from train.config import train_config

  config = _config()
  result = evaluate_run(
    train_config(config),
    training_data(config),
    workdir=_workdir(),
    which=_CHECKPOINT.value,
  )
  if _is_first_process():
    print(json.dumps(result))


def sample() -> None:
  """Prints continuations of the prompts."""
  from model.sampling import SamplingConfig
  from train.commands import sample_run
  from train.config import train_config

  prompts = list(_PROMPTS.value)
  if _PROMPTS_FILE.value is not None:
    file = epath.Path(_PROMPTS_FILE.value)
    if not file.exists():
      raise UsageError(f'--prompts_file: there is no file {file}.')
    # What is not UTF-8 is refused by name.
    text = file.read_bytes().decode(errors='surrogateescape')
    prompts += text.splitlines()
  pairs = sample_run(
    train_config(_config()),
    workdir=_workdir(),
    which=_CHECKPOINT.value,
    prompts=prompts or [''],
    sampling=SamplingConfig(
      max_tokens=_MAX_TOKENS.value,
      temperature=_TEMPERATURE.value,
      top_k=_TOP_K.value,
      top_p=_TOP_P.value,
    ),
    seed=_SEED.value,
  )
  if _is_first_process():
    for number, (prompt, text) in enumerate(pairs, start=1):
      print(f'--- sample {number} of {len(pairs)}')
      print(prompt + text)


def checkpoints() -> None:
  """Lists the checkpoints of a run."""
  from train.commands import list_checkpoints
  from train.exits import CHECKPOINT_ERROR

  if not list_checkpoints(_workdir(), check=_VERIFY.value):
    sys.exit(CHECKPOINT_ERROR)


def report() -> None:
  """Writes report.html anew."""
  from train.report import write_report

  print(f'Report: {write_report(_workdir())}')


def documents() -> None:
  """Prints which documents stood in the batch of a step."""
  from input_pipeline.augmentation.config import augmentation_config
  from input_pipeline.config import training_data
  from input_pipeline.seen import documents_of_run
  from input_pipeline.stores import open_stores
  from train.commands import left_out_of_run

  config = _config()
  stream = open_stores(training_data(config)).stream(
    seed=config.seed,
    batch_size=config.batch_size,
    repack=augmentation_config(config).repack,
  )
  print(
    documents_of_run(
      stream,
      step=_STEP.value,
      steps=config.steps,
      row=_ROW.value,
      rows=config.batch_size,
      left_out=left_out_of_run(_workdir()) if _WORKDIR.value else (),
      lines_of_json=_JSON.value,
    )
  )


def verify() -> None:
  """Compares loss and gradients of every mesh with those of one device."""
  # The compiler's remarks on layouts that are slow are not for this table.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  import jax

  jax.config.update('jax_platforms', 'cpu')
  if not os.environ.get('JAX_NUM_CPU_DEVICES'):
    jax.config.update('jax_num_cpu_devices', 8)
  from train.verify import verify_and_print

  if not verify_and_print(to_dict(_config()), jax.devices()):
    sys.exit(1)


def plan() -> None:
  """Prints what a run needs and costs on a machine that need not be here."""
  from train.planning.environment import set_up_environment

  set_up_environment()
  from input_pipeline.augmentation.config import augmentation_config
  from train.config import train_config
  from train.planning.command import plan_run

  config = _config()
  print(
    plan_run(
      train_config(config),
      topology=_TOPOLOGY.value,
      prices=dict(config.planning.prices),
      cache=config.runtime.compilation_cache,
      augmented=bool(augmentation_config(config).active),
      searched=config.planning.searched if _SEARCH.value else None,
      workdir=_workdir() if _WORKDIR.value else None,
      as_json=_JSON.value,
    )
  )


COMMANDS: dict[str, Callable[[], None]] = {
  'train': train,
  'supervise': supervise,
  'prepare': prepare,
  'evaluate': evaluate,
  'sample': sample,
  'checkpoints': checkpoints,
  'report': report,
  'documents': documents,
  'verify': verify,
  'plan': plan,
}


def main(argv: Sequence[str]) -> None:
  """Runs one command; a user's error is one line, not a traceback."""
  from train import process
  from train.exits import BY_HAND, USAGE_ERROR

  process.end_on_sigterm()
  # Libraries' notes on their own working are not for a person to read.
  logging.set_verbosity(logging.ERROR)
  joined = False
  try:
    command = _command(argv)
    if command not in (supervise, report, documents, verify, plan):
      joined = process.join_cluster(flags.FLAGS, expected=_MULTIHOST.value)
    if command not in (supervise, prepare, report, documents, verify, plan):
      _set_up_jax()
    command()
  except UsageError as error:
    process.fail(str(error), USAGE_ERROR, joined)
  except KeyboardInterrupt:
    process.fail('ended by Ctrl-C.', BY_HAND, joined)
  except Exception as error:
    if not isinstance(error, ValueError) or is_ours(error):
      process.fail_as_designed(error, joined)
    raise


def _command(argv: Sequence[str]) -> Callable[[], None]:
  words = argv[1:] or ['train']
  if len(words) > 1 or words[0] not in COMMANDS:
    raise UsageError(
      f'{" ".join(words)!r} is no command; the commands are '
      f'{", ".join(COMMANDS)}.'
    )
  return COMMANDS[words[0]]


def _workdir() -> epath.Path:
  if not _WORKDIR.value:
    raise UsageError('Give the folder of the run: --workdir=runs/NAME')
  return epath.Path(_WORKDIR.value).expanduser()


def _config() -> ConfigDict:
  """The given configuration, or the one that the workdir holds."""
  if _CONFIG.value is not None:
    return check(_CONFIG.value)
  if _WORKDIR.value:
    saved = _workdir() / 'config.json'
    if saved.exists():
      return from_json(saved.read_bytes(), str(saved))
  raise UsageError(
    'Give a configuration: --config=configs/tiny.py'
    + (f' ({_WORKDIR.value} holds none).' if _WORKDIR.value else '')
  )


def _set_up_jax() -> None:
  """Settings of JAX that hold for the whole process."""
  from train.compilation_cache import keep_compiled_programs

  given = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  keep_compiled_programs(given or _config().runtime.compilation_cache)


def _is_first_process() -> bool:
  import jax

  return jax.process_index() == 0


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line; a mistake in it is one line."""
  from train.exits import USAGE_ERROR
  from train.process import fail

  try:
    words = flags.FLAGS(argv)
    # The flag reads the file when it is first used; look for it now.
    if not all(os.path.exists(file) for file in config_files(argv)):
      raise FileNotFoundError
    return words
  except (
    flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError,
  ) as error:  # fmt: skip
    fail(explain(argv, error), USAGE_ERROR)
  raise AssertionError


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
