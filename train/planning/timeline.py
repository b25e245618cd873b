"""Runs through a compiled program in its own order, on two clocks.

One clock counts the cycles that the compiler expects of each instruction, the
other ones say until when each set of links is busy. A collective that is
started and awaited later hides behind what runs in between; what it makes the
program wait is exposed. A loop's body is run once and taken times its trips.
"""

import collections
import dataclasses
from collections.abc import Callable

from train.planning import collectives
from train.planning.collectives import Collective
from train.planning.hlo import Computation, Instruction, Module, trip_count
from train.planning.network import Network

# What a fusion is counted as: it multiplies matrices, or it moves data.
_PRODUCTS = ('convolution', 'dot', 'convolution-base-dilated', 'ragged-dot')
_KERNEL = 'custom_call_target="tpu_custom_call"'


@dataclasses.dataclass
class Timeline:
  """What a program, or the body of a loop in it, does and waits for.

  Attributes:
    products, elementwise, kernels: seconds of matrix products, of all other
      instructions and of hand-written kernels.
    exposed: seconds that it waits for collectives, by mesh axes.
    collectives: how often each runs; one that is spread over several
      instructions counts once.
    kernel_calls: calls of each kernel.
  """

  products: float = 0.0
  elementwise: float = 0.0
  kernels: float = 0.0
  exposed: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  collectives: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  kernel_calls: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )

  @property
  def compute(self) -> float:
    """Seconds of all but waiting."""
    return self.products + self.elementwise + self.kernels

  @property
  def seconds(self) -> float:
    """Seconds from the first instruction to the last."""
    return self.compute + sum(self.exposed.values())

  def add(self, other: 'Timeline', times: int) -> None:
    """Appends another one, run some times."""
    self.products += times * other.products
    self.elementwise += times * other.elementwise
    self.kernels += times * other.kernels
    for name in ('exposed', 'collectives', 'kernel_calls'):
      counter = getattr(self, name)
      for key, value in getattr(other, name).items():
        counter[key] += times * value


def run(
  module: Module,
  network: Network,
  kernel_seconds: Callable[[Instruction], float],
) -> Timeline:
  """Estimates one execution of a program on one device.

  Args:
    module: the program.
    network: the devices that it runs on.
    kernel_seconds: time of one call of a hand-written kernel, of which the
      compiler knows nothing.
  """
  return _Runner(module, network, kernel_seconds).computation(module.entry)


class _Runner:
  def __init__(self, module, network, kernel_seconds):
    self.module = module
    self.network = network
    self.kernel_seconds = kernel_seconds
    self.seen_channels: set[int] = set()

  def computation(self, name: str) -> Timeline:
    body = self.module.computations[name]
    total, clock = Timeline(), 0.0
    # Until when each lane is busy, and when what was started will be done.
    lanes: dict[str, float] = collections.defaultdict(float)
    pending: dict[str, tuple[Collective, float]] = {}
    for instruction in body:
      part = self.part(instruction, body)
      total.add(part, 1)
      clock += part.seconds
      started = self.started(instruction)
      if started is not None:
        total.collectives[started] += 1
        end = max(clock, lanes[started.lane]) + started.seconds
        lanes[started.lane] = end
        pending[self.key(instruction, started)] = (started, end)
      awaited = self.awaited(instruction, pending)
      if awaited is not None:
        collective, end = awaited
        total.exposed[collective.axes] += max(0.0, end - clock)
        clock = max(clock, end)
    return total

  def part(self, instruction: Instruction, body: Computation) -> Timeline:
    """What an instruction does itself, loops and branches included."""
    called = instruction.called
    if instruction.opcode == 'while':
      whole = Timeline()
      trips = trip_count(self.module, instruction, body)
      whole.add(self.computation(called['body']), trips)
      return whole
    if instruction.opcode in ('call', 'async-start') and called:
      name = called.get('to_apply') or called.get('calls')
      return self.computation(name) if name else Timeline()
    if instruction.opcode == 'conditional':
      branches = [
        self.computation(name)
        for name in called.values()
        if name in self.module.computations
      ]
      return max(branches, key=lambda b: b.seconds, default=Timeline())
    if instruction.opcode == 'custom-call' and _KERNEL in instruction.text:
      name = instruction.name.rpartition('.')[0] or instruction.name
      return Timeline(
        kernels=self.kernel_seconds(instruction),
        kernel_calls=collections.Counter([name]),
      )
    if collectives.kind_of(instruction):
      return Timeline()
    spent = instruction.cycles / self.network.chip.clock
    inside = [instruction]
    if instruction.opcode == 'fusion':
      inside = self.module.fused(instruction)
    if any(i.opcode in _PRODUCTS for i in inside):
      return Timeline(products=spent)
    return Timeline(elementwise=spent)

  def started(self, instruction: Instruction) -> Collective | None:
    """The collective that an instruction begins."""
    inside = [instruction]
    if instruction.opcode in ('fusion', 'async-start'):
      if instruction.opcode == 'async-start':
        return None  # Counted where its computation is run.
      inside = self.module.fused(instruction)
    for inner in inside:
      if collectives.kind_of(inner):
        found = collectives.read(inner, self.network)
        if 'all-reduce-scatter' in instruction.called.get('calls', ''):
          # XLA's fusion of an all-reduce with the slice that a device keeps;
          # it is done at once, and may share its channel with others.
          return collectives.scattered(found)
        if found.channel is not None and inner is not instruction:
          # A fused collective is repeated in every fusion that carries it on.
          if found.channel in self.seen_channels:
            return None
          self.seen_channels.add(found.channel)
        return found
    return None

  def key(self, instruction: Instruction, started: Collective) -> str:
    if (
      instruction.opcode == 'fusion'
      and started.channel is not None
      and self.fused_target(instruction, 'AsyncCollectiveStart')
    ):
      return f'channel {started.channel}'
    return instruction.name

  def fused_target(self, instruction: Instruction, target: str) -> bool:
    return any(
      inner.opcode == 'custom-call' and target in inner.text
      for inner in self.module.fused(instruction)
    )

  def awaited(self, instruction: Instruction, pending):
    """What an instruction waits for: its own collective, or an earlier one."""
    if instruction.name in pending:
      # One that starts and goes on is waited for by its -done.
      if instruction.opcode.endswith('-start'):
        return None
      return pending.pop(instruction.name)
    if instruction.opcode.endswith('-done') and instruction.operands:
      return pending.pop(instruction.operands[0], None)
    if instruction.opcode == 'fusion' and pending:
      for inner in self.module.fused(instruction):
        if 'AsyncCollectiveDone' in inner.text:
          channels = [
            i.attribute(r'channel_id=(\d+)')
            for i in self.module.fused(instruction)
            if collectives.kind_of(i)
          ]
          return pending.pop(f'channel {channels[0]}', None)
    return None
