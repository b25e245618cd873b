"""Time and memory of a step by arithmetic, without compiling anything.

Of GPUs this is the plan. Of TPUs it only decides what is worth compiling.
Of products and attention, a mesh is taken to divide the work evenly.
"""

import dataclasses
import math
from collections.abc import Mapping

from model.flops import matmul_parameters
from model.grouped_kernels import resolve_grouped
from train.chips import Chip
from train.planning.expected import is_fused, kept_values
from train.planning.keeps import Keeps, kept_by, widths
from train.planning.kernels import attention_rate
from train.planning.layout import Layout
from train.planning.operations import (
  attention_operations,
  attention_products,
  product_operations,
  touched,
  value_bytes,
)

# What a step of training keeps of the speed that a chip has when it does
# nothing but multiply large matrices: other shapes, a clock that falls under
# load, gaps between kernels. The one constant that is chosen by published runs
# (benchmarks/plan_published.py), the same for every chip.
SUSTAINED = 0.84
# The part of the time of products and attention behind which gathers of
# parameters, and copies to and from the host in each pass, can hide.
HIDDEN = 0.9
# Mesh axes whose traffic computing waits for: parts of sums, tokens for their
# experts, rows for the next stage.
_WAITED_FOR = ('tensor', 'expert', 'stage')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A step on one device, in seconds and bytes.

  Attributes:
    products, attention, elementwise, update: of computing.
    collectives: of communication, by mesh axis, all of it.
    exposed: what of it computing cannot hide.
    copies: seconds of copies to the host's memory and back, all of them.
    waiting: what of these computing cannot hide.
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
  copies: float
  waiting: float
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
      + self.waiting
    )

  @property
  def bytes(self) -> int:
    """Memory that a step needs."""
    return self.kept + self.working + self.state


def estimate(
  layout: Layout,
  *,
  chip: Chip,
  bandwidth: Mapping[str, float],
  keeps: Keeps | None = None,
) -> Estimate:
  """A step by the roofline.

  Args:
    layout: the run on its mesh.
    chip: the chips.
    bandwidth: bytes a second that a device receives along each mesh axis.
    keeps: what layers keep for the backward pass; None: as the run says.
  """
  config, model = layout.config, layout.config.model
  keeps = keeps or kept_by(model)
  memory = chip.hbm_bandwidth / chip.devices
  rows = config.batch_size / config.accumulation_steps / layout.parts('batch')
  tokens = rows * config.sequence_length / layout.parts('length')
  state = sum(layout.bytes.values())

  products, attention = _computing(layout, chip, keeps)
  # Of a layer on a device, at a time.
  microbatches, ticks = layout.ticks
  scores = tokens / microbatches * config.sequence_length * model.num_heads
  scores = 0 if is_fused(model) else scores / layout.parts('heads')
  elementwise = touched(
    config,
    keeps,
    tokens=tokens,
    scores=scores * microbatches,
    wide=widths(config, layout.mesh)['mlp_up'],
    tensor=layout.parts('mlp'),
  )
  # A stage has its part of the layers, and of what follows them, and computes
  # on zeros where it waits.
  elementwise *= ticks / microbatches / layout.stages / memory
  collectives = _communication(layout, bandwidth, tokens, keeps)
  exposed = sum(collectives.get(axis, 0.0) for axis in _WAITED_FOR)
  gathers = sum(collectives.values()) - exposed
  hidden = min(chip.hides * gathers, HIDDEN * (products + attention))
  exposed += gathers - hidden
  every = tokens * config.accumulation_steps
  copies, waiting = _copies(layout, chip, every, keeps, products, attention)
  kept, working = _activations(layout, tokens, scores, keeps)
  return Estimate(
    products=products,
    attention=attention,
    elementwise=elementwise * config.accumulation_steps,
    update=2 * state / memory,
    collectives=collectives,
    exposed=exposed,
    copies=copies,
    waiting=waiting,
    kept=int(kept),
    working=int(working),
    state=state,
    usable=int(chip.usable_hbm / chip.devices),
  )


def _computing(layout: Layout, chip: Chip, keeps: Keeps) -> tuple[float, float]:
  """Seconds of products with weights, and of attention.

  With stages, layers are computed in every tick, on zeros where there is no
  microbatch; what follows them is split over the stages (model/pipeline.py).
  """
  config, model = layout.config, layout.config.model
  devices, fused = math.prod(layout.mesh.values()), is_fused(model)
  rate = SUSTAINED * devices * chip.matmul / chip.devices
  microbatches, ticks = layout.ticks
  idle = ticks / microbatches
  tokens = config.batch_size * config.sequence_length
  head = 6 * tokens * model.embed_dim * model.vocab_size
  layers = product_operations(config, keeps) - head
  layers *= _repeated(layout, chip)
  products = (idle * layers + head) / rate
  if fused:
    rate = SUSTAINED * devices * attention_rate(chip, model.head_dim)
  attention = attention_operations(config, keeps, fused=fused)
  return products, idle * attention / rate


def _repeated(layout: Layout, chip: Chip) -> float:
  """Products of layers that are computed for each that is needed.

  Without a kernel for them, a GPU multiplies each row with every expert.
  """
  model, moe = layout.config.model, layout.config.model.moe
  if chip.is_tpu or not moe.num_experts:
    return 1.0
  decided = resolve_grouped(
    model, device_kind=chip.device_kinds[0], mesh_shape=layout.mesh
  )
  if decided.moe.kernel != 'xla':
    return 1.0
  experts = 3 * model.embed_dim * moe.expert_dim * moe.experts_per_token
  head = model.embed_dim * model.vocab_size
  all_layers = matmul_parameters(model) - head
  share = model.num_layers * experts / all_layers
  return 1 + share * (moe.num_experts - 1)


