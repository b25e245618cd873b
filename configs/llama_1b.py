"""A model shaped like Llama 3.2 1B: 1.24 billion parameters.

Grouped-query attention (32 query heads share 8 of keys and values), SwiGLU,
RMSNorm, rotary positions with base 500,000, tied embeddings over a vocabulary
of 128,256. Llama 3.2 also stretches its rotary frequencies for 128 k tokens of
context; this configuration trains at 4,096 and does not.

    python main.py --config=configs/llama_1b.py --workdir=gs://BUCKET/runs/llama

Written for 8 to 64 accelerators: parameters and moments are split over all of
them (mesh.fsdp), activations are recomputed but for the products. 2 million
tokens a step, 25 billion in all (20 a parameter, Hoffmann et al. 2022).

Not run to its end yet. Checked by a test: the count of parameters.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration."""
  config = base.get_config()
  config.data.source = 'jsonl'
  config.data.files = ('data/web/*.jsonl.zst',)
  config.data.tokenizer.vocab_size = 128_256

  config.model.vocab_size = 128_256
  config.model.embed_dim = 2_048
  config.model.num_layers = 16
  config.model.num_heads = 32
  config.model.num_kv_heads = 8
  config.model.head_dim = 64
  config.model.mlp_dim = 8_192
  config.model.norm_epsilon = 1e-5
  config.model.rope_theta = 500_000.0
  config.model.remat = 'products'
  config.sequence_length = 4_096
  config.loss.z_loss = 1e-4

  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.batch_size = 512
  config.steps = 12_000
  config.optimizer.learning_rate = 4e-4
  config.optimizer.warmup_steps = 1_000
  config.evaluation.every = 500
  config.checkpoint.every = 500
  return config
