"""A model shaped like Llama 3 70B (Dubey et al. 2024): 70.6 billion parameters.

80 layers of 8,192, 64 query heads that share 8 of keys and values, SwiGLU of
28,672, RMSNorm, rotary positions with base 500,000, untied embeddings over a
vocabulary of 128,256, rows of 8,192.

    python main.py plan --config=configs/llama3_70b.py --topology=v5p:4x8x8
    python main.py --config=configs/llama3_70b.py --workdir=gs://BUCKET/runs/llama3_70b

Written for 256 chips of v5p, 2 rows on each: 4 million tokens a step, 1.4
trillion in all (20 a parameter).

Not run yet. Checked by a test: the count of parameters.

Plan (libtpu 0.0.42.1, splash attention): 45.2 GB of the 102.8 GB of a chip,
25.9 s a step, 634 tokens/s a chip, MFU 62 %; 2,420 hours for the whole run. Of
a step, 2.1 s wait for collectives.
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
  config.model.embed_dim = 8_192
  config.model.num_layers = 80
  config.model.num_heads = 64
  config.model.num_kv_heads = 8
  config.model.mlp_dim = 28_672
  config.model.norm_epsilon = 1e-5
  config.model.rope_theta = 500_000.0
  config.model.tie_embeddings = False
  config.model.remat = 'full'
  config.sequence_length = 8_192
  config.loss.z_loss = 1e-4

  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.batch_size = 512
  config.steps = 337_000
  config.optimizer.learning_rate = 1.5e-4
  config.optimizer.warmup_steps = 2_000
  config.evaluation.every = 1_000
  config.checkpoint.every = 500
  return config
