"""GPT-2 small (Radford et al. 2019): 124 million parameters.

The architecture of the published model: learned positions, LayerNorm with
biases, GELU, tied embeddings, a row of 1,024 tokens; its vocabulary of 50,257
is padded to 50,304 rows. Schedule and batch are those common in reproductions:
0.5 million tokens a step, 10 billion in all.

    python main.py --config=configs/gpt2_124m.py --workdir=runs/gpt2

Give the documents in `data.files`. For GPT-2's own vocabulary name its
tokenizer.json, behind which Meshwork adds its marks:

    --config.data.tokenizer.kind=file --config.data.tokenizer.path=FILE

Not run to its end yet. Checked by a test: the count of parameters, 124.5
million with the padding.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration."""
  config = base.get_config()
  config.data.source = 'jsonl'
  config.data.files = ('data/web/*.jsonl.zst',)
  config.data.tokenizer.vocab_size = 50_304

  config.model.vocab_size = 50_304
  config.model.embed_dim = 768
  config.model.num_layers = 12
  config.model.num_heads = 12
  config.model.num_kv_heads = 12
  config.model.mlp_dim = 3_072
  config.model.mlp = 'gelu'
  config.model.norm = 'layer'
  config.model.norm_epsilon = 1e-5
  config.model.positions = 'learned'
  config.model.use_bias = True
  config.sequence_length = 1_024

  config.batch_size = 480
  config.steps = 20_000
  config.optimizer.learning_rate = 6e-4
  config.optimizer.warmup_steps = 700
  config.evaluation.every = 500
  config.checkpoint.every = 1_000
  return config
