"""A model shaped like Llama 3 8B (Dubey et al. 2024): 8.03 billion parameters.

32 layers of 4,096, 32 query heads that share 8 of keys and values, SwiGLU of
14,336, RMSNorm, rotary positions with base 500,000, untied embeddings over a
vocabulary of 128,256, rows of 8,192.

    python main.py plan --config=configs/llama3_8b.py --topology=v6e:8x8
    python main.py --config=configs/llama3_8b.py --workdir=gs://BUCKET/runs/llama3_8b

Written for 64 chips of v6e, 2 rows on each: 1 million tokens a step, 160
billion in all (20 a parameter).

Not run yet. Checked by a test: the count of parameters.

Plan (libtpu 0.0.42.1, splash attention): 15.0 GB of the 33.5 GB of a chip,
2.9 s a step, 5,700 tokens/s a chip, MFU 32 %; 122 hours for the whole run. Of a
step, 0.5 s wait for collectives: more rows a chip make that less
(docs/planning.md).
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
  config.model.embed_dim = 4_096
  config.model.num_layers = 32
  config.model.num_heads = 32
  config.model.num_kv_heads = 8
  config.model.mlp_dim = 14_336
  config.model.norm_epsilon = 1e-5
  config.model.rope_theta = 500_000.0
  config.model.tie_embeddings = False
  config.model.remat = 'full'
  config.sequence_length = 8_192
  config.loss.z_loss = 1e-4

  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.batch_size = 128
  config.steps = 153_000
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup_steps = 2_000
  config.evaluation.every = 1_000
  config.checkpoint.every = 500
  return config
