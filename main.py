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
  ladder    train small models, and forecast the loss of the large one
  tune      find hyper-parameters by many trials
  coordinate-check  does a step move activations alike at any width?
  lr-transfer  does the best learning rate stay with the width?
  transfer  write the configuration of a large run from a tuned small one

Fields of the config are set by --config.FIELD=VALUE. All but prepare and a
first train find the config of the run in the workdir.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

from absl import app, logging
from absl.flags import FLAGS, adopt_module_key_flags
from etils import epath
from ml_collections import ConfigDict

from configs import flags, given
from configs.check import default_of, from_dict, to_dict
from configs.mistakes import config_files, is_ours

_STARTED = time.perf_counter()
# --help lists them.
adopt_module_key_flags(flags)


def train() -> None:
  """Trains or resumes, then writes the report."""
  from train.report import write_report

  workdir = given.workdir()
  _train(given.config(), workdir, _STARTED)
  if _is_first_process():
    print(f'Report: {write_report(workdir)}')


def _train(
  config: ConfigDict, workdir: epath.Path, started: float | None = None
) -> None:
  from input_pipeline.augmentation.config import augmentation_config
  from input_pipeline.config import training_data
  from train.config import train_config
  from train.loop import train as run
  from train.redact import redact

  run(
    train_config(config),
    training_data(config),
    augmentation_config(config),
    resolved=redact(to_dict(config)),
    workdir=workdir,
    allow_change=flags.ALLOW_CHANGE.value,
    started=time.perf_counter() if started is None else started,
  )


def supervise() -> None:
  """Trains in a process of its own, and starts it again after faults."""
  from train.supervise import saved_steps
  from train.supervise import supervise as run

  workdir = given.workdir()
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

  config = given.config()
  # Tokens that training will miss cannot be added to a store afterwards.
  augmentation_config(config)
  first_process_does(work, 'prepare the data')


def evaluate() -> None:
  """Prints the validation metrics of a checkpoint as JSON."""
  from input_pipeline.config import training_data
  from train.commands import evaluate_run
  from train.config import train_config

  config = given.config()
  result = evaluate_run(
    train_config(config),
    training_data(config),
    workdir=given.workdir(),
    which=flags.CHECKPOINT.value,
  )
  if _is_first_process():
    print(json.dumps(result))


def sample() -> None:
  """Prints continuations of the prompts."""
  from model.sampling import SamplingConfig
  from train.commands import sample_run
  from train.config import train_config

  pairs = sample_run(
    train_config(given.config()),
    workdir=given.workdir(),
    which=flags.CHECKPOINT.value,
    prompts=given.prompts(),
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

  if not list_checkpoints(given.workdir(), check=flags.VERIFY.value):
    sys.exit(CHECKPOINT_ERROR)


def report() -> None:
  """Writes report.html anew."""
  from train.report import write_report

  print(f'Report: {write_report(given.workdir())}')


def documents() -> None:
  """Prints which documents stood in the batch of a step."""
  from input_pipeline.augmentation.config import augmentation_config
  from input_pipeline.config import training_data
  from input_pipeline.seen import documents_of_run
  from input_pipeline.stores import open_stores
  from train.commands import left_out_of_run

  config = given.config()
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
      left_out=left_out_of_run(given.workdir()) if flags.WORKDIR.value else (),
      lines_of_json=flags.JSON.value,
    )
  )


