"""Steps whose numbers are bad, told on the devices before the update.

A step is bad if its loss or its gradient is not finite or, where a limit is
set, if one of them stands far above those of the last good steps. Bad ones
never enter what later ones are compared with.
"""

import jax
import jax.numpy as jnp
from flax import struct

# Good steps that a step is compared with, and how many there must be for that.
_WINDOW, _FEWEST = 128, 16
# The median deviation from the median is this part of a normal distribution's
# standard deviation (Rousseeuw and Croux 1993).
_MEDIAN_DEVIATION = 0.6745
# Values that hardly vary have some deviation still: this part of their median.
_SMALLEST_DEVIATION = 0.01


class BadNumbersError(RuntimeError):
  """Loss or gradient broke down, and the run is not to go on."""


@struct.dataclass
class History:
  """What a step is compared with; a part of the state.

  Attributes:
    values_2W: loss and gradient norm of the last good steps, in no order.
    good: good steps so far.
    bad_in_row: bad steps since the last good one.
  """

  values_2W: jax.Array
  good: jax.Array
  bad_in_row: jax.Array


@struct.dataclass
class Verdict:
  """What is wrong with a step.

  Attributes:
    bad: whether its update is to be skipped.
    score: by how many standard deviations loss or gradient norm, whichever is
      more, lies above the median of the last good steps; 0 before there are
      enough of them.
  """

  bad: jax.Array
  score: jax.Array


def new_history() -> History:
  """That of a run which begins."""
  return History(
    values_2W=jnp.zeros((2, _WINDOW), jnp.float32),
    good=jnp.zeros((), jnp.int32),
    bad_in_row=jnp.zeros((), jnp.int32),
  )


def judge(
  history: History,
  loss: jax.Array,
  grad_norm: jax.Array,
  *,
  limit: float | None,
) -> Verdict:
  """Compares a step with the last good ones.

  Median and median deviation, in place of mean and standard deviation, are not
  moved by the odd value that is let pass.

  Args:
    history: the last good steps.
    loss: of the step.
    grad_norm: of the step.
    limit: the score above which a step is bad; None: any finite step is good.
  """
  # Nothing here is computed before the gradients are there: in the middle of
  # them it made the TPU compiler keep a third more on the chip.
  history, loss, grad_norm = jax.lax.optimization_barrier(
    (history, loss, grad_norm)
  )
  value_2 = jnp.stack([loss, grad_norm]).astype(jnp.float32)
  values_2W = jnp.where(
    jnp.arange(_WINDOW) < history.good, history.values_2W, jnp.nan
  )
  median_2 = jnp.nanmedian(values_2W, axis=1)
  deviation_2 = jnp.nanmedian(jnp.abs(values_2W - median_2[:, None]), axis=1)
  unit_2 = jnp.maximum(
    deviation_2 / _MEDIAN_DEVIATION, _SMALLEST_DEVIATION * jnp.abs(median_2)
  )
  score = ((value_2 - median_2) / jnp.maximum(unit_2, 1e-30)).max()
  score = jnp.where(history.good < _FEWEST, 0.0, score)
  finite = jnp.isfinite(value_2).all()
  stands_out = jnp.zeros((), bool) if limit is None else score > limit
  return Verdict(bad=~finite | stands_out, score=score)


def remember(
  history: History, loss: jax.Array, grad_norm: jax.Array, bad: jax.Array
) -> History:
  """The history after a step; a good one takes the place of the oldest."""
  value_2 = jnp.stack([loss, grad_norm]).astype(jnp.float32)
  place = history.good % _WINDOW
  values_2W = history.values_2W.at[:, place].set(
    jnp.where(bad, history.values_2W[:, place], value_2)
  )
  return History(
    values_2W=values_2W,
    good=history.good + ~bad,
    bad_in_row=jnp.where(bad, history.bad_in_row + 1, 0),
  )
