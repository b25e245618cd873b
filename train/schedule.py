"""Learning rate as a function of the step.

Without branches: peak, warm-up and lengths may be arrays of a compiled program,
so that one program serves many schedules (optax's schedules take numbers only).
"""

import jax
import jax.numpy as jnp
import optax

from train.config import OptimizerConfig, check_choice


def _constant(config: OptimizerConfig, step: jax.Array) -> jax.Array:
  del config
  return jnp.ones_like(step)


def _linear(config: OptimizerConfig, step: jax.Array) -> jax.Array:
  done = _share(step, config.warmup_steps, config.steps)
  return 1 - (1 - config.final_fraction) * done


def _cosine(config: OptimizerConfig, step: jax.Array) -> jax.Array:
  done = _share(step, config.warmup_steps, config.steps)
  left = (1 + jnp.cos(jnp.pi * done)) / 2
  return config.final_fraction + (1 - config.final_fraction) * left


def _wsd(config: OptimizerConfig, step: jax.Array) -> jax.Array:
  return _decay(config, step, config.steps - config.decay_steps, config.steps)


def _decay(config: OptimizerConfig, step: jax.Array, begin, end) -> jax.Array:
  # Without a decay the rate of the last step, too, is the peak.
  fall = jnp.where(config.decay_steps > 0, 1 - config.final_fraction, 0.0)
  return 1 - fall * _share(step, begin, end)


def _share(step: jax.Array, begin, end) -> jax.Array:
  """How much of the way from one step to another is done, 0 to 1."""
  return jnp.clip((step - begin) / jnp.maximum(end - begin, 1), 0, 1)


SCHEDULES = {
  'constant': _constant,
  'linear': _linear,
  'cosine': _cosine,
  'wsd': _wsd,
}
# Those that are constant until a decay, which may begin earlier than planned.
CONSTANT = ('constant', 'wsd')


def planned_decay(config: OptimizerConfig):
  """The step at which a CONSTANT schedule decays; the last if it does not."""
  assert config.schedule in CONSTANT
  if config.schedule == 'constant':
    return config.steps
  return config.steps - config.decay_steps


def make_schedule(config: OptimizerConfig, decay_begin=None) -> optax.Schedule:
  """Linear warm-up to the peak, then the configured shape until the last step.

  Step 0 takes learning_rate / warmup_steps, so that no update is void.

  Args:
    config: optimizer section.
    decay_begin: step at which the decay of a CONSTANT schedule begins, a number
      or an array; None: as planned.

  Raises:
    ValueError: there is no such schedule.
  """
  check_choice('optimizer.schedule', config.schedule, tuple(SCHEDULES))

  def shape(step: jax.Array) -> jax.Array:
    if decay_begin is None:
      return SCHEDULES[config.schedule](config, step)
    end = jnp.minimum(decay_begin + config.decay_steps, config.steps)
    return _decay(config, step, decay_begin, end)

  def rate(count: jax.Array) -> jax.Array:
    step = jnp.asarray(count, jnp.float32)
    warmup = jnp.asarray(config.warmup_steps, jnp.float32)
    share = jnp.minimum((step + 1) / jnp.maximum(warmup, 1), 1)
    return config.learning_rate * jnp.where(step < warmup, share, shape(step))

  return rate
