"""A small model of Python source, trained in minutes on two CPU cores.

    python main.py --config=configs/tiny.py --workdir=runs/tiny

2.6 million parameters, 2.5 million tokens: a quarter of the standard library,
once. scripts/train_tiny.sh, with preparing the data, report and sample, took 4
minutes 17 on two cores of an AMD EPYC at about 12,000 tokens a second, and 8
minutes 10 on two of an Intel Xeon at 5,800 (Python 3.11.7, jax 0.10.2).

Validation loss 3.400 nats a token (perplexity 30.0, 1.586 bits a byte). The
unigram entropy of the data, the loss of a model that knows how frequent each
token is and nothing else, is 6.305. The
data is the interpreter's own library, so other versions of Python give other
numbers.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration."""
  config = base.get_config()
  config.steps = 600
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

  config.optimizer.learning_rate = 4e-3
  config.optimizer.warmup_steps = 50

  config.evaluation.every = 150
  config.early_stopping.enabled = True
  config.checkpoint.every = 150
  return config
