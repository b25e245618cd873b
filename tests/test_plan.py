"""Plans without a compiler: memory, the roofline, the run, words and JSON."""

import dataclasses
import json
import math

import cases
import jax
import pytest

from model.config import ACTIVATIONS, REMATS
from train.compiler_options import libtpu_version
from train.config import train_config
from train.laws.advice import Repetition, advise
from train.planning import plan as plan_module
from train.planning import report, roofline, search, topologies
from train.planning.budget import budget
from train.planning.cache import Cache
from train.planning.command import plan_run, search_text
from train.planning.dimensions import dimensions
from train.planning.environment import VARIABLES
from train.planning.expected import expected_arrays
from train.planning.keeps import keeps_of
from train.planning.layout import lay_out
from train.planning.make import make_plan
from train.planning.memory import Memory, state_arrays
from train.planning.operations import attention_operations, product_operations
from train.planning.plan import Plan, as_json
from train.planning.program import Program

NO_CACHE = Cache(None)
LARGE = {
  'batch_size': 64,
  'sequence_length': 2048,
  'loss.chunk': 256,
  'model.compute_dtype': 'bfloat16',
  'model.vocab_size': 32_000,
  'model.embed_dim': 2048,
  'model.num_layers': 16,
  'model.num_heads': 16,
  'model.num_kv_heads': 16,
  'model.mlp_dim': 8192,
  'model.remat': 'full',
  'model.tie_embeddings': False,
  'mesh.fsdp': -1,
}


def large(**overrides):
  return cases.tiny_train_config(**LARGE | overrides)


def gpu_plan(name: str = 'h100:2x8', price: float | None = 2.0, **overrides):
  return make_plan(
    large(**overrides), topologies.parse(name), price=price, cache=NO_CACHE
  )


def test_the_state_of_a_device_is_its_share():
  layout = lay_out(large(), 16)
  copies = {'mesh.data': -1, 'mesh.fsdp': 1}
  whole = lay_out(large(**copies), 16)
  shared = lay_out(large(**copies, **{'optimizer.shard_axes': ('data',)}), 16)
  parameters = sum(
    math.prod(leaf.shape)
    for leaf in jax.tree.leaves(jax.eval_shape(layout.recipe.init).params)
  )
  assert whole.bytes['parameters'] == 4 * parameters
  # All but the norms, which are small, are split.
  share = 4 * parameters / 16
  assert share <= layout.bytes['parameters'] < 1.002 * share
  # AdamW: two moments, and counters, which may be split further.
  assert 0 <= whole.bytes['optimizer'] - 8 * parameters < 64
  share = 8 * parameters / 16
  assert share <= shared.bytes['optimizer'] < 1.002 * share
  assert layout.bytes['average'] == 0


def test_the_largest_arrays_of_the_state_have_logical_axes():
  layout = lay_out(large(), 16)
  found = state_arrays(layout.recipe, layout.shardings, 40)
  (up,) = [a for a in found if a.what == 'blocks.mlp.up.weight']
  assert up.axes == 'layers embed mlp'
  assert up.bytes == 4 * 16 * 2048 // 16 * 8192
  moments = [a for a in found if a.what.startswith('optimizer: ')]
  assert {a.axes for a in moments} >= {'layers embed mlp', 'vocab embed'}
  assert [a.bytes for a in found] == sorted(
    (a.bytes for a in found), reverse=True
  )


def test_axes_are_named_by_their_sizes():
  config = large()
  names = dimensions(config, lay_out(config, 16).mesh).names
  assert names((16, 4, 2048, 8192)) == 'layers batch length mlp'
  assert names((16, 128, 8192)) == 'layers embed/16 mlp'
  assert names((7, 1, 32_000)) == '- - vocab'
  # 16 layers, 16 heads; length and width are 2048.
  assert names((4, 16, 2048, 128)) == 'batch heads length head_dim'
  assert names((8192, 2048)) == 'mlp embed'


def test_layouts_that_do_not_fit_say_what_to_change():
  with pytest.raises(ValueError, match='batch_size = 63 rows'):
    lay_out(large(batch_size=63), 16)
  with pytest.raises(ValueError, match=r'mesh\.data'):
    lay_out(large(**{'mesh.fsdp': 3}), 16)


