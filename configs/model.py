"""Fields of the architecture; a part of configs/base.py."""

from ml_collections import ConfigDict, config_dict


def get_model() -> ConfigDict:
  """Architecture: a decoder-only transformer."""
  model = ConfigDict()
  # Rows of the embedding table: at least the tokenizer's vocabulary.
  model.vocab_size = 32_768
  # Width of the residual stream.
  model.embed_dim = 768
  model.num_layers = 12
  # Query heads.
  model.num_heads = 12
  # Key and value heads; they divide num_heads (grouped-query attention).
  model.num_kv_heads = 12
  # Size of one head; None: embed_dim / num_heads.
  model.head_dim = config_dict.placeholder(int)
  # Width of the feed-forward layer.
  model.mlp_dim = 2_048
  # 'swiglu', 'geglu' (gated) or 'gelu'.
  model.mlp = 'swiglu'
  model.moe = _moe()
  # 'rms' (RMSNorm) or 'layer' (LayerNorm).
  model.norm = 'rms'
  model.norm_epsilon = 1e-6
  # 'rope' (rotary) or 'learned' (a table of sequence_length rows).
  model.positions = 'rope'
  # Base wavelength of the rotary embedding.
  model.rope_theta = 10_000.0
  # Normalise queries and keys, head by head, before the rotary embedding.
  model.qk_norm = False
  # A token sees the last this many tokens, itself included; None: all.
  model.sliding_window = config_dict.placeholder(int)
  # tanh soft-cap of attention scores and of output logits; None: off.
  model.attention_softcap = config_dict.placeholder(float)
  model.logits_softcap = config_dict.placeholder(float)
  # One table for input embedding and output head.
  model.tie_embeddings = True
  # Bias vectors in the linear layers and LayerNorms.
  model.use_bias = False
  _parametrization(model)
  # Dropout rates.
  model.embedding_dropout = 0.0
  model.attention_dropout = 0.0
  model.residual_dropout = 0.0
  model.mlp_dropout = 0.0
  # Compute in this type ('bfloat16' or 'float32'); parameters are float32.
  model.compute_dtype = 'bfloat16'
  # Add up the gradients of matrices over the devices in this type; 'bfloat16'
  # halves what they send, and rounds each partial sum.
  model.gradient_dtype = 'float32'
  _attention(model)
  # One compiled layer run in a loop (fast to compile), or all layers unrolled
  # (a little faster to run, and to compile as long as they are few).
  model.scan_layers = True
  # What the backward pass recomputes (rematerialisation): 'none' keeps all
  # activations, 'products' keeps the results of all matrix products,
  # 'projections' of those with weights, 'attention' keeps queries, keys, values
  # and what attention makes of them, 'full' keeps the inputs of layers only.
  model.remat = 'none'
  return model


def _parametrization(model: ConfigDict) -> None:
  """Initial values, and what holds at any width and depth."""
  # Standard deviation of the initial weights; the matrices that write into
  # the residual stream get it divided by sqrt(2 num_layers) (GPT-2).
  model.init_std = 0.02
  # The output head starts at zero, and so do the logits.
  model.zero_head = False
  # How they and updates change with width and depth, so that hyper-parameters
  # found at one shape hold at others: 'spectral' (for optimizer.name 'muon'; it
  # has a zero head), 'completep' (for 'adamw') or 'standard' (not at all);
  # docs/transfer.md has their rules.
  model.parametrization = 'standard'
  # embed_dim and num_layers at which the hyper-parameters were found; None: the
  # model's own. There a parametrization changes nothing with width and depth.
  model.base_embed_dim = config_dict.placeholder(int)
  model.base_num_layers = config_dict.placeholder(int)


def _attention(model: ConfigDict) -> None:
  """How attention is computed, not what."""
  # What computes attention: 'splash' (fused, on TPUs), 'cudnn' (fused, on GPUs)
  # or 'xla' (anywhere; memory grows with the square of the row). A kernel that
  # does not support what the model asks for is an error; docs/parallelism.md
  # has the table. 'auto' takes the fused one of the devices where it supports
  # all, else 'xla', and the run says why. ('splash_interpreted': for tests.)
  model.attention = 'auto'
  # How attention works where mesh.context splits rows: 'all_gather' gathers
  # keys and values, 'ring' passes them round, 'ulysses' splits heads instead.
  model.context_parallelism = 'all_gather'
  # Blocks of splash, at most: queries and keys on the chip at a time.
  model.splash_block_q = 512
  model.splash_block_kv = 1_024
  # One backward kernel in place of two: fewer operations, but memory that grows
  # with the square of the row (one gradient of the queries a block of keys).
  model.splash_fused_backward = False


def _moe() -> ConfigDict:
  """Mixture of experts in place of each feed-forward layer."""
  moe = ConfigDict()
  # 0: off, one feed-forward layer for all tokens.
  moe.num_experts = 0
  # Experts that each token goes to; none is dropped.
  moe.experts_per_token = 2
  # Experts that every token goes to, besides.
  moe.num_shared_experts = 0
  # Width of an expert; None: model.mlp_dim.
  moe.expert_dim = config_dict.placeholder(int)
  # The router's scores: 'softmax' over all experts (Mixtral, DeepSeek-V2) or
  # 'sigmoid' of each (DeepSeek-V3).
  moe.score = 'softmax'
  # Divide the scores of a token's experts by their sum; then multiply by scale.
  moe.normalize_weights = True
  moe.weight_scale = 1.0
  # Weight of the load-balancing loss (Switch Transformer: 0.01) and of the
  # router's z-loss (ST-MoE: 0.001); means over layers and tokens.
  moe.balance_loss = 0.01
  moe.router_z_loss = 0.001
  # Balance without a loss: each step moves a bias for the choice of an expert
  # by this much towards equal load (DeepSeek-V3: 0.001); 0: off.
  moe.balance_rate = 0.0
  # What multiplies tokens with the matrices of their experts: 'megablox' (the
  # gradient of matrices on TPUs from v5e on), 'hopper' (on H100 and H200, in
  # bfloat16, sizes in multiples of 128) or 'xla' (anywhere; where it has no
  # kernel it multiplies with every expert); 'auto' takes the first that can.
  # ('megablox_interpreted': for tests.)
  moe.kernel = 'auto'
  return moe
