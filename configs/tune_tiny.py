"""A model that is smaller than that of tiny.py, and a search for its numbers.

    python main.py tune --config=configs/tune_tiny.py --workdir=runs/tune_tiny

0.6 million parameters and 327,680 tokens a trial; 20 trials, and the best three
again beside the default, with three fresh seeds each. It took 9 minutes 42 on
two cores (a shared virtual machine, Python 3.11.7, jax 0.10.2).

Validation loss in nats a token, mean and standard deviation of the seeds:

    default   5.501  0.157
    trial 12  4.955  0.054   learning rate 0.0050, weight decay 3.96,
                             b2 0.902, warm-up 80
    trial 19  4.957  0.076
    trial 16  4.985  0.044

The gain, 0.546, counts: two of its standard errors are 0.154. So short a run
gains by a long warm-up, and the best trials lie at the edge of the search: a
wider one may find better ones. The data is the interpreter's own library, so
other versions of Python give other numbers.
"""

from ml_collections import ConfigDict

from configs import tiny
from configs.search import get_search as base_search
from configs.search import integer, log, one_minus_log


def get_config() -> ConfigDict:
  """Returns the configuration."""
  config = tiny.get_config()
  config.steps = 160
  config.sequence_length = 128
  config.model.vocab_size = 2_048
  config.data.tokenizer.vocab_size = 2_048
  config.data.validation_split = 'validation[:5%]'
  config.model.embed_dim = 128
  config.model.num_layers = 2
  config.model.num_heads = 2
  config.model.num_kv_heads = 2
  config.model.mlp_dim = 256
  # Faster on CPUs, and what a CPU is used for here is small.
  config.model.compute_dtype = 'float32'
  config.optimizer.warmup_steps = 20
  config.evaluation.every = 40
  config.checkpoint.every = 80
  return config


def get_search() -> ConfigDict:
  """Returns the search."""
  search = base_search()
  search.space = (
    log('optimizer.learning_rate', 1e-4, 3e-2),
    log('optimizer.weight_decay', 1e-2, 4.0),
    one_minus_log('optimizer.b2', 2e-3, 1e-1),
    integer('optimizer.warmup_steps', 5, 80),
  )
  search.constraints = (
    'optimizer.learning_rate * optimizer.weight_decay < 0.03',
  )
  search.trials, search.startup = 20, 8
  return search
