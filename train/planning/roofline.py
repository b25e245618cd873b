"""Time and memory of a step by arithmetic, without compiling anything.

Of GPUs this is the plan. Of TPUs it only decides what is worth compiling.
Of products and attention, a mesh is taken to divide the work evenly.
"""

import dataclasses
import math
from collections.abc import Mapping

from model.flops import matmul_parameters, mean_context
from train.chips import Chip
from train.config import TrainConfig
from train.planning.expected import is_fused, kept_values
from train.planning.layout import Layout

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


def product_operations(config: TrainConfig) -> float:
  """Operations of products with weights in a step, recomputation included."""
  model = config.model
  head = model.embed_dim * model.vocab_size
  layers = matmul_parameters(model) - head
  # Nothing in the backward pass needs the result of a layer's last product.
  down = model.num_layers * model.embed_dim * model.mlp_dim
  heads = model.num_heads + model.num_kv_heads
  # 'attention' keeps queries, keys, values and context: of its products, it
  # computes only the last again.
  projections = 2 * heads - model.num_heads
  kept = model.num_layers * model.embed_dim * model.head_dim * projections
  again = {'full': layers - down, 'attention': layers - down - kept}
  tokens = config.batch_size * config.sequence_length
  return tokens * (6 * (layers + head) + 2 * again.get(model.remat, 0))


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
  # The weights are computed again, and with 'full' the weighted sum as well.
  again = {'none': 0, 'full': 4}.get(model.remat, 2)
  return tokens * width * config.sequence_length * (12 + again)


def estimate(
  layout: Layout, *, chip: Chip, bandwidth: Mapping[str, float]
) -> Estimate:
  """A step by the roofline.

  Args:
    layout: the run on its mesh.
    chip: the chips.
    bandwidth: bytes a second that a device receives along each mesh axis.

  Raises:
    ValueError: the mesh has pipeline stages, of which the roofline knows
      nothing.
  """
  config, model = layout.config, layout.config.model
  if layout.mesh['stage'] > 1:
    raise ValueError(
      f'mesh.stage is {layout.mesh["stage"]}: there is no estimate for '
      'pipelines. Set mesh.stage to 1, or plan for TPUs, where the step is '
      'compiled.'
    )
  fused, devices = is_fused(model), math.prod(layout.mesh.values())
  tensor, memory = layout.parts('mlp'), chip.hbm_bandwidth / chip.devices
  rows = config.batch_size / config.accumulation_steps / layout.parts('batch')
  tokens = rows * config.sequence_length / layout.parts('length')
  state = sum(layout.bytes.values())

  rate = chip.device_peak * devices
  products = product_operations(config) / (rate * PRODUCT_EFFICIENCY)
  attention = attention_operations(config, fused) / rate
  attention /= ATTENTION_EFFICIENCY if fused else PRODUCT_EFFICIENCY
  # Of a layer on a device, at a time.
  scores = tokens * config.sequence_length * model.num_heads
  scores = 0 if fused else scores / layout.parts('heads')
  elementwise = _touched(config, tokens, scores, tensor) / memory
  collectives = _communication(layout, bandwidth, tokens)
  gathers = sum(s for axis, s in collectives.items() if axis != 'tensor')
  exposed = collectives.get('tensor', 0.0)
  exposed += max(0.0, gathers - HIDDEN * (products + attention))
  kept, working = _activations(layout, tokens, scores)
  return Estimate(
    products=products,
    attention=attention,
    elementwise=elementwise * config.accumulation_steps,
    update=2 * state / memory,
    collectives=collectives,
    exposed=exposed,
    kept=int(kept),
    working=int(working),
    state=state,
    usable=int(chip.usable_hbm / chip.devices),
  )


def _value_bytes(config: TrainConfig) -> int:
  return 2 if config.model.compute_dtype == 'bfloat16' else 4


def _touched(
  config: TrainConfig, tokens: float, scores: float, tensor: int
) -> float:
  """Bytes read and written beside products, for a microbatch on a device."""
  model, value = config.model, _value_bytes(config)
  passes = 3 if model.remat == 'none' else 4
  widths = _PASSES_D * model.embed_dim + _PASSES_F * model.mlp_dim / tensor
  touched = tokens * value * passes / 3 * model.num_layers * widths
  # Scores are written and read in float32 and in compute_dtype.
  touched += 2 * passes * scores * (4 + value) * model.num_layers
  # Logits: float32, written, read for the normaliser and for the gradient.
  return touched + tokens * model.vocab_size / tensor * 4 * 4


def _activations(
  layout: Layout, tokens: float, scores: float
) -> tuple[float, float]:
  """Bytes kept for the backward pass, and those at work at a time."""
  config, model = layout.config, layout.config.model
  value, tensor = _value_bytes(config), layout.parts('mlp')
  layer = matmul_parameters(model) / model.num_layers / tensor
  vocabulary = model.vocab_size * model.embed_dim / tensor
  chunk = tokens / config.sequence_length * config.loss.chunk
  # Gradients, and their sum where the batch comes in slices.
  copies = 1 if config.accumulation_steps == 1 else 2
  working: float = copies * layout.bytes['parameters']
  working += 2 * layer * value + vocabulary * (value + 4)
  working += chunk * model.vocab_size / tensor * 10
  working += tokens * value * 6 * (model.embed_dim + model.mlp_dim / tensor)
  working += scores * (4 + 2 * value)
  kept = model.num_layers * tokens * value * kept_values(config, tensor)
  if model.remat == 'none':
    kept += scores * value * model.num_layers
  return kept, working


def _communication(
  layout: Layout, bandwidth: Mapping[str, float], tokens: float
) -> dict[str, float]:
  """Seconds of communication along each mesh axis in a step.

  Axes that split parameters gather them in compute_dtype forward and backward
  and scatter float32 gradients, in each slice of the batch; 'tensor' reduces
  the activations of each layer twice forward and twice backward, twice more
  where the layer is recomputed; 'context' gathers keys and values forward and
  backward and scatters their gradients; others reduce gradients.
  """
  config, model = layout.config, layout.config.model
  value, slices = _value_bytes(config), config.accumulation_steps
  rules = dict(config.mesh.rules)
  # Values of what a device holds gathered: a tensor group's part.
  gathered = layout.bytes['parameters'] / 4 * layout.parts('embed')
  row_tokens = tokens * layout.parts('length')
  found: dict[str, float] = {}
  for axis, size in layout.mesh.items():
    if size == 1:
      continue
    share, moved = (size - 1) / size, 0.0
    if axis in rules['embed']:
      moved += gathered * (2 * value + 4) * share * slices
    elif axis in rules['batch']:
      moved += 2 * share * layout.bytes['parameters'] * slices
    if axis in rules['length']:
      keys = 2 * model.num_kv_heads * model.head_dim / layout.parts('heads')
      moved += 3 * share * row_tokens * keys * value * model.num_layers * slices
    if axis in rules['mlp']:
      again = 2 if model.remat in ('full', 'attention') else 0
      reduced = (4 + again) * 2 * share * model.num_layers
      moved += reduced * tokens * slices * model.embed_dim * value
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
