"""Reads the text of a compiled program: computations, shapes, loops.

XLA prints a program after optimisation as computations of one instruction a
line, in the order in which they run. Only what planning needs is read.
"""

import dataclasses
import math
import re

_BYTES = {
  'pred': 1, 's4': 0.5, 'u4': 0.5, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2,
  's32': 4, 'u32': 4, 's64': 8, 'u64': 8, 'f8e4m3fn': 1, 'f8e5m2': 1,
  'f8e4m3b11fnuz': 1, 'f8e4m3': 1, 'bf16': 2, 'f16': 2, 'f32': 4, 'f64': 8,
}  # fmt: skip
_SHAPE = re.compile(r'\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_NAME = re.compile(r'%([\w.\-]+)')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(
  r'\b(calls|to_apply|body|condition|true_computation|false_computation)='
  r'%?([\w.\-]+)'
)
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
# A tile has 128 columns; its rows, and the memory that holds it, are printed
# behind the layout: {1,0:T(8,128)S(1)}; S(1) is on-chip memory, S(5) the host.
_TILE = re.compile(r'T\((\d+(?:,\d+)*)\)')
_SPACE = re.compile(r'S\((\d+)\)')


@dataclasses.dataclass(frozen=True)
class Shape:
  """One array of an instruction's result."""

  dtype: str
  dims: tuple[int, ...]
  layout: str = ''

  @property
  def bytes(self) -> int:
    """Bytes of its values, without padding."""
    return int(_BYTES[self.dtype] * math.prod(self.dims))

  @property
  def padded_bytes(self) -> int:
    """Bytes that it takes in memory, where it lies in whole tiles."""
    tile = _TILE.search(self.layout)
    order = self.layout.partition(':')[0]
    if tile is None or not order:
      return self.bytes
    sizes = list(self.dims)
    minor = [int(i) for i in order.split(',')]
    for axis, side in zip(minor, reversed(tile[1].split(',')), strict=False):
      sizes[axis] = -(-sizes[axis] // int(side)) * int(side)
    return int(_BYTES[self.dtype] * math.prod(sizes))

  @property
  def space(self) -> int:
    """0: HBM; 1: on-chip memory; 5: the host's; others: semaphores."""
    found = _SPACE.search(self.layout)
    return int(found[1]) if found else 0

  def __str__(self) -> str:
    return f'{self.dtype}[{",".join(map(str, self.dims))}]'


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation."""

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  # What follows the operands: attributes, metadata, backend configuration.
  text: str
  is_root: bool

  @property
  def cycles(self) -> int:
    """Cycles that the compiler expects it to take; 0: it says nothing."""
    found = _CYCLES.search(self.text)
    return int(found[1]) if found else 0

  def attribute(self, pattern: str) -> str | None:
    """The first group of a pattern in the attributes."""
    found = re.search(pattern, self.text)
    return found[1] if found else None

  @property
  def called(self) -> dict[str, str]:
    """Computations that it runs, by the attribute that names them."""
    found = dict(_CALLED.findall(self.text))
    branches = _BRANCHES.search(self.text)
    if branches:
      names = _NAME.findall(branches[1])
      found |= {f'branch {i}': name for i, name in enumerate(names)}
    return found


Computation = list[Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program."""

  computations: dict[str, Computation]
  entry: str

  def fused(self, instruction: Instruction) -> Computation:
    """All instructions inside a fusion or call, those inside them too."""
    found: Computation = []
    for name in instruction.called.values():
      for inner in self.computations.get(name, ()):
        found.append(inner)
        found += self.fused(inner)
    return found


def parse(text: str) -> Module:
  """Reads the text that `compiled.as_text()` returns."""
  computations: dict[str, Computation] = {}
  entry = ''
  lines: list[str] | None = None
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      lines = []
      if header[1]:
        entry = header[2]
      name = header[2]
    elif line == '}':
      if lines is not None:
        computations[name] = [_instruction(line) for line in lines]
      lines = None
    elif lines is not None:
      if _INSTRUCTION.match(line):
        lines.append(line)
      elif lines:  # A kernel's metadata may break the line.
        lines[-1] += ' ' + line
  assert entry, 'no entry computation'
  return Module(computations, entry)


def _instruction(line: str) -> Instruction:
  match = _INSTRUCTION.match(line)
  assert match
  rest = match[3]
  if rest.startswith('('):
    end = _closing(rest, 0)
    shape, rest = rest[: end + 1], rest[end + 1 :].lstrip()
  else:
    shape, _, rest = rest.partition(' ')
  opcode, _, arguments = rest.partition('(')
  end = _closing(f'({arguments}', 0)
  return Instruction(
    name=match[2],
    opcode=opcode,
    shapes=shapes_in(shape),
    operands=tuple(_NAME.findall(arguments[: max(end - 1, 0)]))
    if opcode not in ('constant', 'parameter')
    else (arguments[: max(end - 1, 0)],),
    text=arguments[end:],
    is_root=match[1] is not None,
  )


def _closing(text: str, start: int) -> int:
  """Index of the bracket that closes the one at start."""
  depth = 0
  for index in range(start, len(text)):
    depth += (text[index] == '(') - (text[index] == ')')
    if depth == 0:
      return index
  return len(text)


def shapes_in(text: str) -> tuple[Shape, ...]:
  """Every array shape in some text."""
  return tuple(
    Shape(dtype, tuple(int(d) for d in dims.split(',') if d), layout or '')
    for dtype, dims, layout in _SHAPE.findall(text)
    if dtype in _BYTES
  )


def float32_products(module: Module, least: int) -> list[str]:
  """Matrix products of two float32 arrays with at least so many values each.

  They are several times slower than those of bfloat16; in a step that computes
  in bfloat16, one is a mistake.
  """
  found = []
  for body in module.computations.values():
    by_name = {i.name: i for i in body}
    for product in body:
      if product.opcode not in ('convolution', 'dot'):
        continue
      factors = [by_name[name].shapes[0] for name in product.operands[:2]]
      if all(f.dtype == 'f32' and math.prod(f.dims) >= least for f in factors):
        found.append(f'{product.name}: {factors[0]} x {factors[1]}')
  return found


def trip_count(module: Module, loop: Instruction, around: Computation) -> int:
  """How often the body of a `while` runs.

  The counter, an element of the carried tuple, runs from a constant (0 unless
  it is known to be another) to a constant that the condition compares it with,
  in steps that the body adds: a loop that the compiler has unrolled counts by
  more than one.

  Args:
    module: the program.
    loop: the `while` instruction.
    around: the computation that it stands in.
  """
  given = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"\}')
  if given:
    return int(given)
  called = loop.called
  condition = module.computations[called['condition']]
  body = module.computations[called['body']]
  limit, index, inclusive = _limit(module, condition)
  if limit is None:
    return 1
  start, step = 0, 1
  if index is not None:
    root = next(i for i in body if i.is_root)
    if root.opcode == 'tuple' and index < len(root.operands):
      step = _offset(body, root.operands[index]) or 1
    start = _initial(around, loop.operands[0], index)
  return max(1, -(-(limit - start + inclusive) // step))


def _limit(
  module: Module, condition: Computation
) -> tuple[int | None, int | None, int]:
  """The bound of a loop's counter, its place in the tuple, 1 if inclusive."""
  inside = [*condition]
  for instruction in condition:
    inside += module.fused(instruction)
  by_name = {i.name: i for i in inside}
  constants = [_constant(i) for i in inside]
  for compare in inside:
    if compare.opcode != 'compare':
      continue
    counter, bound = (by_name.get(name) for name in compare.operands[:2])
    if bound is None or _constant(bound) is None:
      continue
    inclusive = int('direction=LE' in compare.text)
    index = None
    if counter is not None and counter.opcode == 'get-tuple-element':
      found = counter.attribute(r'\bindex=(\d+)')
      index = int(found) if found else None
    return _constant(bound), index, inclusive
  known = [c for c in constants if c is not None]
  elements = [
    i.attribute(r'\bindex=(\d+)')
    for i in condition
    if i.opcode == 'get-tuple-element' and i.shapes[0].dims == ()
  ]
  index = int(elements[0]) if len(elements) == 1 and elements[0] else None
  return (max(known) if known else None), index, 0


def _constant(instruction: Instruction) -> int | None:
  """The value of an integer constant."""
  if instruction.opcode != 'constant' or instruction.shapes[0].dims:
    return None
  value = instruction.operands[0]
  return int(value) if re.fullmatch(r'-?\d+', value) else None


def _offset(body: Computation, name: str) -> int | None:
  """What is added to the carried counter before it is carried on."""
  by_name = {i.name: i for i in body}
  total = 0
  while name in by_name:
    instruction = by_name[name]
    if instruction.opcode == 'get-tuple-element':
      return total
    if instruction.opcode in ('copy', 'bitcast'):
      name = instruction.operands[0]
      continue
    if instruction.opcode != 'add':
      return None
    values = [
      _constant(by_name[operand]) if operand in by_name else None
      for operand in instruction.operands
    ]
    if values[1] is not None:
      total, name = total + values[1], instruction.operands[0]
    elif values[0] is not None:
      total, name = total + values[0], instruction.operands[1]
    else:
      return None
  return None


def _initial(around: Computation, name: str, index: int) -> int:
  """First value of a loop's counter where it is a constant, else 0."""
  by_name = {i.name: i for i in around}
  carried = by_name.get(name)
  if carried is None or carried.opcode != 'tuple':
    return 0
  name = carried.operands[index]
  while name in by_name:
    instruction = by_name[name]
    if instruction.opcode in ('copy', 'bitcast'):
      name = instruction.operands[0]
      continue
    return _constant(instruction) or 0
  return 0
