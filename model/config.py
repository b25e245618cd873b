"""The model's configuration, checked before any device is touched."""

import dataclasses
from collections.abc import Mapping
from typing import Any

MLPS = ('swiglu', 'geglu', 'gelu')
NORMS = ('rms', 'layer')
POSITIONS = ('rope', 'learned')
MOE_KERNELS = ('auto', 'xla', 'megablox', 'hopper', 'megablox_interpreted')
SCORES = ('softmax', 'sigmoid')
DTYPES = ('bfloat16', 'float32')
ATTENTIONS = ('auto', 'xla', 'splash', 'cudnn', 'splash_interpreted')
# Names that the layers give their activations with checkpoint_name.
ACTIVATIONS = (
  'layer_input', 'query', 'key', 'value', 'context', 'attention_out', 'mlp_up',
  'mlp_gate', 'mlp_out',
)  # fmt: skip
# What a rematerialisation policy keeps of them for the backward pass; 'none'
# keeps everything.
_PROJECTIONS = (
  'query', 'key', 'value', 'attention_out', 'mlp_up', 'mlp_gate', 'mlp_out',
)  # fmt: skip
REMAT_KEEPS: dict[str, tuple[str, ...]] = {
  'products': (*_PROJECTIONS, 'context'),
  'projections': _PROJECTIONS,
  'attention': ('query', 'key', 'value', 'context'),
  'full': (),
}
REMATS = ('none', *REMAT_KEEPS)
DROPOUT_SITES = ('embedding', 'attention', 'residual', 'mlp')
CONTEXT_PARALLELISMS = ('all_gather', 'ring', 'ulysses')


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoeConfig:
  """Mixture of experts; fields as in configs/model.py."""

  num_experts: int
  experts_per_token: int
  num_shared_experts: int
  expert_dim: int
  score: str
  normalize_weights: bool
  weight_scale: float
  balance_loss: float
  router_z_loss: float
  balance_rate: float
  kernel: str

  def __post_init__(self):
    for name in (
      'num_experts', 'num_shared_experts', 'balance_loss', 'router_z_loss',
      'balance_rate',
    ):  # fmt: skip
      if not getattr(self, name) >= 0:
        raise ValueError(
          f'model.moe.{name} is {getattr(self, name)}; it must be 0 or more.'
        )
    for name in ('experts_per_token', 'expert_dim', 'weight_scale'):
      _check_positive(f'model.moe.{name}', getattr(self, name))
    if not self.num_experts:
      return
    if self.experts_per_token > self.num_experts:
      raise ValueError(
        f'model.moe.experts_per_token = {self.experts_per_token}; it must be '
        f'from 1 to model.moe.num_experts = {self.num_experts}.'
      )
    if self.score not in SCORES:
      raise ValueError(
        f'model.moe.score is {self.score!r}; choose one of {SCORES}.'
      )
    if self.kernel not in MOE_KERNELS:
      raise ValueError(
        f'model.moe.kernel is {self.kernel!r}; choose one of {MOE_KERNELS}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Architecture of a decoder-only transformer; fields as in configs/model.py.

  Some fields come from elsewhere in the run's configuration: `max_length`, the
  tokens of a row; `isolate_documents`; `visible_prefixes`, whether batches have
  tokens that are seen from before (`augmentation.ul2`); `offload_activations`;
  `axis_rules`, which maps the logical axes of activations to mesh axes; and
  `microbatches`, which `train.setup` decides where it is None. `row_order` is
  decided with the kernel of attention (`attention_kernels.resolve_attention`):
  the chunks of a row in the order in which the model gets them; None: as they
  were written.
  """

  vocab_size: int
  embed_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  mlp: str
  moe: MoeConfig
  norm: str
  norm_epsilon: float
  positions: str
  rope_theta: float
  qk_norm: bool
  sliding_window: int | None
  attention_softcap: float | None
  logits_softcap: float | None
  tie_embeddings: bool
  use_bias: bool
  init_std: float
  zero_head: bool
  parametrization: str
  base_embed_dim: int | None
  base_num_layers: int | None
  embedding_dropout: float
  attention_dropout: float
  residual_dropout: float
  mlp_dropout: float
  compute_dtype: str
  gradient_dtype: str
  attention: str
  context_parallelism: str
  splash_block_q: int
  splash_block_kv: int
  splash_fused_backward: bool
  scan_layers: bool
  remat: str
  max_length: int
  isolate_documents: bool
  visible_prefixes: bool
  offload_activations: tuple[str, ...]
  axis_rules: tuple[tuple[str, tuple[str, ...]], ...]
  microbatches: int | None
  row_order: tuple[int, ...] | None = None

  def __post_init__(self):
    for name in (
      'vocab_size', 'embed_dim', 'num_layers', 'num_heads', 'num_kv_heads',
      'head_dim', 'mlp_dim', 'max_length', 'sliding_window',
      'attention_softcap', 'logits_softcap', 'rope_theta', 'norm_epsilon',
      'init_std', 'splash_block_q', 'splash_block_kv', 'microbatches',
      'base_embed_dim', 'base_num_layers',
    ):  # fmt: skip
      field = name if name == 'microbatches' else f'model.{name}'
      _check_positive(field, getattr(self, name))
    for name in DROPOUT_SITES:
      rate = getattr(self, f'{name}_dropout')
      if not 0 <= rate < 1:
        raise ValueError(
          f'model.{name}_dropout is {rate}; a rate lies in 0 <= rate < 1.'
        )
    for name, choices in (
      ('mlp', MLPS), ('norm', NORMS), ('positions', POSITIONS),
      ('remat', REMATS), ('compute_dtype', DTYPES), ('gradient_dtype', DTYPES),
      ('attention', ATTENTIONS), ('context_parallelism', CONTEXT_PARALLELISMS),
    ):  # fmt: skip
      if getattr(self, name) not in choices:
        raise ValueError(
          f'model.{name} is {getattr(self, name)!r}; choose one of {choices}.'
        )
    self._check_parametrization()
    if (self.compute_dtype, self.gradient_dtype) == ('float32', 'bfloat16'):
      raise ValueError(
        "model.gradient_dtype = 'bfloat16' would round what "
        "model.compute_dtype = 'float32' computed: set model.gradient_dtype = "
        "'float32'."
      )
    if self.moe.num_experts:
      self._check_experts()
    if self.offload_activations:
      self._check_offload()
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'model.num_heads = {self.num_heads} is no multiple of '
        f'model.num_kv_heads = {self.num_kv_heads} '
        f'({self.num_heads} = {self.num_heads // self.num_kv_heads} x '
        f'{self.num_kv_heads} + {self.num_heads % self.num_kv_heads}).'
      )
    if self.positions == 'rope' and self.head_dim % 2:
      raise ValueError(
        f'model.head_dim = {self.head_dim} is odd; rotary positions turn '
        'pairs of numbers: make it even.'
      )

  def _check_parametrization(self):
    if self.tie_embeddings and self.zero_head:
      raise ValueError(
        'model.zero_head is True, and model.tie_embeddings = True makes the '
        'head the embedding, which must not start at zero: set '
        'model.tie_embeddings = False.'
      )
    if self.parametrization != 'standard':
      return
    for name in ('base_embed_dim', 'base_num_layers'):
      if getattr(self, name) is not None:
        raise ValueError(
          f'model.{name} is {getattr(self, name)}, and model.parametrization = '
          "'standard' has no rule for other shapes: choose another, or set "
          f'model.{name} to None.'
        )

  def _check_offload(self):
    for name in self.offload_activations:
      if name not in ACTIVATIONS:
        raise ValueError(
          f'offload.activations has {name!r}; choose from {ACTIVATIONS}.'
        )
    if 'mlp_gate' in self.offload_activations and not self.gated:
      raise ValueError(
        "offload.activations has 'mlp_gate', and model.mlp = "
        f'{self.mlp!r} has no gate: take it out.'
      )
    if self.remat == 'none':
      raise ValueError(
        f'offload.activations = {self.offload_activations} and model.remat = '
        "'none', which keeps everything on the device: set model.remat = "
        "'products' to keep the other results of matrix products there, or "
        "'full' to recompute them."
      )

  def _check_experts(self):
    if not self.gated:
      raise ValueError(
        f'model.mlp is {self.mlp!r}, and experts have gates: set '
        "'swiglu' or 'geglu'."
      )
    for name in ('use_bias', 'mlp_dropout'):
      if getattr(self, name):
        raise ValueError(
          f'model.{name} is {getattr(self, name)}, and experts (model.moe.'
          f'num_experts = {self.moe.num_experts}) support none: set it to '
          f'{type(getattr(self, name))()}.'
        )

  @property
  def width_multiplier(self) -> float:
    """Width, in widths at which the hyper-parameters hold."""
    return self.embed_dim / (self.base_embed_dim or self.embed_dim)

  @property
  def depth_multiplier(self) -> float:
    """Layers, in depths at which the hyper-parameters hold."""
    return self.num_layers / (self.base_num_layers or self.num_layers)

  @property
  def gated(self) -> bool:
    """Whether the feed-forward layer has a gate."""
    return self.mlp in ('swiglu', 'geglu')

  @property
  def dropout_rates(self) -> dict[str, Any]:
    """Of the sites where dropout is on; a rate that is an array is on."""
    rates = {site: getattr(self, f'{site}_dropout') for site in DROPOUT_SITES}
    return {
      site: rate
      for site, rate in rates.items()
      if not (isinstance(rate, (int, float)) and rate == 0)
    }


def model_config(config: Mapping[str, Any]) -> ModelConfig:
  """Reads the model's part of a run's configuration.

  Args:
    config: the whole configuration, as `configs.base.get_config` makes it.

  Raises:
    ValueError: a value is out of range or two do not fit together.
  """
  fields = dict(config['model'])
  if fields['head_dim'] is None and fields['num_heads']:
    if fields['embed_dim'] % fields['num_heads']:
      raise ValueError(
        f'model.embed_dim = {fields["embed_dim"]} is no multiple of '
        f'model.num_heads = {fields["num_heads"]}: set model.head_dim.'
      )
    fields['head_dim'] = fields['embed_dim'] // fields['num_heads']
  _check_positive('model.mlp_dim', fields['mlp_dim'])
  moe = dict(fields['moe'])
  if moe['expert_dim'] is None:
    moe['expert_dim'] = fields['mlp_dim']
  fields['moe'] = MoeConfig(**moe)
  rules = tuple(
    (axis, tuple(mesh_axes))
    for axis, mesh_axes in config['mesh']['rules'].items()
  )
  ul2 = config['augmentation']['ul2']
  return ModelConfig(
    **fields,
    max_length=config['sequence_length'],
    isolate_documents=config['isolate_documents'],
    offload_activations=tuple(config['offload']['activations']),
    visible_prefixes=any(ul2[f'{kind}_rate'] for kind in 'rxs'),
    axis_rules=rules,
    microbatches=config['microbatches'],
  )


def _check_positive(field: str, value: float | None) -> None:
  if value is not None and not value > 0:
    raise ValueError(f'{field} is {value}; it must be above 0.')
