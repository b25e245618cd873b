"""A plan in words and tables."""

from collections.abc import Sequence

from train.console import format_count
from train.laws.advice import Advice, Expected
from train.laws.hyperparameters import (
  BATCH_SIZE,
  LEARNING_RATE,
  WEIGHT_DECAY,
)
from train.planning.memory import Memory
from train.planning.plan import Plan
from train.planning.speed import Speed, Traffic

_GIB = 2**30
_REMARKS = {
  BATCH_SIZE: ', in tokens',
  WEIGHT_DECAY: ', with these',
}


def as_text(plan: Plan) -> str:
  """The whole plan, for a terminal."""
  mesh = ', '.join(f'{k} {v}' for k, v in plan.mesh.items() if v > 1)
  parts = [
    f'{plan.topology}, {plan.chips:,} chips; mesh: {mesh or "one device"}; '
    f'{plan.parameters:,} parameters',
    how_it_was_made(plan),
    '',
    memory_text(plan.memory),
  ]
  if plan.refusal:
    parts += ['', refusal_text(plan)]
  if plan.speed is not None:
    parts += ['', _speed_text(plan.speed, plan.chips)]
  if plan.traffic:
    parts += ['', _traffic_text(plan.traffic)]
  if plan.budget is not None:
    parts += ['', _budget_text(plan)]
  parts += ['', advice_text(plan.advice)]
  return '\n'.join(parts)


def how_it_was_made(plan: Plan) -> str:
  """What the figures rest on."""
  if plan.method == 'roofline':
    return (
      'By arithmetic (docs/planning.md, the roofline), not compiled: expect '
      'errors of a third.'
    )
  options = ' '.join(f'{k}={v}' for k, v in plan.options.items()) or 'none'
  versions = ', '.join(f'{k} {v}' for k, v in plan.versions.items())
  source = 'from the cache; compiling took' if plan.cached else 'compiled in'
  return (
    f'The training step itself, {source} {plan.compile_seconds:.0f} s by '
    f'{versions}; options: {options}'
  )


def memory_text(memory: Memory) -> str:
  """What fills a device, and whether it fits."""
  rows = [
    ('parameters', memory.parameters),
    ('optimizer state', memory.optimizer),
    ('moving average', memory.average),
    ('batch and padding', memory.batch),
    ('activations, gradients, temporaries', memory.temporaries),
    ('program', memory.code),
  ]
  lines = ['HBM of one device']
  for name, size in rows:
    if size is None:
      lines.append(f'  {name:38}  unknown')
    elif size:
      lines.append(f'  {name:38}{gib(size):>12}')
  if memory.needed is None:
    lines.append('  It does not fit.')
  else:
    lines.append(f'  {"in all":38}{gib(memory.needed):>12}')
    lines.append(f'  {"usable":38}{gib(memory.usable):>12}  {verdict(memory)}')
  if memory.host:
    lines.append(f'  {"host memory a device":38}{gib(memory.host):>12}')
  if memory.arrays:
    lines += ['  Largest arrays, with their logical axes']
    for array in memory.arrays:
      lines.append(
        f'  {gib(array.bytes):>12}  {array.shape}  '
        f'{f"({array.axes})  " if array.axes else ""}{array.what}'
      )
  return '\n'.join(lines)


def verdict(memory: Memory) -> str:
  """Whether it fits, and by how much."""
  if memory.needed is None:
    return 'does not fit'
  free = memory.usable - memory.needed
  if not memory.fits:
    return f'{gib(-free)} too much' if free < 0 else 'does not fit'
  if free < 0:
    return 'fits: the compiler placed it in less'
  return f'fits, {gib(free)} free'


def refusal_text(plan: Plan) -> str:
  """Why a step does not fit, in words, and what to change."""
  memory = plan.memory
  state = memory.parameters + memory.optimizer + memory.average
  lines = []
  if memory.temporaries is not None:
    lines.append(
      f'The compiler refuses the step: beside the state of {gib(state)} it '
      f'needs {gib(memory.temporaries)} of temporaries at a time, and a device '
      f'of {plan.topology} has {gib(memory.usable)} in all.'
    )
  else:
    lines.append('The compiler refuses the step for want of memory.')
  if state > memory.usable // 2:
    lines.append(
      'The state alone takes more than half: split it over more devices '
      '(mesh.fsdp, mesh.tensor).'
    )
  largest = max(
    (a for a in memory.arrays if not a.what.startswith('optimizer')),
    key=lambda a: a.bytes,
    default=None,
  )
  if largest is not None:
    lines.append(
      f'The largest array beside the optimizer is {largest.what}: '
      f'{largest.shape}, {gib(largest.bytes)}.'
    )
  lines.append(
    'In the order to try: a higher accumulation_steps, a model.remat that '
    'keeps less, a higher mesh.fsdp, a smaller loss.chunk. --search tries them.'
  )
  return '\n'.join(lines)


