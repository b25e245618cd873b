"""Large arrays of a step, known from the architecture and the mesh alone."""

import math
from collections.abc import Mapping

from model.config import ModelConfig
from train.config import TrainConfig
from train.planning.memory import Array


def is_fused(model: ModelConfig) -> bool:
  """Whether attention on an accelerator keeps its scores to itself."""
  # A model without the field has no fused attention; 'auto' finds one.
  return getattr(model, 'attention', 'xla') != 'xla'


def kept_values(config: TrainConfig, tensor: int) -> float:
  """Values of a layer that are kept for each token, in compute_dtype.

  As the remat policies in model/transformer.py name them. The layer's input is
  always kept; it is split over the devices of a tensor group where
  mesh.rules.residual_length names their axis.

  Args:
    config: the run.
    tensor: devices that split a layer.
  """
  model = config.model
  heads = 2 * model.num_heads + 2 * model.num_kv_heads
  attention = heads * model.head_dim / tensor
  mlp = (2 if model.gated else 1) * model.mlp_dim / tensor
  split = 'tensor' in dict(config.mesh.rules)['residual_length']
  D = model.embed_dim / (tensor if split else 1)
  if model.remat == 'full':
    return D
  if model.remat == 'attention':
    return D + attention
  if model.remat == 'projections':
    return 3 * D + attention + mlp
  # Beside the projections: norms' and activations' results.
  return 5 * D + attention + mlp + model.mlp_dim / tensor


def expected_arrays(
  config: TrainConfig, mesh: Mapping[str, int]
) -> list[Array]:
  """Large temporaries of one device, the largest first.

  They explain a step that did not compile, of which no program tells.

  Args:
    config: the run.
    mesh: devices along each mesh axis.
  """
  model, rules = config.model, dict(config.mesh.rules)

  def parts(axis: str) -> int:
    return math.prod(mesh[name] for name in rules[axis])

  tensor = parts('mlp')
  rows = config.batch_size // config.accumulation_steps // parts('batch')
  T, S = config.sequence_length // parts('length'), config.sequence_length
  L, vocab = model.num_layers, model.vocab_size // parts('vocab')
  value = 2 if model.compute_dtype == 'bfloat16' else 4
  kept = kept_values(config, tensor)
  chunk = min(config.loss.chunk, T)
  found = [
    Array(
      f'activations kept for the backward pass (model.remat = {model.remat!r})',
      f'{model.compute_dtype}[{L}, {rows}, {T}, {kept:.0f}]',
      'layers batch length kept',
      int(L * rows * T * kept * value),
    ),
    Array(
      'logits of a chunk of the loss (loss.chunk)',
      f'float32[{rows}, {chunk}, {vocab}]',
      'batch chunk vocab',
      rows * chunk * vocab * 4,
    ),
  ]
  if not is_fused(model):
    layers = L if model.remat == 'none' else 1
    heads = max(1, model.num_heads // parts('heads'))
    found.append(
      Array(
        f'scores of attention without a fused kernel, of '
        f'{"all layers" if layers > 1 else "one layer"}',
        f'float32[{layers}, {rows}, {heads}, {T}, {S}]',
        'layers batch heads length length',
        layers * rows * heads * T * S * (4 if layers == 1 else value),
      )
    )
  return sorted(found, key=lambda a: -a.bytes)
