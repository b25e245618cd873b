"""main.py with a fault in it: started as a program, by tests.

The environment says which: FAULT is a dict as Python writes it, with 'kind', a
name in FAULTS; 'process', which it is in (all by default); 'step', after which
it happens; what else the kind asks for.
"""

import ast
import os
import pathlib
import runpy
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
FAULT = ast.literal_eval(os.environ.get('FAULT', '{}'))


def here() -> bool:
  import jax

  return FAULT.get('process') in (None, jax.process_index())


def after_a_step(act) -> None:
  """Acts after the step of the fault was dispatched."""
  from train.run import Run

  plain = Run.made_a_step

  def made_a_step(self, metrics):
    plain(self, metrics)
    if self.step == FAULT['step'] and here():
      act(self)

  Run.made_a_step = made_a_step


def hang(run) -> None:
  print('stuck', flush=True)
  time.sleep(1000)


def fail(run) -> None:
  raise RuntimeError('an injected error')


def with_a_flipped_bit(state, name, device, bit):
  """The state, with one bit of one array's copy on one device changed."""
  import jax
  import numpy as np

  def change(path, leaf):
    if name not in jax.tree_util.keystr(path) or changed:
      return leaf
    changed.append(path)
    parts = []
    for shard in leaf.addressable_shards:
      values = np.array(shard.data)
      if shard.device == device:
        values.reshape(-1).view(np.uint32)[0] ^= 1 << bit
      parts.append(jax.device_put(values, shard.device))
    return jax.make_array_from_single_device_arrays(
      leaf.shape, leaf.sharding, parts
    )

  changed: list = []
  state = jax.tree_util.tree_map_with_path(change, state)
  assert changed
  return state


def flip_bit(run) -> None:
  import jax

  device = jax.devices()[FAULT['device']]
  run.state = with_a_flipped_bit(run.state, 'norm', device, 12)


def other_program() -> None:
  import train.step

  plain = train.step.optax.apply_updates

  def apply_updates(params, updates):
    import jax

    factor = 1.01 if here() else 1.0
    return plain(params, jax.tree.map(lambda u: u * factor, updates))

  train.step.optax.apply_updates = apply_updates


def bad_gradients() -> None:
  """Multiplies the gradients of some batches, told by their first rows."""
  import jax
  import jax.numpy as jnp

  import train.step

  plain, factors = train.step.gradients, FAULT['factors']

  def gradients(params, batch, key, *, recipe, marks):
    grads, sums = plain(params, batch, key, recipe=recipe, marks=marks)
    keys = [
      train.step.dropout_key(recipe.config.seed, step - 1) for step in factors
    ]
    hits = jnp.stack([(key == other).all() for other in keys])
    # A fault of the batch, not of the step, is gone with its batch.
    if 'batch' in FAULT:
      hits = jnp.array([(jnp.sum(batch) == FAULT['batch'])])
    factor = jnp.where(hits, jnp.array(list(factors.values())), 1.0).prod()
    return jax.tree.map(lambda g: g * factor, grads), sums

  train.step.gradients = gradients


def slow_compile() -> None:
  """The main thread is out of Python's reach, as in the compiler."""
  import ctypes

  import train.loop

  plain = train.loop.compile_lowered

  def compile_lowered(*arguments):
    print('compiling', file=sys.stderr, flush=True)
    ctypes.CDLL(None).sleep(60)
    return plain(*arguments)

  train.loop.compile_lowered = compile_lowered


def slow_evaluation() -> None:
  import train.run

  plain = train.run.evaluate

  def evaluate(eval_step, params, splits, before_batch):
    def slowly():
      print('evaluating', file=sys.stderr, flush=True)
      time.sleep(0.2)
      before_batch()

    return plain(eval_step, params, splits, slowly)

  train.run.evaluate = evaluate


def slow_save() -> None:
  """A save that takes a while, in the background."""
  from train.checkpoint import Checkpoints

  plain = Checkpoints._finish

  def finish(self, response, prints, info):
    print(f'saving {info.step}', file=sys.stderr, flush=True)
    time.sleep(2)
    plain(self, response, prints, info)

  Checkpoints._finish = finish


def no_disk() -> None:
  """No save can begin from a step on."""
  from train.checkpoint import Checkpoints
  from train.checkpoint_info import SaveError

  plain = Checkpoints.save

  def save(self, state, info):
    if info.step >= FAULT['step']:
      raise SaveError('there is no disk')
    plain(self, state, info)

  Checkpoints.save = save


FAULTS = {
  'no_disk': no_disk,
  'hang': lambda: after_a_step(hang),
  'raise': lambda: after_a_step(fail),
  'bit': lambda: after_a_step(flip_bit),
  'program': other_program,
  'gradients': bad_gradients,
  'slow_compile': slow_compile,
  'slow_evaluation': slow_evaluation,
  'slow_save': slow_save,
}

if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))
  FAULTS[FAULT['kind']]()
  sys.argv[0] = str(ROOT / 'main.py')
  runpy.run_path(sys.argv[0], run_name='__main__')