def test_the_roofline_adds_up():
  plan = gpu_plan()
  speed = plan.speed
  assert speed is not None
  parts = speed.products + speed.kernels + speed.elementwise
  assert speed.step == pytest.approx(parts + sum(speed.exposed.values()))
  tokens = 64 * 2048
  assert speed.tokens_a_second == pytest.approx(tokens / speed.step / 16)
  assert speed.mfu == pytest.approx(
    speed.model_flops / speed.step / (16 * 989e12)
  )
  # Products at what the chip reaches with them, less what training loses.
  operations = product_operations(large(), keeps_of(large().model))
  assert speed.products == pytest.approx(
    operations / (16 * 794.5e12 * roofline.SUSTAINED)
  )
  assert 0.05 < speed.mfu < 0.75


def test_the_fsdp_axis_gathers_twice_and_scatters_once():
  (row,) = gpu_plan().traffic
  assert (row.axes, row.network) == ('fsdp', 'network')
  layout = lay_out(large(), 16)
  values = layout.bytes['parameters'] / 4 * 16
  assert row.bytes == pytest.approx(values * (2 + 2 + 4) * 15 / 16, rel=1e-6)
  (inside,) = gpu_plan('h100:1x8', batch_size=64).traffic
  assert inside.network == 'NVLink'


@pytest.mark.parametrize('remat', REMATS)
def test_less_is_computed_where_more_is_kept(remat):
  full = gpu_plan()
  other = gpu_plan(**{'model.remat': remat})
  assert full.speed is not None
  assert other.speed is not None
  assert full.memory.needed is not None
  assert other.memory.needed is not None
  assert other.speed.products <= full.speed.products
  assert other.memory.needed >= full.memory.needed


def estimated(config=None, keeps=None, name='v6e:4x4', **changes):
  config = config or large()
  chip = dataclasses.replace(topologies.parse(name).chip, **changes)
  bandwidth = dict.fromkeys(('data', 'fsdp', 'tensor'), 1e12)
  layout = lay_out(config, 16)
  return roofline.estimate(layout, chip=chip, bandwidth=bandwidth, keeps=keeps)


def test_what_waits_on_the_host_is_neither_kept_nor_computed_again():
  model = large().model
  full, all_names = keeps_of(model), keeps_of(model, ACTIVATIONS)
  most = keeps_of(dataclasses.replace(model, remat='products'))
  base, host, device = (estimated(keeps=k) for k in (full, all_names, most))
  # Nothing of a layer stays, and what is computed again is that of the policy
  # which keeps as much.
  assert host.kept == 0 < base.kept < device.kept
  assert host.products == device.products < base.products
  assert (base.copies, device.copies) == (0, 0)
  # Inputs and outputs of 2,048, 16 heads of 128 four times, two times 8,192:
  # of 8,192 tokens on each device, out and back.
  values = 16 * 8192 * (2 * 2048 + 4 * 16 * 128 + 2 * 8192)
  assert host.copies == pytest.approx(2 * 2 * values / 32e9)
  # The forward pass and the backward pass hide one way each.
  slow = estimated(keeps=all_names, host_bandwidth=1e9)
  hidden = roofline.HIDDEN * (slow.products + slow.attention)
  assert slow.waiting == pytest.approx(slow.copies - hidden)
  assert slow.seconds == pytest.approx(
    slow.products + slow.attention + slow.elementwise + slow.update
    + slow.exposed + slow.waiting
  )  # fmt: skip
  assert estimated(keeps=all_names, host_bandwidth=1e15).waiting == 0


def test_some_names_are_recomputed_and_some_are_not():
  model = large().model
  only = product_operations(large(), keeps_of(model, ('query', 'mlp_up')))
  none = product_operations(large(), keeps_of(model))
  tokens = 64 * 2048
  assert none - only == 2 * tokens * 16 * (2048 * 2048 + 2048 * 8192)
  fused = {
    names: attention_operations(large(), keeps_of(model, names), fused=True)
    for names in ((), ('query',), ('context',))
  }
  assert fused['context',] < fused['query',] == fused[()]
  with pytest.raises(ValueError, match="names 'quary'; there are layer_input"):
    keeps_of(model, ('quary',))


def test_collectives_of_a_gpu_are_not_free():
  free = estimated(hides=1.0)
  assert free.exposed == 0
  shared = estimated(hides=0.25)
  assert shared.exposed == pytest.approx(0.75 * free.collectives['fsdp'])


def test_narrow_heads_leave_wide_matrix_units_idle():
  config = large(**{'model.attention': 'splash'})
  v6e, narrow, narrower = (
    estimated(config, matrix_side=side).attention for side in (256, 128, 64)
  )
  # Heads of 128.
  assert v6e == pytest.approx(2 * narrow)
  assert narrow == narrower


