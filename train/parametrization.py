"""How initial values and updates of a parameter follow width and depth.

Hyper-parameters are found on a small model, the base. At the base's shape the
factors below are 1, and what was found is used as it is. A wider or deeper
model multiplies by them, so that its activations move as much in a step as
those of the base. What the forward pass needs beside (model/config.py): a
branch of the residual stream is divided by the depth multiplier, logits by the
width multiplier.

To add a parametrization, write its factors and add a line to RULES.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.params import Params

# What a parameter is to a parametrization: the tables of tokens and positions;
# the output head; a matrix that reads the residual stream, and one that writes
# to it; the router of experts, of whose sides only one grows; scales and biases
# inside of layers, and after the last.
ROLES = (
  'embedding', 'head', 'reads', 'writes', 'router', 'in_layer', 'final',
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Factors:
  """Of a parameter, multiplied with what the configuration says.

  Attributes:
    init: of the standard deviation of its initial values.
    learning_rate: of the learning rate.
    weight_decay: of the weight decay, which is multiplied by both rates: the
      decay of a step changes by the product of the two factors.
    epsilon: of Adam's epsilon.
  """

  init: float = 1.0
  learning_rate: float = 1.0
  weight_decay: float = 1.0
  epsilon: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parametrization:
  """The rules of a run.

  Attributes:
    name: of RULES.
    width, depth: those of the model, by those of the base.
    zero_head: whether the output head starts at zero.
  """

  name: str = 'standard'
  width: float = 1.0
  depth: float = 1.0
  zero_head: bool = False

  def factors(self, kind: str, axes: tuple[str | None, ...]) -> Factors:
    """Of a parameter of this kind with these logical axes."""
    role = role_of(kind, axes)
    found = self._factors[role]
    if role == 'head' and self.zero_head:
      found = dataclasses.replace(found, init=0.0)
    return found

  @property
  def decay(self) -> float:
    """Factor of what a matrix decays by in a step."""
    matrix = self._factors['reads']
    return matrix.learning_rate * matrix.weight_decay

  @property
  def _factors(self) -> dict[str, Factors]:
    return RULES[self.name].factors(self.width, self.depth)


def parametrization_of(model: ModelConfig) -> Parametrization:
  """The rules of a model."""
  return Parametrization(
    name=model.parametrization,
    width=model.width_multiplier,
    depth=model.depth_multiplier,
    zero_head=model.zero_head,
  )


def base_shape(model: ModelConfig) -> dict[str, Any]:
  """The fields of a model that name the shape of its base, with their values.

  Where they are None they are the model's own shape; models of other shapes
  that are to have the same base need them.
  """
  if model.parametrization == 'standard':
    return {'base_embed_dim': None, 'base_num_layers': None}
  return {
    'base_embed_dim': model.base_embed_dim or model.embed_dim,
    'base_num_layers': model.base_num_layers or model.num_layers,
  }


def scale_initial(
  rules: Parametrization, params: Params, kinds: Params, axes: Params
) -> Params:
  """Initial values for the width and depth of the model.

  Args:
    rules: of the run.
    params: initial values of 'standard'.
    kinds: kind of each parameter, as declared.
    axes: logical axes of each parameter, as declared.
  """

  def scale(kind, leaf, names):
    factor = rules.factors(kind, names).init
    if factor == 0:
      return jnp.zeros_like(leaf)
    return leaf if factor == 1 else leaf * factor

  return jax.tree.map(scale, kinds, params, axes)


def role_of(kind: str, axes: tuple[str | None, ...]) -> str:
  """The role of a parameter, one of ROLES."""
  if kind in ('embedding', 'head'):
    return kind
  if kind in ('norm', 'bias'):
    return 'in_layer' if 'layers' in axes else 'final'
  assert kind == 'matrix', kind
  # Axes come in the order of einsum: what is read, then what is made of it.
  return {'embed': 'writes', None: 'router'}.get(axes[-1], 'reads')


def _standard(width: float, depth: float) -> dict[str, Factors]:
  del width, depth
  return dict.fromkeys(ROLES, Factors())


def _spectral(width: float, depth: float) -> dict[str, Factors]:
  """For Muon on matrices, and Adam on the rest.

  Where the sides of a matrix grow alike, an update should have the same
  spectral norm at any width (Yang et al. 2023, arXiv 2310.17813); Muon's has
  the size of AdamW's, the root of the larger side (train/optimizer.py). The
  decay of a step is 1 / width (Qiu et al. 2025, arXiv 2512.05620).
  """
  root = width**-0.5
  matrix = Factors(init=root, learning_rate=root, weight_decay=root)
  return _adam(width, depth) | {
    'head': Factors(init=0.0, epsilon=1 / width),
    'reads': matrix,
    'writes': _from_base_depth(matrix, depth),
    # Its fan-out stays, so that its norm should fall with the root.
    'router': Factors(init=root, learning_rate=1 / width),
  }


def _completep(width: float, depth: float) -> dict[str, Factors]:
  """CompleteP for AdamW (Dey et al. 2025, arXiv 2505.01618, table 1, alpha 1).

  The decay of a step is the same for all widths.
  """
  matrix = Factors(
    init=width**-0.5,
    learning_rate=1 / width,
    weight_decay=width,
    epsilon=1 / (width * depth),
  )
  return _adam(width, depth) | {
    'reads': matrix,
    'writes': _from_base_depth(matrix, depth),
    'router': matrix,
  }


def _adam(width: float, depth: float) -> dict[str, Factors]:
  """What Adam updates, but for matrices: gradients shrink, updates do not."""
  ends, inside = Factors(epsilon=1 / width), Factors(epsilon=1 / width / depth)
  return {
    'embedding': ends, 'head': ends, 'in_layer': inside, 'final': ends,
  }  # fmt: skip


def _from_base_depth(factors: Factors, depth: float) -> Factors:
  """Takes back that model/ divides initial values by sqrt(2 layers)."""
  return dataclasses.replace(factors, init=factors.init * depth**0.5)


@dataclasses.dataclass(frozen=True)
class Rules:
  """A parametrization, whatever the model.

  Attributes:
    factors: of each role, from a width and a depth multiplier.
    optimizer: that it is made for; None: any.
  """

  factors: Callable[[float, float], dict[str, Factors]]
  optimizer: str | None = None


RULES = {
  'standard': Rules(_standard),
  'spectral': Rules(_spectral, 'muon'),
  'completep': Rules(_completep, 'adamw'),
}
