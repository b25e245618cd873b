"""When a run ends before its last step: pure functions of what was seen.

What the rules know is a part of a checkpoint, and the same on all hosts: means
over all rows, and times that the hosts have agreed on. What a rule says follows
from that and from the configuration alone. To add a rule, write it and enter it
in `RULES`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

from train.config import TrainConfig
from train.schedule import CONSTANT, planned_decay

# What becomes of a run: it ends well, it has failed, or it goes on for the
# decay of its learning rate.
END, FAIL, COOL_DOWN = 'end', 'fail', 'cool_down'


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
  """What the rules know of a run.

  Attributes:
    best: the best evaluation.
    loss_sum: of the training losses of the good steps since the last
      evaluation; means of such steps are what follows calls training losses.
    loss_count: how many they are.
    lowest_training: the lowest training loss.
    lowest_validation: the lowest validation loss.
    training_at_best: the training loss up to the best evaluation.
    diverging: evaluations in a row with a loss far above the lowest.
    overfitting: evaluations in a row with a metric above the best and a
      training loss below that at the best.
    cooldown: step at which a plateau began the decay of the learning rate.
    out_of_time: step at which the hosts agreed that the hours are over.
    seconds: that the run had taken then.
  """

  best: Best = NO_EVALUATION
  loss_sum: float = 0.0
  loss_count: int = 0
  lowest_training: float | None = None
  lowest_validation: float | None = None
  training_at_best: float | None = None
  diverging: int = 0
  overfitting: int = 0
  cooldown: int | None = None
  out_of_time: int | None = None
  seconds: int = 0


NOTHING = Seen()


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a rule says.

  Attributes:
    rule: its name.
    action: END, FAIL or COOL_DOWN.
    why: in a sentence.
  """

  rule: str
  action: str
  why: str

  def told(self, step: int) -> str:
    """What a person is told, at the step of the verdict."""
    what = {
      END: 'Stopped early',
      FAIL: 'Failed',
      COOL_DOWN: 'Cool-down begins',
    }[self.action]
    return f'{what} at step {step} ({self.rule}): {self.why}'


def trained(seen: Seen, loss: float, count: int = 1) -> Seen:
  """Takes good steps into account.

  Args:
    seen: before them.
    loss: sum of their training losses.
    count: how many they are.
  """
  return dataclasses.replace(
    seen, loss_sum=seen.loss_sum + loss, loss_count=seen.loss_count + count
  )


def timed(seen: Seen, step: int, seconds: int, config: TrainConfig) -> Seen:
  """Takes the time into account.

  Args:
    seen: before.
    step: steps made.
    seconds: that the run has taken so far, as all hosts know it.
    config: the run.
  """
  hours = config.early_stopping.max_hours
  if hours is None or seconds < 3600 * hours or _time_is_over(seen, config):
    return seen
  return dataclasses.replace(seen, out_of_time=step, seconds=seconds)


def _time_is_over(seen: Seen, config: TrainConfig) -> bool:
  """Whether it was found to be, by the hours that the run has now."""
  hours = config.early_stopping.max_hours
  return (
    hours is not None
    and seen.out_of_time is not None
    and seen.seconds >= 3600 * hours
  )


def observe(
  seen: Seen, step: int, result: Mapping[str, float], config: TrainConfig
) -> tuple[Seen, Verdict | None]:
  """Takes one evaluation into account.

  Args:
    seen: before it.
    step: that was evaluated.
    result: 'loss' and the metric of early stopping, of the validation split.
    config: the run.

  Returns:
    What was seen, and what is to be done about it; None: the run goes on.
  """
  rule = config.early_stopping
  value, loss = result[rule.metric], result['loss']
  training = seen.loss_sum / seen.loss_count if seen.loss_count else None
  best = improve(seen.best, value, step, rule.min_delta)
  diverges = _far_above(loss, seen.lowest_validation, rule.divergence) or (
    training is not None
    and _far_above(training, seen.lowest_training, rule.divergence)
  )
  overfits = (
    best.value is not None
    and value > best.value + rule.min_delta
    and training is not None
    and seen.training_at_best is not None
    and training < seen.training_at_best
  )
  seen = dataclasses.replace(
    seen,
    best=best,
    loss_sum=0.0,
    loss_count=0,
    lowest_training=_lowest(training, seen.lowest_training),
    lowest_validation=_lowest(loss, seen.lowest_validation),
    training_at_best=training if best.step == step else seen.training_at_best,
    diverging=seen.diverging + 1 if diverges else 0,
    overfitting=seen.overfitting + 1 if overfits else 0,
  )
  verdict = judge(seen, step, config)
  if verdict is not None and verdict.action == COOL_DOWN:
    seen = dataclasses.replace(seen, cooldown=step)
  return seen, verdict


def improve(best: Best, value: float, step: int, min_delta: float) -> Best:
  """The best evaluation after one more.

  Args:
    best: before it.
    value: its metric; lower is better. Not a number is never an improvement.
    step: that was evaluated.
    min_delta: an improvement is a fall by more than this.
  """
  reference = math.inf if best.value is None else best.value - min_delta
  if value < reference:
    return Best(value=value, step=step, waited=0)
  return dataclasses.replace(best, waited=best.waited + 1)