def verify() -> None:
  """Compares loss and gradients of every mesh with those of one device."""
  # The compiler's remarks on layouts that are slow are not for this table.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  from train.verify import verify_and_print

  if not verify_and_print(to_dict(given.config())):
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

  config = given.config()
  augmentation = augmentation_config(config)
  print(
    plan_run(
      train_config(config),
      topology=flags.TOPOLOGY.value,
      prices=dict(config.planning.prices),
      cache=config.runtime.compilation_cache,
      augmented=bool(augmentation.active),
      searched=config.planning.searched if FLAGS['search'].value else None,
      workdir=given.workdir() if flags.WORKDIR.value else None,
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


def ladder() -> None:
  """Trains small models, and forecasts the loss of the configuration's."""
  from input_pipeline.config import training_data
  from train.data import prepared_stores
  from train.tuning.ladder_run import Options, run_ladder

  config, workdir = given.config(), given.workdir()
  options = Options(
    flops=flags.FLOPS.value,
    hours=flags.HOURS.value,
    ratios=tuple(flags.TOKENS_PER_PARAMETER.value),
    sizes=flags.SIZES.value,
  )
  # The first run would count it as its own time.
  prepared_stores(training_data(config))
  said = run_ladder(
    to_dict(config),
    options,
    lambda values, folder: _train(from_dict(values), folder),
    workdir=workdir,
  )
  if _is_first_process():
    print(said)


def tune() -> None:
  """Searches for hyper-parameters."""
  from input_pipeline.augmentation.config import augmentation_config
  from input_pipeline.config import training_data
  from train.tuning import command, outcome

  config, workdir = given.config(), given.workdir()
  search = command.read_search(to_dict(config), given.search())
  if flags.DRY_RUN.value:
    command.check_devices(search)
    if _is_first_process():
      print(command.dry_run_text(search))
    return
  found = command.tune(
    search,
    training_data(config),
    augmentation_config(config),
    workdir=workdir,
    storage=flags.STORAGE.value,
  )
  if found is not None:
    print(outcome.text_of(found))
    (origin,) = config_files(sys.argv)
    for file in outcome.write_outcome(found, workdir, origin):
      print(f'Written: {file}')


def coordinate_check() -> None:
  """Compares how activations of several widths, or depths, move."""
  from train.tuning.coordinate_check import check_and_print

  workdir = given.workdir() if flags.WORKDIR.value else None
  sizes = {'widths': flags.WIDTHS.value, 'depths': flags.DEPTHS.value}
  if not check_and_print(to_dict(given.config()), **sizes, workdir=workdir):
    sys.exit(1)


def lr_transfer() -> None:
  """Compares the best learning rates of several widths."""
  from input_pipeline.augmentation.config import augmentation_config
  from input_pipeline.config import training_data
  from train.tuning.lr_transfer import measure_and_print

  config = given.config()
  measure_and_print(
    to_dict(config),
    training_data(config),
    augmentation_config(config),
    widths=flags.WIDTHS.value,
    octaves=flags.OCTAVES.value,
    workdir=given.workdir(),
  )


def transfer() -> None:
  """Writes the configuration of a large run from a tuned small one."""
  from train.tuning.transfer import Target, transfer_and_print

  config, workdir = given.config(), given.workdir()
  transfer_and_print(
    to_dict(config),
    Target(**given.target()),
    base=to_dict(default_of(config.to_dict())),
    origin=(config_files(sys.argv) or [str(workdir)])[-1],
    workdir=workdir,
  )


COMMANDS: dict[str, Callable[[], None]] = {
  command.__name__.replace('_', '-'): command
  for command in (
    train, supervise, prepare, evaluate, sample, checkpoints, report, documents,
    verify, plan, ladder, tune, coordinate_check, lr_transfer, transfer,
  )
}  # fmt: skip
# They set JAX up themselves, or have no use for it.
_WITHOUT_JAX = (supervise, report, documents, verify, plan, transfer)
# They run on one machine, whatever its launcher says of others.
_ALONE = (*_WITHOUT_JAX, coordinate_check, lr_transfer)


def main(argv: Sequence[str]) -> None:
  """Runs one command; a user's error is one line, not a traceback."""
  from train import process
  from train.exits import BY_HAND, USAGE_ERROR

  process.end_on_sigterm()
  # Libraries' notes on their own working are not for a person to read.
  logging.set_verbosity(logging.ERROR)
  joined = False
  try:
    command = COMMANDS[given.command(argv, COMMANDS)]
    if command is tune:
      # With more threads its sampler's small matrices take twice the time.
      os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    if command not in _ALONE:
      joined = process.join_cluster(FLAGS, expected=flags.MULTIHOST.value)
    if command not in (*_WITHOUT_JAX, prepare):
      _set_up_jax()
    command()
  except given.UsageError as error:
    process.fail(str(error), USAGE_ERROR, joined)
  except KeyboardInterrupt:
    process.fail('ended by Ctrl-C.', BY_HAND, joined)
  except Exception as error:
    if not isinstance(error, ValueError) or is_ours(error):
      process.fail_as_designed(error, joined)
    raise


def _set_up_jax() -> None:
  """Settings of JAX that hold for the whole process."""
  from train.compilation_cache import keep_compiled_programs

  chosen = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  keep_compiled_programs(chosen or given.config().runtime.compilation_cache)


def _is_first_process() -> bool:
  from train.distributed import is_first

  return is_first()


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line; a mistake in it is one line."""
  from train import exits, process

  try:
    return given.parse(argv)
  except given.UsageError as error:
    process.fail(str(error), exits.USAGE_ERROR)


if __name__ == '__main__':
  app.run(main, flags_parser=_parse_flags)
