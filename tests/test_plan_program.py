"""Reading a compiled program: loops, memory, collectives and its clock."""

import dataclasses

import golden_hlo
import numpy as np
import pytest

from train.chips import CHIPS, Chip
from train.planning import collectives, hlo, kernels, memory, timeline
from train.planning.dimensions import Dimensions
from train.planning.network import Network

CHIP = CHIPS['v5e']


@pytest.fixture(scope='module')
def module() -> hlo.Module:
  return hlo.parse(golden_hlo.PROGRAM)


@pytest.fixture(scope='module')
def network() -> Network:
  """Data 2 x fsdp 4 on 2 x 4 chips, each axis along one of the torus."""
  places = [[0, x, y, 0] for x in range(2) for y in range(4)]
  return Network(CHIP, (2, 4), ('data', 'fsdp'), (2, 4), np.array(places))


def no_kernel(call):
  raise AssertionError(call.name)


def instruction(module, name) -> hlo.Instruction:
  return next(
    i for body in module.computations.values() for i in body if i.name == name
  )


def test_every_computation_and_instruction_is_read(module):
  assert module.entry == 'main'
  assert {n: len(c) for n, c in module.computations.items()} == {
    'add': 3,
    'product': 3,
    'write': 6,
    'body': 14,
    'condition': 4,
    'main': 9,
  }
  fusion = instruction(module, 'fusion.1')
  assert fusion.operands == ('value', 'weight')
  assert fusion.cycles == 700_000
  assert [i.opcode for i in module.fused(fusion)][-1] == 'convolution'


def test_a_loop_runs_from_its_start_to_its_limit(module):
  # The counter starts at 1 and stops below 5.
  loop = instruction(module, 'while.1')
  assert hlo.trip_count(module, loop, module.computations['main']) == 4


@pytest.mark.parametrize(
  ('change', 'trips'),
  [
    (('%trips = s32[]{:T(128)} constant(5)', '%trips = s32[] constant(9)'), 8),
    (('direction=LT', 'direction=LE'), 5),
    (('%one = s32[]{:T(128)} constant(1)', '%one = s32[] constant(2)'), 2),
    (('%start = s32[]{:T(128)} constant(1)', '%start = s32[] constant(0)'), 5),
    (
      (
        'body=%body,',
        'body=%body, backend_config={"known_trip_count":{"n":"7"}},',
      ),
      7,
    ),
  ],
)
def test_trips_follow_limit_start_and_step(change, trips):
  assert change[0] in golden_hlo.PROGRAM
  module = hlo.parse(golden_hlo.PROGRAM.replace(*change))
  loop = instruction(module, 'while.1')
  assert hlo.trip_count(module, loop, module.computations['main']) == trips


def test_arrays_lie_in_whole_tiles(module):
  gradient = instruction(module, 'g').shapes[0]
  assert gradient.bytes == 300 * 130 * 4
  # Rows to a multiple of 8, columns to one of 128.
  assert gradient.padded_bytes == 304 * 256 * 4
  assert instruction(module, 'copy-done.1').shapes[0].space == 1
  (packed,) = hlo.shapes_in('s4[3,5]')
  assert (packed.bytes, packed.padded_bytes) == (7, 7)


def test_collectives_know_axes_bytes_and_time(module, network):
  gather = collectives.read(instruction(module, 'all-gather-start.1'), network)
  assert (gather.kind, gather.axes) == ('all-gather', ('fsdp',))
  assert gather.bytes == 512 * 512 * 2
  # A line of four chips: one link, three quarters come from others.
  assert gather.seconds == pytest.approx(gather.bytes * 3 / 4 / 45e9)
  reduce = collectives.read(instruction(module, 'all-reduce.1'), network)
  assert (reduce.axes, reduce.dtype) == (('data', 'fsdp'), 'f32')
  assert reduce.bytes == 300 * 130 * 4
  # Two dimensions of the torus at once, there and back.
  assert reduce.seconds == pytest.approx(2 * reduce.bytes * 7 / 8 / 90e9)


