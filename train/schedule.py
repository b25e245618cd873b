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
  begin = config.steps - config.decay_steps
  # Without a decay the rate of the last step, too, is the peak.
  fall = jnp.where(config.decay_steps > 0, 1 - config.final_fraction, 0.0)
  return 1 - fall * _share(step, begin, config.steps)


def _share(step: jax.Array, begin, end) -> jax.Array:
  """How much of the way from one step to another is done, 0 to 1."""
  return jnp.clip((step - begin) / jnp.maximum(end - begin, 1), 0, 1)


SCHEDULES = {
  'constant': _constant,
  'linear': _linear,
  'cosine': _cosine,
  'wsd': _wsd,
}


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
  """Linear warm-up to the peak, then the configured shape until the last step.

  Step 0 takes learning_rate / warmup_steps, so that no update is void.

  Raises:
    ValueError: there is no such schedule.
  """
  check_choice('optimizer.schedule', config.schedule, tuple(SCHEDULES))
  shape = SCHEDULES[config.schedule]

  def rate(count: jax.Array) -> jax.Array:
    step = jnp.asarray(count, jnp.float32)
    warmup = jnp.asarray(config.warmup_steps, jnp.float32)
    share = jnp.minimum((step + 1) / jnp.maximum(warmup, 1), 1)
    return config.learning_rate * jnp.where(
      step < warmup, share, shape(config, step)
    )

  return rate
