"""What fills the memory of a chip: the state, and a step's temporaries."""

import dataclasses
import itertools
import math
import re
from typing import Any

import jax

from model.params import HOST_MEMORY, Params
from train.planning.dimensions import Dimensions
from train.planning.hlo import Computation, Instruction, Module, Shape
from train.state import Recipe, TrainState

# Their result is their operand, or a part of it, under another name.
_VIEWS = (
  'add-dependency', 'bitcast', 'while', 'optimization-barrier', 'copy-done',
  'all-gather-done', 'all-reduce-done', 'collective-permute-done',
  'async-update', 'async-done',
)  # fmt: skip
STATE_PARTS = {
  'params': 'parameters',
  'opt_state': 'optimizer',
  'ema': 'average',
}
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Array:
  """An array in the memory of one device."""

  what: str
  shape: str
  axes: str
  bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
  """HBM of one JAX device, in bytes.

  Attributes:
    parameters, optimizer, average, batch: what a step is given there.
    temporaries: what it needs beside that, at most at a time: activations,
      gradients and gathered parameters. None: it did not compile. The compiler
      reports the sum of what it placed one beside the other, and places less.
    code: the program.
    host: what lies in the host's memory, which is no part of the sum.
    usable: what there is.
    placed: whether the compiler found room for all; None: it was not asked.
    arrays: the largest, the state's and the step's.
  """

  parameters: int
  optimizer: int
  average: int
  batch: int
  temporaries: int | None
  code: int
  host: int
  usable: int
  placed: bool | None
  arrays: tuple[Array, ...]

  @property
  def needed(self) -> int | None:
    """The sum; None where the temporaries are not known."""
    if self.temporaries is None:
      return None
    return (
      self.parameters
      + self.optimizer
      + self.average
      + self.batch
      + self.temporaries
      + self.code
    )

  @property
  def fits(self) -> bool:
    """Whether there is room: by the compiler, else by the sum."""
    if self.placed is not None:
      return self.placed
    return self.needed is not None and self.needed <= self.usable


def shard_bytes(leaf: Any, sharding: Any) -> int:
  """Bytes of one device's part of an array."""
  shape = sharding.shard_shape(leaf.shape)
  return math.prod(shape) * leaf.dtype.itemsize


def tree_bytes(tree: Any, shardings: Any) -> int:
  """Bytes of one device's part of all arrays of a tree."""
  sizes = jax.tree.map(shard_bytes, tree, shardings)
  return sum(jax.tree.leaves(sizes))


def state_bytes(state: Any, shardings: Any) -> dict[str, int]:
  """Bytes of one device's part of each part of a TrainState."""
  return {
    name: tree_bytes(getattr(state, field), getattr(shardings, field))
    for field, name in STATE_PARTS.items()
  }


def split_by_memory(state: Any, shardings: Any) -> tuple[dict[str, int], int]:
  """`state_bytes` of what lies on a device, and the bytes of all else.

  The rest of a device's part lies in the memory of its host (`offload`).
  """

  def kept(leaf: Any, sharding: Any) -> int:
    if sharding.memory_kind == HOST_MEMORY:
      return 0
    return shard_bytes(leaf, sharding)

  found = {
    name: sum(
      jax.tree.leaves(
        jax.tree.map(kept, getattr(state, field), getattr(shardings, field))
      )
    )
    for field, name in STATE_PARTS.items()
  }
  whole = sum(state_bytes(state, shardings).values())
  return found, whole - sum(found.values())


def state_arrays(
  recipe: Recipe, shardings: TrainState, limit: int
) -> list[Array]:
  """The largest arrays of the state, with their logical axes."""
  state = jax.eval_shape(recipe.init)
  axes = _paths(recipe.axes)
  found = []
  for part, label in STATE_PARTS.items():
    leaves = jax.tree_util.tree_leaves_with_path(getattr(state, part))
    places = jax.tree.leaves(getattr(shardings, part))
    for (path, leaf), sharding in zip(leaves, places, strict=True):
      name = jax.tree_util.keystr(path, simple=True, separator='.')
      known = [p for p in axes if name == p or name.endswith('.' + p)]
      logical = axes[known[0]] if known else ()
      if len(logical) != len(leaf.shape):
        logical = ()
      shape = sharding.shard_shape(leaf.shape)
      found.append(
        Array(
          what=(name if part == 'params' else f'{label}: {name}')
          + (' (on the host)' if sharding.memory_kind == HOST_MEMORY else ''),
          shape=f'{leaf.dtype.name}{list(shape)}',
          axes=' '.join(axis or '-' for axis in logical),
          bytes=shard_bytes(leaf, sharding),
        )
      )
  return sorted(found, key=lambda a: -a.bytes)[:limit]


def _paths(axes: Params, prefix: str = '') -> dict[str, tuple]:
  """Logical axes of each parameter, by its dotted path."""
  flat: dict[str, tuple] = {}
  for name, value in axes.items():
    path = f'{prefix}{name}'
    if isinstance(value, dict):
      flat |= _paths(value, path + '.')
    else:
      flat[path] = tuple(value)
  return flat


def live_arrays(
  module: Module, dimensions: Dimensions, limit: int
) -> list[Array]:
  """The largest temporaries at the moment when most memory is in use.

  Follows the program's order, with the buffers that each instruction opens and
  the last use of each; inside a loop, those of its body beside those around it.
  """
  _, found = _peak(module, module.entry, set())
  arrays = [
    Array(
      what=origin(instruction),
      shape=str(shape),
      axes=dimensions.names(shape.dims),
      bytes=shape.padded_bytes,
    )
    for instruction, shape in found
  ]
  return sorted(arrays, key=lambda a: -a.bytes)[:limit]


