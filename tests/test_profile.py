"""A profile holds the steps that were asked for, and changes no result."""

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from train.profile import profiled


@jax.jit
def train_step(state, batch):
  """Stands for training; its metrics are the sum of all batches so far."""
  state = state + (batch @ batch).sum()
  return state, {'loss': state}


def run(
  workdir, *, start, steps=3, done=0, end=8, fails_at=None
) -> list[float]:
  """Metrics of the steps after `done` up to `end`."""
  losses, state = [], jnp.zeros(())
  arguments = {'start': start, 'steps': steps, 'done': done}
  with profiled(train_step, workdir=epath.Path(workdir), **arguments) as step:
    for number in range(done + 1, end + 1):
      if number == fails_at:
        raise FloatingPointError
      state, metrics = step(state, jnp.full((8, 8), number))
      losses.append(metrics['loss'].item())
  return losses


def profiled_steps(workdir) -> list[list[int]]:
  """Numbers of the steps that each profile holds."""
  found = []
  files = (workdir / 'profile/process_0/plugins/profile').glob('*/*.xplane.pb')
  for file in files:
    profile = jax.profiler.ProfileData.from_file(str(file))
    found.append(
      [
        dict(event.stats)['step_num']
        for plane in profile.planes
        for line in plane.lines
        for event in line.events
        if event.name == 'train'
      ]
    )
  return found


@pytest.mark.parametrize(
  ('start', 'steps', 'done', 'expected'),
  [
    (1, 1, 0, [[1]]),
    (3, 2, 0, [[3, 4]]),
    # Resumed within, just before and after the steps of the profile.
    (3, 3, 3, [[4, 5]]),
    (3, 3, 4, [[5]]),
    (3, 3, 5, []),
    (None, 3, 0, []),
    # The run ends early.
    (7, 3, 0, [[7, 8]]),
    (9, 3, 0, []),
  ],
)
def test_holds_the_steps_that_were_asked_for(
  tmp_path, start, steps, done, expected
):
  losses = run(tmp_path, start=start, steps=steps, done=done)
  assert losses == run(tmp_path / 'other', start=None, done=done)
  assert profiled_steps(tmp_path) == expected


def test_a_run_that_fails_keeps_its_profile(tmp_path):
  with pytest.raises(FloatingPointError):
    run(tmp_path, start=2, steps=4, fails_at=4)
  assert profiled_steps(tmp_path) == [[2, 3]]


def test_the_profile_holds_the_work_of_its_last_step(tmp_path):
  @jax.jit
  def slow_step(state, batch):
    def body(_, x):
      return jnp.sin(x @ x)

    state = jax.lax.fori_loop(0, 200, body, jnp.full((128, 128), state)).sum()
    return state, {'loss': state}

  state = jnp.zeros(())
  with profiled(
    slow_step, start=2, steps=1, done=0, workdir=epath.Path(tmp_path)
  ) as step:
    for _ in range(2):
      state, metrics = step(state, None)
    assert metrics['loss'].is_ready()
    # Written at once, not at the end of the run.
    assert profiled_steps(tmp_path) == [[2]]
