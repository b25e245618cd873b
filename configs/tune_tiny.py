"""A model that is smaller than that of tiny.py, and a search for its numbers.

    python main.py tune --config=configs/tune_tiny.py --workdir=runs/tune_tiny

0.6 million parameters, 327,680 tokens a trial; 24 trials, about half of them
pruned, and the best three again beside the default.
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
  config.data.validation_split = 'validation[:2%]'
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
    log('optimizer.weight_decay', 1e-2, 1.0),
    one_minus_log('optimizer.b2', 5e-3, 1e-1),
    integer('optimizer.warmup_steps', 5, 50),
  )
  search.trials = 24
  return search