Live = list[tuple[Instruction, Shape]]


def _peak(module: Module, name: str, above: set[str]) -> tuple[int, Live]:
  """Most bytes that are alive in a computation at a time, and what they are."""
  body = module.computations[name]
  roots, last = _lifetimes(module, body)
  by_name = {i.name: i for i in body}
  ends: dict[int, list[str]] = {}
  for buffer, index in last.items():
    ends.setdefault(index, []).append(buffer)
  alive: dict[str, int] = {}
  most, best = 0, []
  for index, instruction in enumerate(body):
    if roots[instruction.name] == {instruction.name}:
      alive[instruction.name] = _bytes(instruction)
    inner, inside = 0, list[tuple[Instruction, Shape]]()
    called = instruction.called.get('body')
    if called and called not in above:
      inner, inside = _peak(module, called, above | {called})
    total = sum(alive.values()) + inner
    if total > most:
      most = total
      best = inside + [
        (by_name[b], s)
        for b, size in alive.items()
        if size
        for s in _opened(by_name[b])
      ]
    for buffer in ends.get(index, ()):
      alive.pop(buffer, None)
  return most, best


def _lifetimes(module: Module, body: Computation):
  """The buffers behind each name, and where each is used for the last time."""
  elements: dict[str, list[set[str]]] = {}
  last: dict[str, int] = {}
  for index, instruction in enumerate(body):
    behind = [elements.get(name, []) for name in instruction.operands]
    elements[instruction.name] = mine = _behind(module, instruction, behind)
    # What takes one element of a tuple does not use the others.
    taken = instruction.opcode == 'get-tuple-element'
    used = mine if taken else [*mine, *itertools.chain(*behind)]
    for buffer in set().union(*used):
      last[buffer] = index
  roots = {name: set().union(*mine) for name, mine in elements.items()}
  return roots, last


def _behind(
  module: Module, instruction: Instruction, operands: list[list[set[str]]]
) -> list[set[str]]:
  """The buffers behind each element of a tuple; of an array, in a list of one.

  Args:
    module: the program.
    instruction: what makes the tuple or array.
    operands: the same of each of its operands.
  """
  opcode = instruction.opcode
  whole = [set[str]().union(*elements) for elements in operands]
  if opcode == 'parameter':
    return []
  if opcode == 'tuple':
    return whole
  if opcode in ('while', 'optimization-barrier') and len(operands) == 1:
    return operands[0]
  if opcode == 'get-tuple-element':
    index = int(instruction.attribute(r'\bindex=(\d+)') or 0)
    return operands[0][index : index + 1] if len(operands[0]) > 1 else whole
  if opcode == 'dynamic-update-slice':
    return whole[:1]
  if opcode in _VIEWS:
    return [set[str]().union(*whole)]
  reused = _in_place(module, instruction)
  if reused is not None and reused < len(whole):
    # A parameter behind it has no buffer here, and none is opened.
    return [whole[reused]]
  return [{instruction.name}]


def _in_place(module: Module, instruction: Instruction) -> int | None:
  """The operand that a fusion writes its result into."""
  if instruction.opcode != 'fusion':
    return None
  inside = module.computations.get(instruction.called.get('calls', ''), [])
  by_name = {i.name: i for i in inside}
  root = next((i for i in inside if i.is_root), None)
  while root is not None and root.opcode == 'bitcast':
    root = by_name.get(root.operands[0])
  if root is None or root.opcode != 'dynamic-update-slice':
    return None
  target = by_name.get(root.operands[0])
  while target is not None and target.opcode == 'bitcast':
    target = by_name.get(target.operands[0])
  if target is None or target.opcode != 'parameter':
    return None
  return int(target.operands[0])


def _bytes(instruction: Instruction) -> int:
  return sum(s.padded_bytes for s in _opened(instruction))


def _opened(instruction: Instruction) -> list[Shape]:
  """The arrays in HBM that an instruction makes.

  What starts something in the background lists, beside its results, its
  operands (a copy behind the result, all else before it) and its semaphores.
  """
  arrays = [s for s in instruction.shapes if s.dims and s.space != 2]
  opcode, given = instruction.opcode, len(instruction.operands)
  if opcode == 'copy-start':
    arrays = arrays[:1]
  elif opcode.endswith('-start') and opcode != 'all-reduce-start':
    arrays = arrays[given : 2 * given]
  return [s for s in arrays if s.space == 0]


def origin(instruction: Instruction) -> str:
  """Where in the step an instruction comes from, in words."""
  path = instruction.attribute(r'op_name="([^"]*)"') or ''
  words = path.split('/')
  if 'rematted_computation' in words:
    phase = 'recomputed'
  elif 'transpose(' in path:
    phase = 'backward'
  elif 'jvp(' in path:
    phase = 'forward'
  elif path:
    phase = 'update'
  else:
    return f'made by the compiler: {instruction.opcode}'
  place = 'layers' if words.count('while') else 'outside the layers'
  return f'{phase}, {place}: {words[-1]}'


def refused_temporaries(message: str, state: int) -> int | None:
  """Bytes of temporaries that the compiler could not place.

  Args:
    message: of its RESOURCE_EXHAUSTED error.
    state: bytes of a device's arguments.

  Returns:
    None where the message does not tell.
  """
  temporaries = re.search(
    r'HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds', message
  )
  if temporaries:
    return int(float(temporaries[1]) * _UNITS[temporaries[2]])
  everything = re.search(
    r'Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm', message
  )
  if everything:
    return max(0, int(float(everything[1]) * _UNITS[everything[2]]) - state)
  return None
