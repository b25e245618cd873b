"""A model shaped like Mixtral 8x7B (Jiang et al. 2024): 46.7e9 parameters.

32 layers of 4,096, 32 query heads that share 8 of keys and values, RMSNorm,
rotary positions with base 1,000,000, untied embeddings over a vocabulary of
32,000, and 8 SwiGLU experts of 14,336, of which each token goes to 2: 12.9
billion parameters take part in a token.

    python main.py plan --config=configs/mixtral_8x7b.py --topology=v5p:4x4x8
    python main.py --config=configs/mixtral_8x7b.py --workdir=gs://BUCKET/runs/mixtral

Written for 128 chips of v5p, 4 rows on each: 2 million tokens a step, 260
billion in all (20 an active parameter). Everything is split over all chips, and
experts are gathered like any other parameter: with one expert on each device of
a group of 8 (mesh.expert = 8) every device holds the rows of all 8 of them, for
all may choose its expert. A step then takes 7.0 s and 49.4 GB, in place of
6.6 s and 26.4 GB.

Not run yet. Checked by a test: the count of parameters.

Plan (libtpu 0.0.42.1, splash attention): 26.4 GB of the 102.8 GB of a chip,
6.6 s a step, 2,486 tokens/s a chip, MFU 43 %; 227 hours for the whole run. With
the 36 rows of published runs (batch_size = 4608): 133.9 GB by the compiler's
sum, which it places in less, 40.7 s, 3,626 tokens/s, MFU 63 %
(docs/planning.md).
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
  config.model.num_kv_heads = 8
  config.model.mlp_dim = 14_336
  config.model.norm_epsilon = 1e-5
  config.model.rope_theta = 1_000_000.0
  config.model.tie_embeddings = False
  config.model.remat = 'full'
  config.model.moe.num_experts = 8
  config.model.moe.experts_per_token = 2
  config.sequence_length = 4_096
  config.loss.z_loss = 1e-4

  config.mesh.data = 1
  config.mesh.fsdp = -1
  config.batch_size = 512
  config.steps = 124_000
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup_steps = 2_000
  config.evaluation.every = 1_000
  config.checkpoint.every = 500
  return config
