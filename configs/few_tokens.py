"""Few tokens, read again and again: what augmentation is for.

    python main.py --config=configs/few_tokens.py --workdir=runs/few
    python main.py --config=configs/few_tokens.py --workdir=runs/few_plain \
      --config.augmentation.token_replacement.rate=0 \
      --config.augmentation.repack=False

17 files of the Python standard library, 175 thousand tokens, 0.77 million
parameters. The best validation loss of the first command, which replaces a
fifth of the input tokens and packs each epoch anew, is 3.986 nats a token
(2.335 bits a byte), at step 1,700 of 2,000: 20 epochs. Of the second, without
augmentation, 4.128 (2.417), at step 600; from there it learns the text by
heart and is stopped at step 1,100. Dropout is 0.1 in both. Python 3.11.7, jax
0.10.2.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration."""
  config = base.get_config()
  config.steps = 2_000
  config.batch_size = 16
  config.sequence_length = 128

  config.loss.chunk = 128
  config.model.vocab_size = 1_024
  config.model.embed_dim = 128
  config.model.num_layers = 3
  config.model.num_heads = 2
  config.model.num_kv_heads = 2
  config.model.mlp_dim = 384
  config.model.scan_layers = False
  # Faster than bfloat16 on a CPU, which has no units for it.
  config.model.compute_dtype = 'float32'
  config.model.residual_dropout = 0.1
  config.model.mlp_dropout = 0.1

  config.data.tokenizer.vocab_size = 1_024
  config.data.split = 'train[:1%]'
  config.data.validation_split = 'validation[:5%]'
  config.augmentation.token_replacement.rate = 0.2
  config.augmentation.repack = True

  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 50

  config.evaluation.every = 100
  config.early_stopping.enabled = True
  config.early_stopping.patience = 5
  return config
