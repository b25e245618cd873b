"""The flags of main.py, and which commands they are of."""

import os

from absl import flags
from ml_collections import config_flags

from configs.mistakes import config_files, defined_in

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration file, such as configs/tiny.py.'
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run: checkpoints, metrics, report.'
)
ALLOW_CHANGE = flags.DEFINE_bool(
  'allow_change',
  False,
  'train: go on although configuration or data differ from the saved run.',
)
MULTIHOST = flags.DEFINE_bool(
  'multihost',
  None,
  'Expect a cluster; --nomultihost: run alone. Neither: a cluster that the '
  'launcher describes is joined.',
)
flags.DEFINE_string('coordinator_address', None, 'HOST:PORT of process 0.')
flags.DEFINE_integer('num_processes', None, 'Processes of the cluster.')
flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.')
CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'best', 'evaluate, sample: best, last or a step.'
)
PROMPTS = flags.DEFINE_multi_string(
  'prompt', [], 'sample: a text to continue; may be given several times.'
)
PROMPTS_FILE = flags.DEFINE_string(
  'prompts_file', None, 'sample: a file with a prompt on each line.'
)
MAX_TOKENS = flags.DEFINE_integer(
  'max_tokens', 200, 'sample: tokens to generate at most.'
)
TEMPERATURE = flags.DEFINE_float(
  'temperature', 0.8, 'sample: divides the logits; 0 takes the likeliest.'
)
TOP_K = flags.DEFINE_integer(
  'top_k', None, 'sample: choose among this many likeliest tokens.'
)
TOP_P = flags.DEFINE_float(
  'top_p', 0.95, 'sample: choose among the likeliest of this probability.'
)
VERIFY = flags.DEFINE_bool(
  'verify', False, 'checkpoints, prepare: compare with the checksums.'
)
MAX_RESTARTS = flags.DEFINE_integer(
  'max_restarts', 20, 'supervise: start again this often at most.'
)
SEED = flags.DEFINE_integer(
  'seed', 0, 'sample: seed of the choice.', 0, (1 << 32) - 1
)
STEP = flags.DEFINE_integer(
  'step', None, 'documents: the step, counted as in the log.'
)
ROW = flags.DEFINE_integer(
  'row', None, 'documents: only this row of the batch.'
)
JSON = flags.DEFINE_bool('json', False, 'documents, plan: print JSON.')
TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'plan: the machine, such as v5p:4x4x4 or h100:8x8.'
)
FLOPS = flags.DEFINE_float(
  'flops', None, 'ladder: floating-point operations of all its runs.'
)
HOURS = flags.DEFINE_float(
  'hours', None, 'ladder: hours of all its runs on this machine.'
)
SIZES = flags.DEFINE_integer('sizes', 6, 'ladder: sizes of models.')
TOKENS_PER_PARAMETER = flags.DEFINE_multi_float(
  'tokens_per_parameter',
  [],
  'ladder: of its runs; may be given several times, to tell what parameters '
  'and what tokens are worth apart. Without it: as many as the run has.',
)
STORAGE = flags.DEFINE_string(
  'storage',
  None,
  'tune: address of a database that several hosts reach, such as '
  'postgresql+psycopg://HOST/NAME; without it, a file in the workdir.',
)
WIDTHS = flags.DEFINE_list(
  'widths',
  [],
  'coordinate-check, lr-transfer: model.embed_dim of the models, such as '
  '64,128,256.',
)
DEPTHS = flags.DEFINE_list(
  'depths',
  [],
  'coordinate-check: model.num_layers of the models, in place of widths.',
)
OCTAVES = flags.DEFINE_integer(
  'octaves',
  3,
  'lr-transfer: learning rates to either side of that of the configuration.',
)
WIDTH = flags.DEFINE_integer('width', None, 'transfer: model.embed_dim.')
DEPTH = flags.DEFINE_integer('depth', None, 'transfer: model.num_layers.')
BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', None, 'transfer: rows of a step.'
)
TOKENS = flags.DEFINE_float('tokens', None, 'transfer: tokens to train on.')
DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'tune: say what would be done, and do nothing.'
)


def define_search(argv: list[str]) -> None:
  """Defines --search: of plan a switch, of tune the search of its file.

  Args:
    argv: the command line.

  Raises:
    ValueError: the configuration file defines no search.
  """
  if 'tune' not in argv[1:]:
    flags.DEFINE_bool(
      'search', False, 'plan: find the mesh, remat policy and microbatch.'
    )
    return
  files = [file for file in config_files(argv) if os.path.exists(file)]
  if not files:
    return
  defined = defined_in(files[-1])
  if 'get_search' not in defined:
    raise ValueError(
      f'{files[-1]} defines no search: put a get_search() beside its '
      'get_config(), as configs/tune_tiny.py does.'
    )
  config_flags.DEFINE_config_dict(
    'search', defined['get_search'](), 'tune: fields of the search.'
  )
