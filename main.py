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
  tune      find hyper-parameters by many trials

Fields of the config are set by --config.FIELD=VALUE. All but prepare and a
first train find the config of the run in the workdir.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

from absl import app, logging
from absl.flags import FLAGS, Error, adopt_module_key_flags
from etils import epath
from ml_collections import ConfigDict

from configs import flags
from configs.check import check, from_json, to_dict
from configs.mistakes import config_files, explain, is_ours

_STARTED = time.perf_counter()
# --help lists them.
adopt_module_key_flags(flags)


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
    allow_change=flags.ALLOW_CHANGE.value,
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
      max_restarts=flags.MAX_RESTARTS.value,
    )
  )


def prepare() -> None:
  """Makes the dataset."""
  from input_pipeline.augmentation.config import augmentation_config
  from input_pipeline.config import training_data
  from input_pipeline.stores import prepare_stores
  from train.distributed import first_process_does

  def work() -> None:
    data, check = training_data(config), flags.VERIFY.value
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
    which=flags.CHECKPOINT.value,
  )
  if _is_first_process():
    print(json.dumps(result))


def sample() -> None:
  """Prints continuations of the prompts."""
  from model.sampling import SamplingConfig
  from train.commands import sample_run
  from train.config import train_config

  prompts = list(flags.PROMPTS.value)
  if flags.PROMPTS_FILE.value is not None:
    file = epath.Path(flags.PROMPTS_FILE.value)
    if not file.exists():
      raise UsageError(f'--prompts_file: there is no file {file}.')
    # What is not UTF-8 is refused by name.
    text = file.read_bytes().decode(errors='surrogateescape')
    prompts += text.splitlines()
  pairs = sample_run(
    train_config(_config()),
    workdir=_workdir(),
    which=flags.CHECKPOINT.value,
    prompts=prompts or [''],
    sampling=SamplingConfig(
      max_tokens=flags.MAX_TOKENS.value,
      temperature=flags.TEMPERATURE.value,
      top_k=flags.TOP_K.value,
      top_p=flags.TOP_P.value,
    ),
    seed=flags.SEED.value,
  )
  if _is_first_process():
    for number, (prompt, text) in enumerate(pairs, start=1):
      print(f'--- sample {number} of {len(pairs)}')
      print(prompt + text)


def checkpoints() -> None:
  """Lists the checkpoints of a run."""
  from train.commands import list_checkpoints
  from train.exits import CHECKPOINT_ERROR

  if not list_checkpoints(_workdir(), check=flags.VERIFY.value):
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
      step=flags.STEP.value,
      steps=config.steps,
      row=flags.ROW.value,
      rows=config.batch_size,
      left_out=left_out_of_run(_workdir()) if flags.WORKDIR.value else (),
      lines_of_json=flags.JSON.value,
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
  from input_pipeline.config import training_data
  from train.config import train_config
  from train.data import prepared_repetition
  from train.planning.command import plan_run

  config = _config()
  augmentation = augmentation_config(config)
  print(
    plan_run(
      train_config(config),
      topology=flags.TOPOLOGY.value,
      prices=dict(config.planning.prices),
      cache=config.runtime.compilation_cache,
      augmented=bool(augmentation.active),
      searched=config.planning.searched if FLAGS['search'].value else None,
      workdir=_workdir() if flags.WORKDIR.value else None,
      as_json=flags.JSON.value,
      data=prepared_repetition(
        training_data(config),
        seed=config.seed,
        batch_size=config.batch_size,
        repack=augmentation.repack,
        steps=config.steps,
      ),
    )
  )


def tune() -> None:
  """Searches for hyper-parameters."""
  from input_pipeline.augmentation.config import augmentation_config
  from input_pipeline.config import training_data
  from train.redact import redact
  from train.tuning import command, outcome

  config, workdir = _config(), _workdir()
  search = command.read_search(redact(to_dict(config)), _search())
  if flags.DRY_RUN.value:
    print(command.dry_run_text(search))
    return
  found = command.tune(
    search,
    training_data(config),
    augmentation_config(config),
    workdir=workdir,
    storage=flags.STORAGE.value,
  )
  print(outcome.text_of(found))
  origin = config_files(sys.argv)[-1]
  for file in outcome.write_outcome(found, workdir, origin):
    print(f'Written: {file}')


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
  'tune': tune,
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
      joined = process.join_cluster(FLAGS, expected=flags.MULTIHOST.value)
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
  if not flags.WORKDIR.value:
    raise UsageError('Give the folder of the run: --workdir=runs/NAME')
  return epath.Path(flags.WORKDIR.value).expanduser()


def _config() -> ConfigDict:
  """The given configuration, or the one that the workdir holds."""
  if flags.CONFIG.value is not None:
    return check(flags.CONFIG.value)
  if flags.WORKDIR.value:
    saved = _workdir() / 'config.json'
    if saved.exists():
      return from_json(saved.read_bytes(), str(saved))
  raise UsageError(
    'Give a configuration: --config=configs/tiny.py'
    + (f' ({flags.WORKDIR.value} holds none).' if flags.WORKDIR.value else '')
  )


def _search() -> ConfigDict:
  """The search of the given configuration file."""
  found = FLAGS['search'].value if 'search' in FLAGS else None
  if found is None:
    raise UsageError(
      'tune needs a configuration file with a search beside its get_config(): '
      '--config=configs/tune_tiny.py'
    )
  return found


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
    flags.define_search(argv)
    words = FLAGS([a.replace('--dry-run', '--dry_run') for a in argv])
    # The flag reads the file when it is first used; look for it now.
    if not all(os.path.exists(file) for file in config_files(argv)):
      raise FileNotFoundError
    return words
  except (
    Error, AttributeError, KeyError, TypeError, ValueError, OSError,
  ) as error:  # fmt: skip
    fail(explain(argv, error), USAGE_ERROR)
  raise AssertionError


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
