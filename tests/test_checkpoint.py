"""Checkpoints: what is saved comes back, on any mesh, or an error says why."""

import math

import jax
import numpy as np
import pytest
from cases import recipe
from etils import epath

from train.checkpoint import Checkpoints
from train.checkpoint_info import Info
from train.early_stopping import NO_EVALUATION, Best, Seen
from train.mesh import make_mesh
from train.state import abstract_state, init_state, state_shardings


def laid_out(run):
  """A fresh state of a run and its abstract twin, on the run's mesh."""
  count = math.prod(run.config.mesh.sizes)
  mesh = make_mesh(run.config.mesh, jax.devices()[:count])
  shardings = state_shardings(run, mesh)
  return init_state(run, shardings), abstract_state(run, shardings)


def info(step: int, best: Best = NO_EVALUATION) -> Info:
  return Info(
    step=step, config={'a': [1]}, data_fingerprint='f', seen=Seen(best=best)
  )


def assert_same(left, right):
  jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize('optimizer', ['adamw', 'muon', 'adafactor'])
def test_restores_bit_for_bit_onto_another_mesh(tmp_path, optimizer):
  options = {'optimizer.name': optimizer, 'optimizer.ema_decay': 0.9}
  state, _ = laid_out(recipe(**options, **{'mesh.data': 2, 'mesh.tensor': 2}))
  with Checkpoints(epath.Path(tmp_path) / 'c', keep_last=2) as checkpoints:
    checkpoints.save(state, info(4))
  other, abstract = laid_out(
    recipe(**options, **{'mesh.fsdp': 4, 'mesh.data': 2})
  )
  with Checkpoints(epath.Path(tmp_path) / 'c', keep_last=2) as checkpoints:
    assert checkpoints.newest() == info(4)
    restored = checkpoints.restore(4, abstract)
    params = checkpoints.restore_params(4, abstract)
  assert_same(restored, state)
  assert_same(params, state.ema)
  jax.tree.map(
    lambda leaf, wanted: leaf.sharding == wanted.sharding, restored, other
  )


def test_keeps_the_newest_and_the_best(tmp_path):
  state, _ = laid_out(recipe())
  directory = epath.Path(tmp_path) / 'c'
  with Checkpoints(directory, keep_last=2) as checkpoints:
    for step in range(1, 7):
      best = Best(value=1.0, step=min(step, 2), waited=0)
      checkpoints.save(state, info(step, best))
  with Checkpoints(directory, keep_last=None) as checkpoints:
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.find('best') == 2
    assert checkpoints.find('last') == 6
    assert checkpoints.find('5') == 5
    with pytest.raises(ValueError, match=r'\[2, 5, 6\]'):
      checkpoints.find('4')
  # A process that goes on keeps the best, too.
  with Checkpoints(directory, keep_last=2) as checkpoints:
    for step in (7, 8, 9):
      best = Best(value=1.0, step=2, waited=step)
      checkpoints.save(state, info(step, best))
  with Checkpoints(directory, keep_last=None) as checkpoints:
    assert checkpoints.steps() == [2, 8, 9]


def test_none_is_removed_while_there_are_fewer_than_are_kept(tmp_path):
  state, _ = laid_out(recipe())
  with Checkpoints(epath.Path(tmp_path) / 'c', keep_last=4) as checkpoints:
    for step in range(1, 5):
      checkpoints.save(state, info(step))
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3, 4]
    checkpoints.save(state, info(5))
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3, 4, 5]


def test_a_checkpoint_of_another_model_is_told_leaf_by_leaf(tmp_path):
  state, _ = laid_out(recipe())
  directory = epath.Path(tmp_path) / 'c'
  with Checkpoints(directory, keep_last=2) as checkpoints:
    checkpoints.save(state, info(1))
  changes = {'model.mlp_dim': 96, 'model.tie_embeddings': False}
  _, abstract = laid_out(recipe(**changes))
  with (
    Checkpoints(directory, keep_last=None) as checkpoints,
    pytest.raises(ValueError, match='another model') as error,
  ):
    checkpoints.restore(1, abstract)
  message = str(error.value)
  assert 'params.head: saved nothing, wanted float32 [64, 32]' in message
  assert (
    'params.blocks.mlp.up.weight: saved float32 [2, 32, 64], wanted '
    'float32 [2, 32, 96]'
  ) in message
  assert 'params.embedding' not in message


def test_an_unfinished_save_is_not_taken_for_a_checkpoint(tmp_path):
  state, _ = laid_out(recipe())
  directory = epath.Path(tmp_path) / 'c'
  with Checkpoints(directory, keep_last=2) as checkpoints:
    checkpoints.save(state, info(1))
    checkpoints.save(state, info(2))
  # What a kill in the middle of a save leaves: a step under a working name.
  (directory / '2').rename(directory / '2.orbax-checkpoint-tmp')
  with Checkpoints(directory, keep_last=2) as checkpoints:
    assert checkpoints.steps() == [1]
    checkpoints.save(state, info(2))
  with Checkpoints(directory, keep_last=None) as checkpoints:
    assert checkpoints.steps() == [1, 2]
