"""Learning rate as a function of the step."""

import optax

from train.config import OptimizerConfig, check_choice


def _constant(config: OptimizerConfig) -> optax.Schedule:
  return optax.constant_schedule(config.learning_rate)


def _linear(config: OptimizerConfig) -> optax.Schedule:
  return optax.linear_schedule(
    config.learning_rate,
    config.learning_rate * config.final_fraction,
    config.steps - config.warmup_steps,
  )


def _cosine(config: OptimizerConfig) -> optax.Schedule:
  return optax.cosine_decay_schedule(
    config.learning_rate,
    max(1, config.steps - config.warmup_steps),
    alpha=config.final_fraction,
  )


def _wsd(config: OptimizerConfig) -> optax.Schedule:
  stable = config.steps - config.warmup_steps - config.decay_steps
  decay = optax.linear_schedule(
    config.learning_rate,
    config.learning_rate * config.final_fraction,
    config.decay_steps,
  )
  return optax.join_schedules(
    [optax.constant_schedule(config.learning_rate), decay], [stable]
  )


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
  after = SCHEDULES[config.schedule](config)
  if not config.warmup_steps:
    return after
  first = config.learning_rate / config.warmup_steps
  warmup = optax.linear_schedule(
    first, config.learning_rate, config.warmup_steps - 1
  )
  return optax.join_schedules([warmup, after], [config.warmup_steps])