@pytest.mark.parametrize(
  ('groups', 'axes'),
  [
    ("mesh['a'=2,'b'=4] {'b'}", ('fsdp',)),
    ("mesh['a'=2,'b'=4] {'a'}", ('data',)),
    ("mesh['a'=8] {'a':(1)2}", ('data',)),
    ("mesh['a'=8] {'a':(2)4}", ('fsdp',)),
    ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", ('fsdp',)),
    ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", ('data',)),
    ('[2,4]<=[8]', ('fsdp',)),
    ('[4,2]<=[2,4]T(1,0)', ('data',)),
    ('{{0,1,2,3},{4,5,6,7}}', ('fsdp',)),
    ('{{0,4},{1,5},{2,6},{3,7}}', ('data',)),
  ],
)
def test_groups_are_read_however_they_are_written(groups, axes, network):
  text = golden_hlo.PROGRAM.replace(
    "replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}",
    f'replica_groups={groups}',
  )
  gather = instruction(hlo.parse(text), 'all-gather-start.1')
  assert collectives.read(gather, network).axes == axes


@pytest.mark.parametrize(
  'groups', ["mesh['a'=8], device_ids=(odd) {'a'}", '<<0,1,2,3>>']
)
def test_groups_that_cannot_be_read_are_not_guessed(groups, network):
  text = golden_hlo.PROGRAM.replace(
    "replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}",
    f'replica_groups={groups}',
  )
  gather = instruction(hlo.parse(text), 'all-gather-start.1')
  with pytest.raises(ValueError, match='not known here'):
    collectives.read(gather, network)


def test_a_collective_over_slices_is_as_slow_as_the_data_centre(module):
  places = np.array([[s, 0, y, 0] for s in range(2) for y in range(4)])
  network = Network(CHIP, (1, 4), ('data', 'fsdp'), (2, 4), places)
  reduce = collectives.read(instruction(module, 'all-reduce.1'), network)
  assert reduce.lane.startswith('dcn')
  assert reduce.seconds == pytest.approx(
    2 * reduce.bytes * 7 / 8 / CHIP.dcn_bandwidth
  )


def test_rings_have_two_links_and_lines_one():
  def links(chip: Chip, torus, group):
    grid = np.stack(np.unravel_index(range(int(np.prod(torus))), torus), 1)
    places = np.pad(grid, ((0, 0), (1, 1)))
    return Network(chip, torus, ('x',), (len(places),), places).links(group)

  v5e, v5p = CHIPS['v5e'], CHIPS['v5p']
  assert links(v5e, (16, 16), list(range(16))) == 2
  assert links(v5e, (8, 8), list(range(8))) == 1
  assert links(v5e, (16, 16), list(range(8))) == 1
  assert links(v5p, (4, 4, 4), list(range(64))) == 6
  # No whole cubes: no dimension is closed.
  assert links(v5p, (2, 4, 4), list(range(32))) == 3


def test_what_runs_beside_a_product_is_not_waited_for(module, network):
  ran = timeline.run(module, network, no_kernel)
  clock = CHIP.clock
  assert ran.products == pytest.approx(4 * 1_050_000 / clock)
  assert ran.elementwise == pytest.approx((4 * 35_000 + 70_000) / clock)
  assert sum(ran.collectives.values()) == 5
  # The gather takes 8.7 us and the product beside it 467; the reduction is
  # waited for in full.
  (reduce,) = [c for c in ran.collectives if c.kind == 'all-reduce']
  assert ran.exposed['fsdp',] == 0
  assert ran.exposed['data', 'fsdp'] == pytest.approx(reduce.seconds)


def test_a_product_too_short_to_hide_a_gather_exposes_the_rest(network):
  short = hlo.parse(golden_hlo.PROGRAM.replace('"700000"', '"3000"'))
  ran = timeline.run(short, network, no_kernel)
  (gather,) = [c for c in ran.collectives if c.kind == 'all-gather']
  waited = 4 * (gather.seconds - 3000 / CHIP.clock)
  assert waited > 0
  assert ran.exposed['fsdp',] == pytest.approx(waited)


