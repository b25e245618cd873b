"""A model shaped like Llama 2 7B (Touvron et al. 2023): 6.74e9 parameters.

32 layers of 4,096, full attention with 32 heads, SwiGLU of 11,008, RMSNorm,
rotary positions, untied embeddings over a vocabulary of 32,000, rows of 4,096.

    python main.py plan --config=configs/llama2_7b.py --topology=v5p:2x4x4
    python main.py --config=configs/llama2_7b.py --workdir=gs://BUCKET/runs/llama2_7b

Written for 32 chips of v5p, 4 rows on each: 0.5 million tokens a step, 135
billion in all (20 a parameter, Hoffmann et al. 2022).

Not run yet. Checked by a test: the count of parameters.

Plan (libtpu 0.0.42.1, splash attention): 15.0 GB of the 102.8 GB of a chip,
2.7 s a step, 6,100 tokens/s a chip, MFU 57 %; 190 hours for the whole run. With
config.model.remat = 'products', which keeps the results of matrix products:
58.7 GB, 2.3 s, 7,200 tokens/s, MFU 67 %; 162 hours.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration."""
  config = base.get_config()
  config.data.source = 'jsonl'
  config.data.files = ('data/web/*.jsonl.zst',)
  config.data.tokenizer.vocab_size = 32_000

  config.model.vocab_size = 32_000
  config.model.embed_dim = 4_096
  config.model.num_layers = 32
  config.model.num_heads = 32
  config.model.num_kv_heads = 32
  config.model.mlp_dim = 11_008
  config.model.norm_epsilon = 1e-5
  config.model.tie_embeddings = False
  config.model.remat = 'full'
  config.sequence_length = 4_096
  config.loss.z_loss = 1e-4

  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.batch_size = 128
  config.steps = 257_000
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup_steps = 2_000
  config.evaluation.every = 1_000
  config.checkpoint.every = 500
  return config
