"""Names the axes of an array of the compiled program by their sizes."""

import dataclasses
import math
from collections.abc import Mapping

from train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Dimensions:
  """Sizes of the logical axes on one device, whole and split.

  A compiled program does not carry logical axes. An axis of an array gets the
  name of the logical axis with its size; where several have it, the first in
  the order below that the array does not have yet. Layers come first in an
  array or not at all, and length behind the batch.
  """

  sizes: tuple[tuple[int, str], ...]

  def names(self, shape: tuple[int, ...]) -> str:
    """Logical axes of a shape, '-' for one that is none of them."""
    used: set[str] = set()
    names = []
    for index, size in enumerate(shape):
      fitting = [
        name
        for known, name in self.sizes
        if known == size
        and (index == 0 or name != 'layers')
        and ('batch' in used or not name.startswith('length'))
      ]
      # Activations are whole along the width, parameters are split.
      activation = 'batch' in used
      fitting.sort(key=lambda name: _is_part(name) == activation)
      free = [name for name in fitting if name not in used] or fitting
      names.append(free[0] if free and size > 1 else '-')
      used.add(names[-1])
    return ' '.join(names)


def _is_part(name: str) -> bool:
  return name.rpartition('/')[2].isdigit()


def dimensions(
  config: TrainConfig, mesh_sizes: Mapping[str, int]
) -> Dimensions:
  """The logical axes of a run's model on a mesh.

  Args:
    config: the run.
    mesh_sizes: devices along each mesh axis.
  """
  model = config.model
  rules = dict(config.mesh.rules)
  whole = {
    'layers': model.num_layers,
    'batch': config.batch_size // config.accumulation_steps,
    'length': config.sequence_length,
    'embed': model.embed_dim,
    'heads': model.num_heads,
    'kv_heads': model.num_kv_heads,
    'head_dim': model.head_dim,
    'mlp': model.mlp_dim,
    'vocab': model.vocab_size,
    'chunk': config.loss.chunk,
    'heads/kv_heads': model.num_heads // model.num_kv_heads,
    'heads*head_dim': model.num_heads * model.head_dim,
    'kv_heads*head_dim': model.num_kv_heads * model.head_dim,
  }
  sizes = []
  for name, size in whole.items():
    parts = math.prod(mesh_sizes[axis] for axis in rules.get(name, ()))
    if name == 'batch':  # Activations are always split along it.
      sizes.append((size // parts, name))
      continue
    sizes.append((size, name))
    if parts > 1 and size % parts == 0:
      sizes.append((size // parts, f'{name}/{parts}'))
  return Dimensions(tuple(sizes))
