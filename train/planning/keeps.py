"""What of each layer waits for the backward pass, and in which memory."""

import dataclasses
import math
from collections.abc import Collection, Mapping

from model.config import ACTIVATIONS, REMAT_KEEPS, ModelConfig
from train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Keeps:
  """What a layer keeps for its backward pass; the rest is computed again.

  Attributes:
    all: nothing is computed again, whatever the names say.
    device: names of what stays in the memory of the device.
    host: names of what waits in the memory of the host.
  """

  all: bool
  device: frozenset[str]
  host: frozenset[str]

  def __contains__(self, name: str) -> bool:
    return self.all or name in self.device or name in self.host


def keeps_of(
  model: ModelConfig,
  offloaded: Collection[str] = (),
  also: Collection[str] = (),
) -> Keeps:
  """What a policy keeps.

  Args:
    model: the model, with its rematerialisation policy.
    offloaded: names (ACTIVATIONS) of what waits in the host's memory, whether
      or not the policy would keep it.
    also: names of what the device keeps beside the policy's.

  Raises:
    ValueError: there is no such name.
  """
  for name in (*offloaded, *also):
    if name not in ACTIVATIONS:
      raise ValueError(
        f'offload.activations names {name!r}; there are '
        f'{", ".join(ACTIVATIONS)}.'
      )
  kept = {'layer_input', *REMAT_KEEPS.get(model.remat, ACTIVATIONS), *also}
  return Keeps(
    all=model.remat == 'none',
    device=frozenset(kept) - frozenset(offloaded),
    host=frozenset(offloaded),
  )


def kept_by(model: ModelConfig) -> Keeps:
  """What the layers of a model keep, as its configuration says."""
  return keeps_of(model, model.offload_activations)


def widths(config: TrainConfig, mesh: Mapping[str, int]) -> dict[str, float]:
  """Values of each name for a token of a device, of one layer.

  The residual stream is split over the devices of a tensor group where
  mesh.rules.residual_length names their axis. Rows of a mixture of experts go
  to several of them, and come together over the axes that split both tokens
  and experts (model/moe.py).

  Args:
    config: the run.
    mesh: devices along each mesh axis.
  """
  model, rules = config.model, dict(config.mesh.rules)

  def parts(axes: Collection[str]) -> int:
    return math.prod(mesh[axis] for axis in axes)

  tensor, heads = parts(rules['mlp']), parts(rules['heads'])
  split = 'tensor' in rules['residual_length']
  D = model.embed_dim / (tensor if split else 1)
  F = model.mlp_dim / tensor
  if model.moe.num_experts:
    moe, tokens = model.moe, {*rules['batch'], *rules['residual_length']}
    together = tokens & {*rules['experts'], *rules['mlp']}
    F = moe.expert_dim * moe.experts_per_token * parts(together) / tensor
    F += moe.expert_dim * moe.num_shared_experts / tensor
  query = model.num_heads * model.head_dim / heads
  key = model.num_kv_heads * model.head_dim / heads
  return {
    'layer_input': D,
    'query': query,
    'key': key,
    'value': key,
    'context': query,
    'attention_out': D,
    'mlp_up': F,
    'mlp_gate': F if model.gated or model.moe.num_experts else 0,
    # Nothing in the backward pass needs it.
    'mlp_out': 0,
  }
