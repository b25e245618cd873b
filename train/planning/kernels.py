"""What hand-written kernels cost: the compiler knows nothing of them."""

import dataclasses
import math

from train.chips import Chip
from train.planning.hlo import Instruction, Shape, shapes_in

# Part of the speed of large products that fused attention reaches on the
# positions that its queries see, if its heads fill the matrix units: cuDNN's
# forward pass has 600e12 operations a second on an H100 (heads of 128, rows of
# 8,192; Shah et al. 2024, "FlashAttention-3", figure 5), of 794e12.
ATTENTION_EFFICIENCY = 0.75

# Matrix products of attention, each 2 B N T c H operations, where c is the mean
# number of keys that a query sees: scores and weighted sum forward; backward
# the scores again, and the gradients of weights, values, keys and queries. The
# unfused backward pass computes scores and weights' gradient twice.
_PRODUCTS = (
  ('splash', 'dkv', 4),
  ('splash', 'dq', 3),
  ('splash', 'fwd', 2),
)
_FUSED_BACKWARD = 5
# Products of rows with the matrix of their group, jax.lax.ragged_dot; and sums
# over the rows of each group, megablox's tgmm.
_GROUPED = ('ragged-dot', 'tgmm')


class UnknownKernelError(ValueError):
  """The program has a kernel whose cost nobody has stated."""


@dataclasses.dataclass(frozen=True)
class Fractions:
  """What a kernel does not compute of all that its operands hold.

  Attributes:
    visible: of all pairs of positions, how many a mask lets through.
    grouped: of the rows of a product with groups, how many are in one: those of
      a device's own experts, in the mean.
  """

  visible: float
  grouped: float


def kernel_flops(call: Instruction, fractions: Fractions) -> float:
  """Operations of one call of a kernel on one device.

  Args:
    call: the custom call.
    fractions: what of its operands it computes.

  Raises:
    UnknownKernelError: there is no rule for this kernel.
  """
  arrays = _large_operands(call)
  if _grouped(call):
    # Rows [M, K] come first, then matrices [E, K, N] or other rows [M, N];
    # before them stands a call that only counts, without either.
    if len(arrays) < 2:
      return 0.0
    (rows, depth), (groups, *sides) = arrays[0].dims, arrays[1].dims
    if len(sides) == 1:
      assert groups == rows, call.name
      (width,) = sides
    else:
      width = math.prod(sides) // depth
    return 2.0 * rows * depth * width * fractions.grouped
  for family, part, products in _PRODUCTS:
    if family in call.name and part in call.name and len(arrays) >= 2:
      queries, keys = arrays[0].dims, arrays[1].dims
      if part == 'dkv' and _fused(call, queries):
        products = _FUSED_BACKWARD
      pairs = math.prod(queries[:-1]) * keys[-2]
      return products * 2.0 * pairs * queries[-1] * fractions.visible
  raise UnknownKernelError(
    f'The program calls the kernel {call.name!r}, whose cost is not stated. '
    'Add a rule for it to train/planning/kernels.py.'
  )


def kernel_seconds(
  call: Instruction, fractions: Fractions, chip: Chip
) -> float:
  """Time of one call at the stated efficiency."""
  flops = kernel_flops(call, fractions)
  if _grouped(call):
    return flops / (chip.matmul / chip.devices)
  return flops / attention_rate(chip, _large_operands(call)[0].dims[-1])


def attention_rate(chip: Chip, head_dim: int) -> float:
  """Operations a second of fused attention on one device.

  Scores contract the width of a head, and weighted sums are as wide: of a
  matrix unit with a longer side a part stands still.
  """
  filled = min(1.0, head_dim / chip.matrix_side)
  return ATTENTION_EFFICIENCY * filled * chip.matmul / chip.devices


def _grouped(call: Instruction) -> bool:
  """Whether it multiplies rows in groups."""
  return any(name in call.name for name in _GROUPED)


def _large_operands(call: Instruction) -> list[Shape]:
  """Attention: queries [..., N, T, H], then keys [..., K, S, H]."""
  least = 1 if _grouped(call) else 2
  return [
    s for s in _operands(call) if s.dtype == 'bf16' and len(s.dims) > least
  ]


def _operands(call: Instruction) -> tuple[Shape, ...]:
  """Shapes of the operands, as the constraint on their layouts lists them."""
  marker = 'operand_layout_constraints={'
  start = call.text.find(marker)
  assert start >= 0, call.name
  start += len(marker)
  depth, end = 1, start
  while depth:
    depth += (call.text[end] == '{') - (call.text[end] == '}')
    end += 1
  return shapes_in(call.text[start:end])


def _fused(call: Instruction, queries: tuple[int, ...]) -> bool:
  """Whether the backward kernel gives the queries' gradient as well.

  It gives one partial sum for each block of keys: an axis more.
  """
  return any(
    len(s.dims) == len(queries) + 1 and s.dims[-2:] == queries[-2:]
    for s in call.shapes
  )
