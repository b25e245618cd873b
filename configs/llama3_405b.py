"""A model shaped like Llama 3 405B (Dubey et al. 2024): 406 billion parameters.

126 layers of 16,384, 128 query heads that share 8 of keys and values, SwiGLU
of 53,248, RMSNorm, rotary positions with base 500,000, untied embeddings over a
vocabulary of 128,256, rows of 8,192.

    python main.py plan --config=configs/llama3_405b.py --topology=v5p:8x8x8
    python main.py --config=configs/llama3_405b.py --workdir=gs://BUCKET/runs/llama3_405b

Written for 512 chips of v5p, a row on each: 4 million tokens a step, 8.1
trillion in all (20 a parameter). The published model saw 15.6 trillion.

Not run yet. Checked by a test: the count of parameters.

Plan (libtpu 0.0.42.1, splash attention): 80.9 GB of the 102.8 GB of a chip,
79.4 s a step, 103 tokens/s a chip, MFU 57 %; 42,700 hours for the whole run. Of
a step, 12.5 s wait for collectives; 2 rows a chip would halve that for a token,
and do not fit without activations in the memory of the host.
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
  config.model.embed_dim = 16_384
  config.model.num_layers = 126
  config.model.num_heads = 128
  config.model.num_kv_heads = 8
  config.model.mlp_dim = 53_248
  config.model.norm_epsilon = 1e-5
  config.model.rope_theta = 500_000.0
  config.model.tie_embeddings = False
  config.model.remat = 'full'
  config.sequence_length = 8_192
  config.loss.z_loss = 1e-4

  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.batch_size = 512
  config.steps = 1_936_000
  config.optimizer.learning_rate = 8e-5
  config.optimizer.warmup_steps = 2_000
  config.evaluation.every = 1_000
  config.checkpoint.every = 500
  return config
