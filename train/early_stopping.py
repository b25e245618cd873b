"""When to stop early: a pure function of the evaluations so far."""

import dataclasses
import math

from train.config import EarlyStoppingConfig


@dataclasses.dataclass(frozen=True)
class Best:
  """The best evaluation so far, and how long ago it was."""

  # The metric's lowest value; None before the first evaluation.
  value: float | None
  # The step it was measured at.
  step: int | None
  # Evaluations in a row without an improvement.
  waited: int


NO_EVALUATION = Best(value=None, step=None, waited=0)


def observe(
  best: Best, value: float, step: int, config: EarlyStoppingConfig
) -> Best:
  """Takes one evaluation into account.

  Args:
    best: the state before.
    value: the metric; lower is better. Not a number is never an improvement.
    step: the step of the evaluation.
    config: what counts as an improvement.
  """
  reference = math.inf if best.value is None else best.value - config.min_delta
  if value < reference:
    return Best(value=value, step=step, waited=0)
  return dataclasses.replace(best, waited=best.waited + 1)


def should_stop(best: Best, config: EarlyStoppingConfig) -> bool:
  """Whether patience has run out."""
  return config.enabled and best.waited >= config.patience