def test_the_largest_live_arrays_have_names(module):
  sizes = Dimensions(((4, 'layers'), (64, 'batch'), (512, 'embed')))
  found = memory.live_arrays(module, sizes, 3)
  assert found[0].shape == 'bf16[512,512]'
  stack = next(a for a in found if a.shape == 'bf16[4,64,512]')
  assert stack.axes == 'layers batch embed'
  assert stack.bytes == 4 * 64 * 512 * 2


def test_a_gather_in_flight_is_counted_once(module):
  # The start names its operand too, which is not counted again; the copy at
  # the end goes to the chip's own memory.
  most, _ = memory._peak(module, 'main', set())
  stack, square = 4 * 64 * 512 * 2, 512 * 512 * 2
  value = 64 * 512 * 2
  assert most == stack + 2 * square + value


def test_an_element_of_a_tuple_is_free_when_others_are_still_used():
  program = """HloModule step, is_scheduled=true

ENTRY %main (p: f32[128]) -> f32[16,128] {
  %p = f32[128]{0:T(128)} parameter(0)
  %large = f32[1024,128]{1,0:T(8,128)} broadcast(%p), dimensions={1}
  %small = f32[8,128]{1,0:T(8,128)} broadcast(%p), dimensions={1}
  %pair = (f32[1024,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) \
tuple(%large, %small)
  %held = (f32[1024,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) \
optimization-barrier(%pair)
  %first = f32[1024,128]{1,0:T(8,128)} get-tuple-element(%held), index=0
  %sum = f32[8,128]{1,0:T(8,128)} reduce(%first), dimensions={0}
  %next = f32[1024,128]{1,0:T(8,128)} broadcast(%sum), dimensions={0,1}
  %second = f32[8,128]{1,0:T(8,128)} get-tuple-element(%held), index=1
  ROOT %all = f32[16,128]{1,0:T(8,128)} concatenate(%second, %next)
}
"""
  most, found = memory._peak(hlo.parse(program), 'main', set())
  large, small = 1024 * 128 * 4, 8 * 128 * 4
  assert most == large + 3 * small
  assert sum(i.name in ('large', 'next') for i, _ in found) == 1


def test_what_waits_for_something_is_no_array_of_its_own():
  program = """HloModule step, is_scheduled=true

ENTRY %main (p: f32[128]) -> f32[8,128] {
  %p = f32[128]{0:T(128)} parameter(0)
  %after = token[] after-all()
  %large = f32[1024,128]{1,0:T(8,128)} broadcast(%p), dimensions={1}
  %later = f32[1024,128]{1,0:T(8,128)} add-dependency(%large, %after)
  ROOT %sum = f32[8,128]{1,0:T(8,128)} reduce(%later), dimensions={0}
}
"""
  most, _ = memory._peak(hlo.parse(program), 'main', set())
  assert most == (1024 + 8) * 128 * 4


def test_memory_that_did_not_suffice_is_read_from_the_message():
  known = memory.refused_temporaries
  message = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (71.5G) exceeds available HBM (15.75G).'
  )
  assert known(message, 2**30) == int(71.5 * 2**30)
  message = 'RESOURCE_EXHAUSTED: ... Used 20.00G of 15.75G hbm. Exceeded ...'
  assert known(message, 4 * 2**30) == 16 * 2**30
  assert known('RESOURCE_EXHAUSTED', 0) is None


def splash(name: str, operands: str, results: str) -> hlo.Instruction:
  return hlo.Instruction(
    name=name,
    opcode='custom-call',
    shapes=hlo.shapes_in(results),
    operands=(),
    text=', custom_call_target="tpu_custom_call", '
    f'operand_layout_constraints={{{operands}}}',
    is_root=False,
  )


HALF = kernels.Fractions(visible=0.5, grouped=0.25)


