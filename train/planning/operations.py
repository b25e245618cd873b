"""Operations and memory traffic of a step, from the architecture."""

from model.config import ModelConfig
from model.flops import matmul_parameters, mean_context
from train.config import TrainConfig
from train.planning.keeps import Keeps

# Reads and writes of activations of a layer beside its products, in values a
# token: norms, residuals, rotations and changes of layout (of D), gate and
# activation (of F). Counted in compiled programs: what is no product takes 239
# ms of Llama-2-7B on v5p and 326 ms of Llama-3-8B on v6e (docs/planning.md),
# which at the bandwidth of the memory are 60 to 120 values as wide as the
# model; most of it are rotations, which keep the vector unit busy.
_PASSES_D, _PASSES_F = 60, 6


def product_operations(config: TrainConfig, keeps: Keeps) -> float:
  """Operations of products with weights in a step, recomputation included."""
  tokens = config.batch_size * config.sequence_length
  again = recomputed_parameters(config, keeps)
  return tokens * (6 * matmul_parameters(config.model) + 2 * again)


def recomputed_parameters(config: TrainConfig, keeps: Keeps) -> int:
  """Values of the matrices of all layers whose products are computed again.

  Nothing in the backward pass needs the result of a layer's last product. That
  of a router is always computed again.
  """
  model, moe = config.model, config.model.moe
  if keeps.all:
    return 0
  D, H, F = model.embed_dim, model.head_dim, _feed_forward(model)
  router = D * moe.num_experts
  sizes = {
    'query': D * H * model.num_heads,
    'key': D * H * model.num_kv_heads,
    'value': D * H * model.num_kv_heads,
    'attention_out': D * H * model.num_heads,
    'mlp_up': D * F,
    'mlp_gate': D * F if model.gated or moe.num_experts else 0,
  }
  again = sum(size for name, size in sizes.items() if name not in keeps)
  return model.num_layers * (again + router)


def attention_products(keeps: Keeps, *, fused: bool) -> tuple[int, int]:
  """Operations of attention for a pair of positions and a value of its heads.

  Scores and weighted sum are two products, each of two operations. Fused
  attention computes scores twice; without, weights are computed again where
  anything is, and without a context their sum as well.

  Returns:
    Those of the forward pass, and of both.
  """
  context = 'context' in keeps
  if fused:
    return 4, 2 * (2 + 5) + (0 if context else 4)
  return 4, 12 + (0 if keeps.all else 2 if context else 4)


def attention_operations(
  config: TrainConfig, keeps: Keeps, *, fused: bool
) -> float:
  """Operations of attention in a step: fused, of visible pairs only."""
  model = config.model
  width = model.num_layers * model.num_heads * model.head_dim
  tokens = config.batch_size * config.sequence_length
  pairs = mean_context(model) if fused else config.sequence_length
  return tokens * width * pairs * attention_products(keeps, fused=fused)[1]


def touched(
  config: TrainConfig,
  keeps: Keeps,
  *,
  tokens: float,
  scores: float,
  wide: float,
  tensor: int,
) -> float:
  """Bytes read and written beside products, for a microbatch on a device.

  Args:
    config: the run.
    keeps: what is not computed again.
    tokens: of a microbatch on a device.
    scores: of a layer on a device, where attention writes them to memory.
    wide: values of the feed-forward layer for a token (keeps.widths): of a
      mixture also the rows that came for the experts of other devices.
    tensor: devices that split a layer.
  """
  model, value = config.model, value_bytes(config)
  passes = 3 if keeps.all else 4
  widths = _PASSES_D * model.embed_dim + _PASSES_F * wide
  found = tokens * value * passes / 3 * model.num_layers * widths
  # Scores are written and read in float32 and in compute_dtype.
  found += 2 * passes * scores * (4 + value) * model.num_layers
  # Logits: float32, written, read for the normaliser and for the gradient.
  return found + tokens * model.vocab_size / tensor * 4 * 4


def _feed_forward(model: ModelConfig) -> int:
  """Width of the feed-forward layer, of all experts of a token."""
  moe = model.moe
  if not moe.num_experts:
    return model.mlp_dim
  return moe.expert_dim * (moe.experts_per_token + moe.num_shared_experts)


def value_bytes(config: TrainConfig) -> int:
  """Bytes of a value in compute_dtype."""
  return 2 if config.model.compute_dtype == 'bfloat16' else 4
