"""Copy this file first: the skeleton of an experiment.

Notes of the run go here, where the next reader looks for them: the command,
the hardware and hours it took, and the number that came out.

    cp configs/fork_me.py configs/mine.py
    python main.py --config=configs/mine.py --workdir=runs/mine
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration."""
  # configs/base.py lists every field. Start from it, or from another config
  # (`from configs import tiny`), and assign what differs.
  config = base.get_config()

  # Your text: one document on each line, under "text".
  config.data.source = 'jsonl'
  config.data.files = ('my_text/*.jsonl.zst',)
  config.data.tokenizer.vocab_size = 8_192

  # A model of 26 million parameters.
  config.model.vocab_size = 8_192
  config.model.embed_dim = 384
  config.model.num_layers = 8
  config.model.num_heads = 6
  config.model.num_kv_heads = 6
  config.model.mlp_dim = 1_536
  config.sequence_length = 512

  config.steps = 5_000
  config.batch_size = 64
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 250
  config.evaluation.every = 250
  config.early_stopping.enabled = True
  return config
