"""Devices that hold or compute other numbers are found and named."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from faulty_main import with_a_flipped_bit
from processes import ROOT, Cluster

import train.device_check
from train.device_check import SuspectDeviceError, device_check
from train.exits import HARDWARE_SUSPECT
from train.setup import make_setup
from train.state import init_state

MESHES = [
  {'data': 4},
  pytest.param({'data': 2, 'fsdp': 2}, marks=pytest.mark.slow),
  pytest.param({'fsdp': 2, 'tensor': 2}, marks=pytest.mark.slow),
]


def checked(mesh, **fields):
  """A setup on four devices, a state, a batch, and the check."""
  sizes = {f'mesh.{name}': size for name, size in mesh.items()}
  config = cases.tiny_train_config(
    **{'mesh.data': 1, 'batch_size': 8} | sizes | fields
  )
  setup = make_setup(config, jax.devices()[:4])
  state = init_state(setup.recipe, setup.shardings)
  batch = jax.device_put(cases.packed_rows(batch=8), setup.batch_sharding)
  return setup, state, batch, device_check(setup, cases.MARKS)


@pytest.mark.parametrize('mesh', MESHES, ids=str)
def test_devices_that_agree_pass(mesh):
  _, state, batch, check = checked(mesh)
  for _ in range(2):
    check(state, batch, 1)


@pytest.mark.parametrize('mesh', MESHES[:2], ids=str)
def test_a_flipped_bit_in_one_copy_is_found(mesh):
  setup, state, batch, check = checked(mesh)
  device = setup.mesh.devices.flatten()[2]
  bad = with_a_flipped_bit(state, 'norm', device, bit=3)
  with pytest.raises(SuspectDeviceError) as error:
    check(bad, batch, 7)
  text = str(error.value)
  assert 'Step 7' in text
  (line,) = [line for line in text.splitlines() if 'other bits' in line]
  assert f'device {device.id} of process 0' in line.partition(' hold ')[0]
  if mesh == {'data': 4}:
    # Three against one.
    assert line.count('device') == 4
    assert 'device' in line.partition(' than ')[2]


def test_gradients_that_come_out_in_two_ways_are_found(monkeypatch):
  plain, calls = train.device_check.gradients, []

  def count():
    calls.append(1)
    return np.float32(len(calls))

  def gradients(*arguments, **rest):
    grads, sums = plain(*arguments, **rest)
    factor = jax.pure_callback(count, jax.ShapeDtypeStruct((), jnp.float32))
    return grads | {'embedding': grads['embedding'] * factor}, sums

  monkeypatch.setattr(train.device_check, 'gradients', gradients)
  _, state, batch, check = checked({'data': 4})
  with pytest.raises(SuspectDeviceError, match=r'in two ways on .*: embedding'):
    check(state, batch, 1)


def test_a_product_that_comes_out_otherwise_is_found(monkeypatch):
  def product(mesh):
    own_D = jnp.arange(mesh.size) == 1
    return jnp.where(own_D, jnp.uint32(5), jnp.uint32(6))

  monkeypatch.setattr(train.device_check, 'product_by_device', product)
  setup, state, batch, check = checked({'data': 4})
  device = setup.mesh.devices.flatten()[1]
  with pytest.raises(
    SuspectDeviceError, match=rf'device {device.id} of process 0 multipl'
  ):
    check(state, batch, 1)


@pytest.mark.slow
def test_a_run_ends_at_the_next_check_and_saves_nothing_of_it(tmp_path):
  fields = {'device_check__every': 5, 'mesh__data': 4, 'batch_size': 8}
  arguments = runs.command('train', tmp_path, 'run', **fields)
  arguments[1] = str(ROOT / 'tests' / 'faulty_main.py')
  fault = {'kind': 'bit', 'step': 8, 'device': 2}
  environment = runs.environment(4) | {'FAULT': repr(fault)}
  with Cluster([arguments], [environment], tmp_path) as cluster:
    (output,) = cluster.wait([HARDWARE_SUSPECT])
  assert 'Step 10: the devices do not agree' in output
  assert 'device 2 of process 0 hold other bits than' in output
  saved = [int(p.name) for p in (tmp_path / 'run/checkpoints').iterdir()]
  assert saved == [7]
