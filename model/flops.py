"""Floating-point operations of training, counted from the architecture.

The count is of the model, not of the hardware: recomputation is left out, and
attention is counted once over the positions that a token can see (half of the
row on average, less under a sliding window). A multiply-add is two operations;
the backward pass costs twice the forward pass.
"""

from model.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
  """Values of the matrices that every token is multiplied with."""
  D, H = config.embed_dim, config.head_dim
  attention = 2 * D * H * (config.num_heads + config.num_kv_heads)
  mlp = (3 if config.gated else 2) * D * config.mlp_dim
  if config.moe.num_experts:
    moe = config.moe
    active = moe.experts_per_token + moe.num_shared_experts
    mlp = D * (moe.num_experts + 3 * active * moe.expert_dim)
  return config.num_layers * (attention + mlp) + D * config.vocab_size


def mean_context(config: ModelConfig) -> float:
  """Positions that a token of a full row sees on average, itself included."""
  T = config.max_length
  W = min(T, config.sliding_window or T)
  # The first W tokens see 1, 2, ... W positions, the others W.
  return (W * (W + 1) / 2 + (T - W) * W) / T


def training_flops_per_token(config: ModelConfig) -> float:
  """Operations to train on one token: forward and backward.

  6 for each matrix value, and 12 N H c for each layer's attention (scores and
  weighted sum), where c is the mean number of visible positions.
  """
  attention = config.num_layers * config.num_heads * config.head_dim
  return 6.0 * matmul_parameters(config) + 12.0 * attention * mean_context(
    config
  )