def _copies(
  layout: Layout,
  chip: Chip,
  tokens: float,
  keeps: Keeps,
  products: float,
  attention: float,
) -> tuple[float, float]:
  """Seconds of copies to the host and back, and those that do not hide.

  What layers leave there in the forward pass hides behind what that computes, a
  third of the products that are not recomputation; what they fetch in the
  backward pass hides behind the rest.
  """
  config = layout.config
  width = sum(widths(config, layout.mesh)[name] for name in keeps.host)
  layers = config.model.num_layers / layout.stages
  size = layers * tokens * width * value_bytes(config)
  one_way = size / (chip.host_bandwidth / chip.devices)
  in_all = config.batch_size * config.sequence_length
  share = 2 * matmul_parameters(config.model) * in_all
  forward = products * share / product_operations(config, keeps)
  some, every = attention_products(keeps, fused=is_fused(config.model))
  forward += attention * some / every
  passes = forward, products + attention - forward
  waiting = sum(max(0.0, one_way - HIDDEN * seconds) for seconds in passes)
  return 2 * one_way, waiting


def _activations(
  layout: Layout, tokens: float, scores: float, keeps: Keeps
) -> tuple[float, float]:
  """Bytes kept for the backward pass, and those at work at a time."""
  config, model = layout.config, layout.config.model
  value, tensor = value_bytes(config), layout.parts('mlp')
  layer = _layer_values(layout)
  vocabulary = model.vocab_size * model.embed_dim / tensor
  chunk = tokens / config.sequence_length * config.loss.chunk / layout.stages
  # Gradients, and their sum where the batch comes in slices.
  copies = 1 if config.accumulation_steps == 1 else 2
  working: float = copies * layout.bytes['parameters']
  working += 2 * layer * value + vocabulary * (value + 4)
  working += chunk * model.vocab_size / tensor * 10
  wide = widths(config, layout.mesh)['mlp_up']
  microbatches, ticks = layout.ticks
  working += tokens / microbatches * value * 6 * (model.embed_dim + wide)
  working += scores * (4 + 2 * value)
  kept = tokens * value * kept_values(config, layout.mesh, keeps)
  if keeps.all:
    kept += scores * microbatches * value
  kept *= model.num_layers / layout.stages * ticks / microbatches
  return kept, working


def _expert_values(layout: Layout) -> float:
  """Values of the routed experts of a layer that a device holds gathered."""
  model = layout.config.model
  each = 3 * model.embed_dim * model.moe.expert_dim
  split = layout.parts('experts') * layout.parts('mlp')
  return model.moe.num_experts * each / split


def _layer_values(layout: Layout) -> float:
  """Values of the matrices of a layer that a device holds gathered."""
  model, moe = layout.config.model, layout.config.model.moe
  head = model.embed_dim * model.vocab_size
  each = (matmul_parameters(model) - head) / model.num_layers
  if moe.num_experts:
    # Those that take part in a token.
    each -= 3 * model.embed_dim * moe.expert_dim * moe.experts_per_token
  return each / layout.parts('mlp') + _expert_values(layout)


def _communication(
  layout: Layout,
  bandwidth: Mapping[str, float],
  tokens: float,
  keeps: Keeps,
) -> dict[str, float]:
  """Seconds of communication along each mesh axis in a step.

  Axes that split parameters gather them in compute_dtype forward and backward
  and scatter gradients in gradient_dtype, in each slice of the batch; 'tensor'
  reduces the activations of each layer twice forward and twice backward, twice
  more where the layer is recomputed; 'context' gathers keys and values forward
  and backward and scatters their gradients; 'expert' gathers tokens and
  scatters results, and the other way about for gradients; others reduce
  gradients. With stages, all of that is of a stage's layers, in every tick of
  the pipeline, and 'stage' hands rows on in each, forward and backward.
  """
  config, model = layout.config, layout.config.model
  value, rules = value_bytes(config), dict(config.mesh.rules)
  gradient = 2 if model.gradient_dtype == 'bfloat16' else 4
  microbatches, ticks = layout.ticks
  slices = config.accumulation_steps * ticks
  layers, tokens = model.num_layers / layout.stages, tokens / microbatches
  # Values of what a device holds gathered: a tensor group's part.
  gathered = layout.bytes['parameters'] / 4 * layout.parts('embed')
  row_tokens = tokens * layout.parts('length')
  found: dict[str, float] = {}
  for axis, size in layout.mesh.items():
    if size == 1:
      continue
    share, moved = (size - 1) / size, 0.0
    if axis in rules['embed']:
      moved += gathered * (2 * value + gradient) * share * slices
    elif axis in rules['batch']:
      # Each device of the axis has experts of its own.
      own = 4 * layers * _expert_values(layout)
      own *= (axis in rules['experts']) / layout.parts('embed')
      summed = (layout.bytes['parameters'] - own) * gradient / 4
      moved += 2 * share * summed * slices
    if axis in rules['experts'] and model.moe.num_experts:
      together = (4 if keeps.all else 5) * share * size * layers
      moved += together * tokens * slices * model.embed_dim * value
    if axis in rules['length']:
      keys = 2 * model.num_kv_heads * model.head_dim / layout.parts('heads')
      moved += 3 * share * row_tokens * keys * value * layers * slices
    if axis in rules['mlp']:
      again = 0 if 'attention_out' in keeps else 2
      reduced = (4 + again) * 2 * share * layers
      moved += reduced * tokens * slices * model.embed_dim * value
    if axis in rules['layers']:
      moved = 2 * tokens * slices * model.embed_dim * value
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