def test_grouped_products_cost_the_rows_that_are_in_a_group():
  M, K, N, E = 512, 128, 256, 8
  rows, matrices = f'bf16[{M},{K}]{{1,0}}', f'bf16[{E},{K},{N}]{{2,1,0}}'
  metadata = 's32[1]{0}, s32[9]{0}, s32[39]{0}, s32[39]{0}, s32[1]{0}, '
  call = splash('ragged-dot-none.1', f'{metadata}{rows}, {matrices}', '')
  product = 2 * M * K * N * 0.25
  assert kernels.kernel_flops(call, HALF) == product
  seconds = kernels.kernel_seconds(call, HALF, CHIP)
  assert seconds == pytest.approx(product / CHIP.matmul)
  # Transposed matrices, for the gradient of the rows.
  wide = splash(
    'ragged-dot-none.2', f'{metadata}bf16[{M},{N}]{{1,0}}, {matrices}', ''
  )
  assert kernels.kernel_flops(wide, HALF) == product
  # Sums over rows, for the gradient of the matrices.
  sums = splash(
    'tgmm.3',
    f'{metadata}{rows}, bf16[{M},{N}]{{1,0}}',
    f'f32[{E},{K},{N}]{{2,1,0}}',
  )
  assert kernels.kernel_flops(sums, HALF) == product
  counts = splash('ragged-dot-metadata', 's32[8]{0}', '')
  assert kernels.kernel_seconds(counts, HALF, CHIP) == 0


def test_kernels_cost_the_products_that_attention_needs():
  B, N, K, T, H = 2, 8, 4, 256, 128
  q, kv = (
    f'bf16[{B},{N},{T},{H}]{{3,2,1,0}}',
    f'bf16[{B},{K},{T},{H}]{{3,2,1,0}}',
  )
  operands = f's32[1,4]{{1,0}}, {q}, {kv}, {kv}'
  product = 2 * B * N * T * T * H * 0.5
  forward = splash('splash_mha_fwd_residuals.3', operands, q)
  assert kernels.kernel_flops(forward, HALF) == 2 * product
  dq = splash('splash_mha_dq.3', operands, q)
  assert kernels.kernel_flops(dq, HALF) == 3 * product
  dkv = splash('splash_mha_dkv.3', operands, f'({kv}, {kv})')
  assert kernels.kernel_flops(dkv, HALF) == 4 * product
  partial = f'bf16[{B},2,{N},{T},{H}]{{4,3,2,1,0}}'
  fused = splash('splash_mha_dkv.4', operands, f'({partial}, {kv}, {kv})')
  assert kernels.kernel_flops(fused, HALF) == 5 * product
  seconds = kernels.kernel_seconds(forward, HALF, CHIP)
  assert seconds == pytest.approx(2 * product / (0.75 * CHIP.matmul))


def test_a_kernel_without_a_stated_cost_is_refused():
  with pytest.raises(kernels.UnknownKernelError, match=r"'mystery\.1'"):
    kernels.kernel_flops(splash('mystery.1', '', ''), HALF)


def test_a_branch_counts_as_its_longer_side(module, network):
  branchy = hlo.parse("""HloModule m

%short (a: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} parameter(0)
}

%long (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  ROOT %twice = f32[8]{0} add(%b, %b), backend_config={"estimated_cycles":"9"}
}

ENTRY %main (p: pred[], x: f32[8]) -> f32[8] {
  %p = pred[] parameter(0)
  %x = f32[8]{0} parameter(1)
  ROOT %c = f32[8]{0} conditional(%p, %x, %x), branch_computations={%short, \
%long}
}
""")
  ran = timeline.run(branchy, network, no_kernel)
  assert ran.elementwise == pytest.approx(9 / CHIP.clock)


def test_chips_of_two_devices_share_their_links(module):
  places = np.array([[0, x, 0, 0, c] for x in range(4) for c in range(2)])
  chip = dataclasses.replace(CHIPS['tpu7x'])
  network = Network(chip, (4, 1, 1), ('data', 'fsdp'), (2, 4), places)
  group = [0, 1, 2, 3]
  assert network.bandwidth(group) == chip.ici_bandwidth / 2


def test_products_of_float32_are_found(module):
  assert hlo.float32_products(module, least=1) == []
  text = golden_hlo.PROGRAM.replace('bf16[64,512]', 'f32[64,512]')
  assert hlo.float32_products(hlo.parse(text), least=1) == []
  text = text.replace('bf16[512,512]', 'f32[512,512]')
  found = hlo.float32_products(hlo.parse(text), least=64 * 512)
  assert found == ['convolution.1: f32[64,512] x f32[512,512]']
  assert hlo.float32_products(hlo.parse(text), least=64 * 512 + 1) == []
