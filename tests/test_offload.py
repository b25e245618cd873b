"""What lies in the host's memory changes where arrays are, and nothing else."""

import cases
import jax
import numpy as np
import pytest

from train.mesh import batch_sharding
from train.state import init_state, state_shardings
from train.step import jit_eval_step, jit_train_step

STATE = {'offload.parameters': True, 'offload.optimizer': True}
MESH = {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2}
AVERAGE = {'optimizer.ema_decay': 0.9}


def run(rows_BR, steps=2, **overrides):
  """Metrics of each step, the state after them, and where it should lie."""
  recipe = cases.recipe(**MESH | overrides)
  mesh = cases.mesh_of(recipe, 8)
  shardings = state_shardings(recipe, mesh)
  rows = batch_sharding(
    mesh,
    recipe.config.mesh.rules,
    batch_size=len(rows_BR),
    field='batch_size',
  )
  step = jit_train_step(recipe, cases.MARKS, shardings, rows)
  evaluate = jit_eval_step(recipe, cases.MARKS, shardings, rows)
  found = []
  with jax.set_mesh(mesh):
    state = jax.device_put(cases.random_state(recipe), shardings)
    rows_BR = jax.device_put(rows_BR, rows)
    for _ in range(steps):
      state, metrics = step(state, rows_BR)
      found.append(metrics)
    found.append(evaluate(state.eval_params, rows_BR))
  return found, state, shardings
