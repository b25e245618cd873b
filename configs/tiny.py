"""A small model of Python source, trained in minutes on two CPU cores.

python main.py --config=configs/tiny.py --workdir=runs/tiny
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration."""
  config = base.get_config()
  config.steps = 500
  config.batch_size = 16
  config.sequence_length = 256

  config.loss.chunk = 64
  config.model.vocab_size = 4_096
  config.model.embed_dim = 192
  config.model.num_layers = 4
  config.model.num_heads = 3
  config.model.num_kv_heads = 3
  config.model.mlp_dim = 512
  config.model.scan_layers = False
  config.data.tokenizer.vocab_size = 4_096
  config.data.tokenizer.train_bytes = 20_000_000
  config.data.validation_split = 'validation[:20%]'

  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup_steps = 50

  config.evaluation.every = 125
  config.early_stopping.enabled = True
  config.checkpoint.every = 125
  return config
