"""A few steps of training, by one process of several; started as a program.

It joins the others by what its environment says, and prints what it found.
"""

import functools
import json
import sys

import cases
import jax
import numpy as np
from etils import epath

from input_pipeline.global_array import process_rows, to_global_array
from train.checkpoint import Checkpoints
from train.checkpoint_info import Info
from train.cluster.find import Given
from train.distributed import (
  check_same,
  first_process_does,
  join_cluster,
  wait_for_all,
)
from train.evaluate import Split, evaluate
from train.lock import alone_in
from train.mesh import batch_sharding
from train.state import abstract_state, init_state, state_shardings
from train.step import compile_step, jit_eval_step, jit_train_step

BATCH, SAVED, STEPS = 8, 2, 3
# More than a batch, and a rest that the first process alone holds rows of.
VALIDATION_ROWS = 9


@functools.cache
def program(count: int):
  """The shapes of the state, the steps, and what makes a batch of rows.

  Args:
    count: devices, which rows and parameters are split over.
  """
  # What is quick to compile.
  run = cases.recipe(
    **{
      'batch_size': BATCH,
      'mesh.fsdp': count,
      'model.num_layers': 1,
      'model.scan_layers': False,
      'model.positions': 'learned',
      'model.mlp': 'gelu',
      'loss.chunk': 32,
      'optimizer.name': 'sgd',
      'optimizer.weight_decay': 0.0,
    }
  )
  mesh = cases.mesh_of(run, count)
  rows = batch_sharding(
    mesh, run.config.mesh.rules, batch_size=BATCH, field='batch_size'
  )
  first, stop = process_rows(rows, BATCH)

  def batch(rows_BR: np.ndarray) -> jax.Array:
    return to_global_array(rows_BR[first:stop], rows, BATCH)

  shardings = state_shardings(run, mesh)
  abstract = abstract_state(run, shardings)
  example = batch(cases.packed_rows(batch=BATCH))
  train_step = compile_step(
    jit_train_step(run, cases.MARKS, shardings, rows), mesh, abstract, example
  )
  eval_step = compile_step(
    jit_eval_step(run, cases.MARKS, shardings, rows),
    mesh,
    abstract.eval_params,
    example,
  )
  wait_for_all()

  def fresh():
    return init_state(run, shardings)

  return fresh, abstract, train_step, eval_step, batch


def work(count: int, directory: epath.Path, start: int) -> dict:
  """Trains, saves on the way, and evaluates.

  Args:
    count: of the devices.
    directory: of the checkpoints.
    start: 0, or the step of a checkpoint to go on from.

  Returns:
    Loss and gradient norm of each step, by its number, and the evaluation.
  """
  fresh, abstract, train_step, eval_step, batch = program(count)
  found: dict = {}
  with Checkpoints(directory, keep_last=9) as checkpoints:
    state = checkpoints.restore(start, abstract) if start else fresh()
    whole = [leaf.is_fully_replicated for leaf in jax.tree.leaves(state)]
    assert all(whole) == (count == 1)
    for step in range(start + 1, STEPS + 1):
      rows_BR = cases.packed_rows(batch=BATCH, seed=step)
      state, metrics = train_step(state, batch(rows_BR))
      # Several steps in flight may block each other on CPUs.
      found[str(step)] = [
        metrics[name].item() for name in ('loss', 'grad_norm')
      ]
      if step == SAVED and not start:
        info = Info(step=step, config={}, data_fingerprint='f')
        checkpoints.save(state, info)
  splits = [Split(name='', batches=validation(batch), text_bytes=100)]
  found['evaluation'] = evaluate(eval_step, state.eval_params, splits)
  return found


def validation(batch):
  """Batches of all validation rows; the last is filled up with padding."""
  rows_NR = cases.packed_rows(batch=VALIDATION_ROWS, seed=99)
  rows_NR = np.pad(
    rows_NR, ((0, -len(rows_NR) % BATCH), (0, 0)), constant_values=cases.PAD
  )
  return [batch(part) for part in np.split(rows_NR, len(rows_NR) // BATCH)]


def refused(function, *arguments) -> str:
  """The message of the ValueError that a call must raise."""
  try:
    function(*arguments)
  except ValueError as error:
    return str(error)
  raise AssertionError


def fail() -> None:
  """What process 0 does in vain."""
  raise ValueError('no disk')


def main(directory: str) -> None:
  """Joins, trains, and tries what must fail on all processes alike."""
  cluster = join_cluster(Given(), expected=None)
  assert cluster is not None
  number = jax.process_index()
  assert number == cluster.process_id
  assert jax.local_device_count() == 1
  first_process_does(lambda: print('I am the first'), 'print')
  found = work(cluster.num_processes, epath.Path(directory), 0)
  check_same({'steps': STEPS, 'a list': [1, 'a']})
  found['differ'] = refused(check_same, {'rate': number, 'steps': STEPS})
  found['names'] = refused(check_same, {f'field {number}': 0})
  found['failed'] = refused(first_process_does, fail, 'save')
  with alone_in(epath.Path(directory)):
    found['locked'] = refused(alone_in(epath.Path(directory)).__enter__)
  print('found', json.dumps(found))


if __name__ == '__main__':
  main(sys.argv[1])