def test_a_faster_chip_and_slices_of_the_batch():
  def step(**overrides):
    plan = gpu_plan(**overrides)
    assert plan.speed is not None
    return plan.speed.step, plan.memory.needed

  base, memory = step()
  assert step(name='b200:2x8')[0] < step(name='h200:2x8')[0] < base
  assert step(name='a100:2x8')[0] > base
  sliced, less = step(accumulation_steps=4)
  assert less < memory
  # Parameters are gathered for each slice, and no GPU does that for nothing.
  assert base < sliced < 1.3 * base


def test_stages_cost_their_idle_ticks():
  stages = {'mesh.stage': 4, 'mesh.fsdp': 4}

  def parts(**overrides):
    layout = lay_out(large(**overrides), 16)
    bandwidth = dict.fromkeys(('stage', 'fsdp'), 1e12)
    chip = topologies.parse('v6e:4x4').chip
    return layout, roofline.estimate(layout, chip=chip, bandwidth=bandwidth)

  flat_layout, flat = parts()
  few_layout, few = parts(**stages, microbatches=4)
  many_layout, many = parts(**stages, microbatches=16)
  assert [x.ticks for x in (flat_layout, few_layout, many_layout)] == [
    (1, 1), (4, 7), (16, 19),
  ]  # fmt: skip
  # In three of seven ticks, or of nineteen, a stage has nothing to compute.
  assert few.attention == pytest.approx(7 / 4 * flat.attention)
  assert many.attention == pytest.approx(19 / 16 * flat.attention)
  # The head is not in the pipeline.
  head = 6 * 64 * 2048 * 2048 * 32_000
  rate = roofline.SUSTAINED * 16 * 728e12
  layers = flat.products - head / rate
  assert few.products - flat.products == pytest.approx(3 / 4 * layers)
  # Inputs of a quarter of the layers, of four times as many rows, and zeros.
  assert few.kept == pytest.approx(7 / 4 * flat.kept)
  # Rows of bfloat16 go on in each tick, and their gradients back.
  handed = 2 * 7 * (64 // 4 // 4) * 2048 * 2048 * 2
  assert few.collectives['stage'] == pytest.approx(handed / 1e12)
  with pytest.raises(ValueError, match='microbatches = 6 is no multiple of'):
    lay_out(large(**stages, microbatches=6), 16)


def test_hosts_share_their_adapters():
  chip = topologies.parse('h100:2x8').chip
  speeds = roofline.gpu_bandwidth(chip, {'data': 2, 'fsdp': 8}, 8)
  assert speeds == {'data': 50e9, 'fsdp': 450e9}
  # A ring over both hosts leaves each through eight adapters.
  assert roofline.gpu_bandwidth(chip, {'fsdp': 16}, 8) == {'fsdp': 400e9}


def test_the_run_takes_steps_hours_and_money():
  config = large(steps=1000)
  size = {
    'parameters': 10**9, 'step_seconds': 3.6, 'chips': 16,
    'advice': advise(config, parameters=10**9),
  }  # fmt: skip
  run = budget(config, **size, price=2.5)
  assert (run.steps, run.tokens) == (1000, 1000 * 64 * 2048)
  assert (run.hours, run.chip_hours, run.cost) == (1.0, 16.0, 40.0)
  assert run.loss is None
  free = budget(config, **size, price=None)
  assert free.cost is None


def test_text_and_json_tell_the_same(tmp_path):
  flags = {
    'topology': 'h100:2x8',
    'prices': {'h100': 3.0},
    'cache': None,
    'augmented': False,
    'searched': None,
    'data': (Repetition(name='', unique=250e6, epochs=5.24288),),
  }
  config = large(steps=10_000)
  found = json.loads(
    plan_run(config, **flags, workdir=tmp_path / 'run', as_json=True)
  )
  assert json.loads((tmp_path / 'run/plan.json').read_text()) == found
  text = plan_run(config, **flags, workdir=None, as_json=False)
  for part in (
    'h100:2x8, 16 chips; mesh: fsdp 16',
    report.gib(found['memory']['needed']),
    f'{found["speed"]["tokens_a_second"]:,.0f} tokens/s a chip',
    f'MFU {found["speed"]["mfu"]:.1%}',
    f'binds: {found["speed"]["binds"]}',
    '10,000 steps, 1,310,720,000 tokens',
    f'{found["budget"]["cost"]:,.0f} at 3 a chip-hour',
    'optimizer.learning_rate                     0.01',
    *(s['law'] for s in found['advice']['suggestions']),
    f'expected loss {found["budget"]["loss"]:.3f} nats a token (Besiroglu',
    'The data: 5.24 times 250M tokens',
    found['advice']['warnings'][0],
    '(layers embed mlp)',
  ):
    assert part in text, part
  assert found['advice']['losses'][0]['loss'] == found['budget']['loss']
  assert found['memory']['fits'] is True


def test_a_refusal_is_in_words_with_the_arrays():
  config = large(**{'model.remat': 'none'})
  plan = gpu_plan(**{'model.remat': 'none'})
  gib = 2**30
  memory = Memory(
    parameters=gib,
    optimizer=2 * gib,
    average=0,
    batch=0,
    temporaries=71 * gib,
    code=0,
    host=0,
    usable=16 * gib,
    placed=False,
    arrays=tuple(expected_arrays(config, plan.mesh)),
  )
  refused = dataclasses.replace(
    plan,
    method='compiled',
    memory=memory,
    refusal='RESOURCE_EXHAUSTED: Ran out of memory\n at 0x7f',
    speed=None,
    traffic=(),
    budget=None,
  )
  text = report.as_text(refused)
  assert 'beside the state of 3.00 GiB it needs 71.00 GiB' in text
  assert "model.remat = 'none'" in text
  assert '58.00 GiB too much' in text
  assert 'accumulation_steps' in text
  assert 'RESOURCE_EXHAUSTED' not in text
  assert as_json(refused)['memory']['fits'] is False
  # What the compiler reports is more than what it places.
  placed = dataclasses.replace(plan.memory, usable=gib, placed=True)
  assert placed.fits
  assert 'placed it in less' in report.memory_text(placed)


def test_the_search_ranks_what_fits_and_tells_why_others_do_not():
  config = large(batch_size=512)
  machine = topologies.parse('a100:1x8')
  found = search.search(
    config, machine, price=None, cache=NO_CACHE, augmented=False, compiled=3
  )
  planned = [c.plan for c in found if c.plan is not None]
  assert len(planned) >= 3
  steps = [p.speed.step for p in planned if p.memory.fits and p.speed]
  assert steps == sorted(steps)
  assert steps
  for candidate in found:
    assert math.prod(candidate.config.mesh.sizes) == 8
  failed = [c.why_not for c in found if c.why_not]
  assert any('most of it for activations kept' in why for why in failed)
  text = search_text(found)
  assert text.startswith('Best: --config.mesh.data=')
  assert 'Out of the question' in text


def test_a_search_needs_mesh_axes_that_divide():
  config = large(**{'mesh.context': 3, 'mesh.fsdp': 1})
  with pytest.raises(ValueError, match='take 3 of 8 devices'):
    list(search.variants(config, 8))


def test_the_cache_keeps_and_survives_a_broken_file(tmp_path):
  cache = Cache(str(tmp_path / 'kept'))
  assert cache.read('a') is None
  cache.write('a', {'text': 'é', 'n': 1})
  assert cache.read('a') == {'text': 'é', 'n': 1}
  (file,) = (tmp_path / 'kept').iterdir()
  file.write_bytes(file.read_bytes()[:-5])
  assert cache.read('a') is None
  NO_CACHE.write('a', {})
  assert NO_CACHE.read('a') is None


def test_a_plan_is_made_of_the_config_alone():
  # Two configurations that differ in what the plan does not depend on.
  def made(seed: int) -> Plan:
    values = cases.tiny_config(**LARGE, seed=seed)
    return make_plan(
      train_config(values),
      topologies.parse('h200:1x8'),
      price=None,
      cache=NO_CACHE,
    )

  assert made(1) == made(2)


def test_a_step_that_does_not_compile_is_planned_all_the_same(monkeypatch):
  if libtpu_version() is None:
    pytest.skip('libtpu is not installed: requirements/tpu.txt')
  for name, value in VARIABLES.items():
    monkeypatch.setenv(name, value)
  refusal = (
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (20.5G) exceeds available HBM (15.75G).'
  )
  program = Program(
    text='',
    memory={},
    refusal=refusal,
    flops={},
    compile_seconds=1,
    cached=False,
  )
  monkeypatch.setattr(
    plan_module, 'compile_program', lambda setup, cache, augmented: program
  )
  plan = make_plan(
    large(), topologies.parse('v5e:2x4'), price=None, cache=NO_CACHE
  )
  assert (plan.mesh['fsdp'], plan.chips, plan.speed) == (8, 8, None)
  assert plan.memory.temporaries == int(20.5 * 2**30)
  assert not plan.memory.fits
  whats = ' '.join(a.what for a in plan.memory.arrays)
  assert "(model.remat = 'full')" in whats
  assert 'optimizer: ' in whats
  assert 'Ran out' not in report.as_text(plan)
