"""Large arrays of a step, known from the architecture and the mesh alone."""

import math
from collections.abc import Mapping

from model.config import ModelConfig
from train.config import TrainConfig
from train.planning.keeps import Keeps, kept_by, widths
from train.planning.memory import Array


def is_fused(model: ModelConfig) -> bool:
  """Whether attention on an accelerator keeps its scores to itself."""
  # A model without the field has no fused attention; 'auto' finds one.
  return getattr(model, 'attention', 'xla') != 'xla'


def kept_values(
  config: TrainConfig, mesh: Mapping[str, int], keeps: Keeps
) -> float:
  """Values of a layer that the device keeps for each token, in compute_dtype.

  Args:
    config: the run.
    mesh: devices along each mesh axis.
    keeps: what is kept, by name.
  """
  width = widths(config, mesh)
  found = sum(width[name] for name in keeps.device)
  if keeps.all:
    # Beside what has a name: results of norms and of the activation.
    found += 2 * width['layer_input'] + width['mlp_up']
  return found


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

  rows = config.batch_size // config.accumulation_steps // parts('batch')
  T, S = config.sequence_length // parts('length'), config.sequence_length
  L, vocab = model.num_layers, model.vocab_size // parts('vocab')
  value = 2 if model.compute_dtype == 'bfloat16' else 4
  kept = kept_values(config, mesh, kept_by(model))
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