def _far_above(loss: float, lowest: float | None, limit: float | None) -> bool:
  if limit is None:
    return False
  reference = math.inf if lowest is None else lowest + limit
  return not math.isfinite(loss) or loss > reference


def _lowest(loss: float | None, before: float | None) -> float | None:
  if loss is None or not math.isfinite(loss):
    return before
  return loss if before is None else min(loss, before)


def may_cool_down(config: TrainConfig) -> bool:
  """Whether a plateau can begin the decay of the learning rate.

  It is a part of the program then: the state has a number for it.
  """
  return config.early_stopping.enabled and config.optimizer.schedule in CONSTANT


def last_step(seen: Seen, config: TrainConfig) -> int:
  """The step at which the run ends, as far as that is known."""
  ends = [config.steps]
  if seen.cooldown is not None:
    ends.append(seen.cooldown + config.optimizer.decay_steps)
  if (tokens := config.early_stopping.max_tokens) is not None:
    ends.append(-(-tokens // _tokens_per_step(config)))
  if _time_is_over(seen, config):
    assert seen.out_of_time is not None
    ends.append(seen.out_of_time)
  return min(ends)


def is_over(seen: Seen, step: int, config: TrainConfig) -> bool:
  """Whether the run ends at a step; it is evaluated then."""
  if step >= config.steps:
    return True
  verdict = judge(seen, step, config)
  return verdict is not None and verdict.action != COOL_DOWN


def judge(seen: Seen, step: int, config: TrainConfig) -> Verdict | None:
  """What is to be done at a step; None: the run goes on, or makes its last."""
  for rule, says in RULES.items():
    if (said := says(seen, step, config)) is not None:
      return Verdict(rule, *said)
  return None


def _divergence(seen: Seen, step: int, config: TrainConfig):
  del step
  rule = config.early_stopping
  if rule.divergence is None or seen.diverging < rule.divergence_patience:
    return None
  lowest = (seen.lowest_training, seen.lowest_validation)
  training, validation = (
    'none' if loss is None else f'{loss:.4f}' for loss in lowest
  )
  return FAIL, (
    f'{seen.diverging} evaluation(s) in a row with a loss that is not finite '
    f'or more than {rule.divergence:g} nats above the lowest (training '
    f'{training}, validation {validation}). Lower '
    'optimizer.learning_rate or lengthen optimizer.warmup_steps.'
  )


def _target(seen: Seen, step: int, config: TrainConfig):
  del step
  rule, best = config.early_stopping, seen.best
  if rule.target is None or best.value is None or best.value > rule.target:
    return None
  return END, (
    f'{rule.metric} is {best.value:.4f}, and the target is {rule.target:g}.'
  )


def _overfitting(seen: Seen, step: int, config: TrainConfig):
  del step
  rule, best = config.early_stopping, seen.best
  if rule.overfitting is None or seen.overfitting < rule.overfitting:
    return None
  return END, (
    f'{seen.overfitting} evaluation(s) in a row with a {rule.metric} above the '
    f'{best.value:.4f} of step {best.step}, though the training loss is below '
    f'the {seen.training_at_best:.4f} of then.'
  )


def _plateau(seen: Seen, step: int, config: TrainConfig):
  rule, optimizer = config.early_stopping, config.optimizer
  if seen.cooldown is not None:
    if step < seen.cooldown + optimizer.decay_steps:
      return None
    return END, f'the cool-down that began at step {seen.cooldown} is over.'
  if not rule.enabled or seen.best.waited < rule.patience:
    return None
  why = (
    f'{seen.best.waited} evaluation(s) without an improvement of {rule.metric} '
    f'by more than {rule.min_delta:g}'
  )
  if not may_cool_down(config) or not optimizer.decay_steps:
    return END, f'{why}.'
  if not optimizer.warmup_steps <= step < planned_decay(optimizer):
    return None
  end = min(step + optimizer.decay_steps, config.steps)
  return COOL_DOWN, (
    f'{why}. The learning rate falls from here on, and the run ends with that '
    f'at step {end}.'
  )


def _budget(seen: Seen, step: int, config: TrainConfig):
  rule = config.early_stopping
  tokens = step * _tokens_per_step(config)
  if rule.max_tokens is not None and tokens >= rule.max_tokens:
    return END, f'{tokens:,} tokens, and the budget is {rule.max_tokens:,}.'
  if _time_is_over(seen, config):
    hours = f'{seen.seconds / 3600:.2f}'
    return END, f'{hours} hours, and the budget is {rule.max_hours:g}.'
  return None


def _tokens_per_step(config: TrainConfig) -> int:
  return config.batch_size * config.sequence_length


# The first that says something is obeyed.
RULES: dict[str, Callable[[Seen, int, TrainConfig], tuple[str, str] | None]] = {
  'divergence': _divergence,
  'target': _target,
  'overfitting': _overfitting,
  'plateau': _plateau,
  'budget': _budget,
}
# Values of their fields with which none of them says anything.
OFF = {
  'divergence': None, 'target': None, 'overfitting': None, 'enabled': False,
  'max_tokens': None, 'max_hours': None,
}  # fmt: skip