def _speed_text(speed: Speed, chips: int) -> str:
  flops = ', '.join(
    f'{value:.4g} in {dtype}' for dtype, value in speed.flops.items()
  )
  total = sum(speed.flops.values())
  lines = [
    'Time of a step',
    f'  {"matrix products":38}{_ms(speed.products):>12}',
    f'  {"kernels, at a stated efficiency":38}{_ms(speed.kernels):>12}',
    f'  {"all else, mostly memory traffic":38}{_ms(speed.elementwise):>12}',
  ]
  for axes, seconds in speed.exposed.items():
    name = f'waiting for collectives on {axes}'
    lines.append(f'  {name:38}{_ms(seconds):>12}')
  lines += [
    f'  {"in all":38}{_ms(speed.step):>12}  binds: {speed.binds}',
    f'  {"(collectives hidden behind these)":38}{_ms(speed.overlapped):>12}',
    f'  {speed.tokens_a_second:,.0f} tokens/s a chip, '
    f'{speed.tokens_a_second * chips:,.0f} in all; MFU {speed.mfu:.1%} '
    '(attention counted once, over visible pairs)',
    f'  matrix products: {flops} operations a step; the model needs '
    f'{speed.model_flops:.4g} ({total / speed.model_flops:.2f} times)',
  ]
  return '\n'.join(lines)


def _traffic_text(traffic: Sequence[Traffic]) -> str:
  lines = [
    'Collectives of one device in a step (bytes of whole arrays)',
    f'  {"kind":20}{"mesh axes":16}{"over":8}{"type":6}{"times":>8}'
    f'{"bytes":>12}{"time":>12}',
  ]
  for row in traffic:
    lines.append(
      f'  {row.kind:20}{row.axes:16}{row.network:8}{row.dtype:6}'
      f'{row.count:>8,}{_amount(row.bytes):>12}{_ms(row.seconds):>12}'
    )
  return '\n'.join(lines)


def _budget_text(plan: Plan) -> str:
  budget = plan.budget
  assert budget is not None
  if budget.cost is None:
    money = 'no price in planning.prices'
  else:
    money = f'{budget.cost:,.0f} at {budget.price:g} a chip-hour'
  return '\n'.join([
    'The run',
    f'  {budget.steps:,} steps, {budget.tokens:,} tokens '
    f'({budget.tokens_per_parameter:.1f} a parameter)',
    f'  {budget.hours:,.1f} hours, {budget.chip_hours:,.0f} chip-hours, '
    f'{money}',
  ])  # fmt: skip


def advice_text(advice: Advice) -> str:
  """What published laws say of a run, beside what it has."""
  run = advice.run
  has = {
    LEARNING_RATE: run.learning_rate,
    BATCH_SIZE: run.batch_tokens,
    WEIGHT_DECAY: run.weight_decay,
  }
  lines = [
    'What published laws say (docs/laws.md)',
    f'  {"":38}{"config":>10}{"law":>10}',
  ]
  before = ''
  for found in advice.suggestions:
    name = found.field + _REMARKS.get(found.field, '')
    held = _value(found.field, has[found.field])
    if found.field == before:
      name = held = ''
    before = found.field
    lines.append(
      f'  {name:38}{held:>10}{_value(found.field, found.value):>10}  '
      f'{found.law}{_extrapolated(found.outside)}'
    )
  if not advice.suggestions:
    lines.append('  none is of this optimizer, or of a learning rate of 0')
  lines.append(_loss_text(advice.losses))
  if not advice.data:
    lines.append('  The data is not prepared here: it is taken not to repeat.')
  for part in advice.data:
    lines.append(
      f'  {part.name or "The data"}: {part.epochs:.2f} times '
      f'{format_count(part.unique)} tokens'
    )
  return '\n'.join([*lines, *(f'  {text}' for text in advice.warnings)])


def _loss_text(losses: Sequence[Expected]) -> str:
  first, told = losses[0], [e.loss for e in losses if e.loss is not None]
  if first.loss is None:
    why = '; '.join(first.extrapolated)
    return f'  no loss is expected by {first.law}: {why}'
  return (
    f'  expected loss {first.loss:.3f} nats a token ({first.law}'
    f'{_extrapolated(first.extrapolated)}); by {len(told)} laws '
    f'{min(told):.3f} to {max(told):.3f}'
  )


def _value(field: str, value: float) -> str:
  return f'{value:,.0f}' if field == BATCH_SIZE else f'{value:.3g}'


def _extrapolated(outside: Sequence[str]) -> str:
  return f'; extrapolated: {", ".join(outside)}' if outside else ''


def gib(size: int) -> str:
  """Bytes as people read them."""
  if size < 2**20:
    return f'{size / 2**10:.1f} KiB'
  if size < _GIB:
    return f'{size / 2**20:.1f} MiB'
  return f'{size / _GIB:.2f} GiB'


def _ms(seconds: float) -> str:
  return f'{seconds * 1e3:,.2f} ms'


def _amount(size: int) -> str:
  return f'{size / 1e9:.3f} GB' if size >= 1e8 else f'{size / 1e6:.3f} MB'
