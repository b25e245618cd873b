"""Time and memory of a step by arithmetic, without compiling anything.

Of GPUs this is the plan. Of TPUs it only decides what is worth compiling.
Suffixes of comments: B rows of a device, T length, D, F, N, K, H, V as in
model/, L layers.
"""

import dataclasses
import math
from collections.abc import Mapping

from model.flops import matmul_parameters, mean_context
from train.chips import Chip
from train.config import TrainConfig

# What real programs reach, stated once and the same for every chip: large
# products on matrix units, fused attention on what it must compute, and the
# part of matrix time behind which gathers of parameters can hide.
PRODUCT_EFFICIENCY = 0.75
ATTENTION_EFFICIENCY = 0.5
HIDDEN = 0.9
# Reads and writes of activations of a layer beside its products, in values a
# token: norms, residuals and rotations (of D), gate and activation (of F).
_PASSES_D, _PASSES_F = 24, 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  """A part of the state or model on one device.

  Attributes:
    state: bytes of parameters, optimizer and average.
    parameters: bytes of the parameters alone, in float32.
  """

  state: int
  parameters: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A step on one device, in seconds and bytes.

  Attributes:
    products, attention, elementwise, update: of computing.
    collectives: of communication, by mesh axis, all of it.
    exposed: what of it computing cannot hide.
    kept: activations that wait for the backward pass.
    working: gradients, gathered parameters, scores and logits.
    state: of parameters, optimizer and average.
    usable: memory that there is.
  """

  products: float
  attention: float
  elementwise: float
  update: float
  collectives: dict[str, float]
  exposed: float
  kept: int
  working: int
  state: int
  usable: int

  @property
  def seconds(self) -> float:
    """Of a step."""
    return (
      self.products
      + self.attention
      + self.elementwise
      + self.update
      + self.exposed
    )

  @property
  def bytes(self) -> int:
    """Memory that a step needs."""
    return self.kept + self.working + self.state


def kept_values(config: TrainConfig, tensor: int) -> float:
  """Values of a layer that are kept for each token, in compute_dtype.

  As the remat policies in model/transformer.py name them; the layer's input is
  always kept, and is whole on every device of a tensor group.
  """
  model = config.model
  D = model.embed_dim
  attention = (
    (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim / tensor
  )
  mlp = (2 if model.gated else 1) * model.mlp_dim / tensor
  if model.remat == 'full':
    return D
  if model.remat == 'attention':
    return D + attention
  if model.remat == 'projections':
    return 3 * D + attention + mlp
  # Beside the projections: norms' and activations' results.
  return 5 * D + attention + mlp + model.mlp_dim / tensor


def product_operations(config: TrainConfig) -> float:
  """Operations of products with weights in a step, recomputation included."""
  model = config.model
  head = model.embed_dim * model.vocab_size
  layers = matmul_parameters(model) - head
  again = {'full': 1, 'attention': 1}.get(model.remat, 0)
  tokens = config.batch_size * config.sequence_length
  return tokens * ((6 + 2 * again) * layers + 6 * head)


def attention_operations(config: TrainConfig, fused: bool) -> float:
  """Operations of scores and weighted sums in a step.

  Fused attention computes visible pairs only, and scores twice; the other
  computes all pairs, and again where its results are not kept.
  """
  model = config.model
  width = model.num_layers * model.num_heads * model.head_dim
  tokens = config.batch_size * config.sequence_length
  if fused:
    again = 1 if model.remat == 'full' else 0
    pairs = mean_context(model)
    return tokens * width * pairs * (2 * (2 + 5) + 4 * again)
  again = 0 if model.remat == 'none' else 1
  return tokens * width * config.sequence_length * (12 + 4 * again)


def estimate(
  config: TrainConfig,
  *,
  chip: Chip,
  mesh: Mapping[str, int],
  bandwidth: Mapping[str, float],
  parts: Parts,
  fused_attention: bool,
) -> Estimate:
  """A step by the roofline.

  Args:
    config: the run.
    chip: the chips.
    mesh: devices along each mesh axis; 'fsdp' splits parameters, 'tensor'
      layers, all others the batch.
    bandwidth: bytes a second that a device receives along each axis.
    parts: what a device holds of the state.
    fused_attention: whether scores stay out of memory.
  """
  model = config.model
  devices = math.prod(mesh.values())
  tensor = mesh.get('tensor', 1)
  slices = config.accumulation_steps
  rows = config.batch_size / slices / (devices / tensor)
  tokens = rows * config.sequence_length  # Of a device, at a time.
  memory = chip.hbm_bandwidth / chip.devices
  peak = chip.device_peak
  value = 2 if model.compute_dtype == 'bfloat16' else 4

  products = product_operations(config) / devices / (peak * PRODUCT_EFFICIENCY)
  attention = attention_operations(config, fused_attention) / devices
  attention /= peak * (
    ATTENTION_EFFICIENCY if fused_attention else PRODUCT_EFFICIENCY
  )
  scores = rows * model.num_heads / tensor * config.sequence_length**2
  passes = 3 if model.remat == 'none' else 4
  touched = tokens * value * passes / 3 * model.num_layers
  touched *= _PASSES_D * model.embed_dim + _PASSES_F * model.mlp_dim / tensor
  if not fused_attention:
    # Scores are written and read in float32 and in compute_dtype.
    touched += 2 * passes * scores * (4 + value) * model.num_layers
  # Logits: float32, written, read for the normaliser and for the gradient.
  touched += tokens * model.vocab_size / tensor * 4 * 4
  elementwise = touched * slices / memory
  update = 2 * parts.state / memory

  collectives = _communication(
    config, mesh, bandwidth, parts, tokens=tokens, value=value
  )
  hidden = HIDDEN * (products + attention)
  gathers = sum(s for axis, s in collectives.items() if axis != 'tensor')
  exposed = collectives.get('tensor', 0.0) + max(0.0, gathers - hidden)

  layer = (matmul_parameters(model)) / model.num_layers / tensor
  vocabulary = model.vocab_size * model.embed_dim / tensor
  chunk = rows * config.loss.chunk * model.vocab_size / tensor
  working = parts.parameters * (1 if slices == 1 else 2)
  working += 2 * layer * value + vocabulary * (value + 4) + chunk * 10
  working += tokens * value * (6 * model.embed_dim + 6 * model.mlp_dim / tensor)
  kept = model.num_layers * tokens * value * kept_values(config, tensor)
  if not fused_attention:
    working += scores * (4 + 2 * value)
    kept += scores * value * model.num_layers * (model.remat == 'none')
  return Estimate(
    products=products,
    attention=attention,
    elementwise=elementwise,
    update=update,
    collectives=collectives,
    exposed=exposed,
    kept=int(kept),
    working=int(working),
    state=parts.state,
    usable=int(chip.usable_hbm / chip.devices),
  )


def _communication(
  config: TrainConfig,
  mesh: Mapping[str, int],
  bandwidth: Mapping[str, float],
  parts: Parts,
  *,
  tokens: float,
  value: int,
) -> dict[str, float]:
  """Seconds of communication along each mesh axis in a step.

  'fsdp' gathers the parameters in compute_dtype forward and backward and
  scatters float32 gradients, in each slice of the batch; 'tensor' reduces the
  activations of each layer twice forward and twice backward, once more each
  where the layer is recomputed; others reduce gradients.
  """
  model, slices = config.model, config.accumulation_steps
  found: dict[str, float] = {}
  fsdp = mesh.get('fsdp', 1)
  gathered = parts.parameters / 4 * fsdp  # Values of a tensor group's part.
  for axis, size in mesh.items():
    if size == 1:
      continue
    share = (size - 1) / size
    if axis == 'fsdp':
      moved = gathered * (2 * value + 4) * share * slices
    elif axis == 'tensor':
      again = 2 if model.remat in ('full', 'attention') else 0
      moved = (4 + again) * 2 * share * model.num_layers
      moved *= tokens * slices * model.embed_dim * value
    else:
      moved = 2 * share * parts.parameters * slices
    found[axis] = moved / bandwidth[axis]
  return found


def gpu_bandwidth(
  chip: Chip, mesh: Mapping[str, int], gpus_a_host: int
) -> dict[str, float]:
  """Bytes a second that a GPU receives along each mesh axis.

  The last axes lie within a host, on NVLink; an axis that leaves it is as fast
  as the network adapter of each GPU, times the GPUs of the host that share the
  traffic of one group.
  """
  found, inner = {}, 1
  for axis, size in reversed(list(mesh.items())):
    outer = inner * size
    if outer <= gpus_a_host:
      found[axis] = chip.ici_bandwidth
    else:
      together = max(1, gpus_a_host // inner)
      found[axis] = min(chip.ici_bandwidth, chip.dcn_bandwidth * together)
    inner = outer
  return found
