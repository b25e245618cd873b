"""What the records of a run add up to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Session:
  """What one process left in the metrics.

  Attributes:
    start: Its record of kind 'session'.
    last: Its last record of any kind.
  """

  start: Record
  last: Record


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
  """Returns the records of one kind."""
  return [record for record in records if record['kind'] == kind]


def split_sessions(records: Sequence[Record]) -> list[Session]:
  """Returns the sessions in their order."""
  starts = [i for i, r in enumerate(records) if r['kind'] == 'session']
  return [
    Session(records[start], records[end - 1])
    for start, end in pairwise([*starts, len(records)])
  ]


def tokens_seen(records: Sequence[Record]) -> int:
  """Returns the tokens trained on up to the last 'train' record.

  A record stands for the steps since the one before it.
  """
  tokens, last_step = 0, 0
  for record in of_kind(records, 'train'):
    tokens += (record['step'] - last_step) * record['tokens']
    last_step = record['step']
  return tokens


def best_evaluation(records: Sequence[Record]) -> Record | None:
  """Returns the evaluation with the lowest finite loss, the first of equals."""
  finite = [
    record
    for record in of_kind(records, 'evaluation')
    if math.isfinite(record['loss'])
  ]
  return min(finite, key=lambda record: record['loss'], default=None)


def unigram_entropy(sessions: Sequence[Session]) -> float | None:
  """Returns the entropy that the last session names, or None."""
  if not sessions or 'unigram_entropy' not in sessions[-1].start['dataset']:
    return None
  return sessions[-1].start['dataset']['unigram_entropy']


def what_rules_said(records: Sequence[Record]) -> list[Record]:
  """Returns the events of the rules of early stopping."""
  return [record for record in of_kind(records, 'event') if 'rule' in record]


def ended_early(records: Sequence[Record]) -> str | None:
  """Returns in words that a rule ended the run at its last step, or None.

  A run that went on after such an event has later steps.
  """
  said = [
    str(record['message'])
    for record in what_rules_said(records)
    if record['step'] == last_step(records)
  ]
  begins = ('Stopped early', 'Failed')
  return next((text for text in said[::-1] if text.startswith(begins)), None)


def last_step(records: Sequence[Record]) -> int:
  """Returns the highest step of any record, and 0 if there is none."""
  return max((record['step'] for record in records), default=0)


def describe_status(records: Sequence[Record], total_steps: int | None) -> str:
  """Returns how far the run came, in a few words."""
  step = last_step(records)
  of_total = '' if total_steps is None else f' of {total_steps:,}'
  if (said := ended_early(records)) is not None:
    what = 'Failed' if said.startswith('Failed') else 'Stopped early'
    return f'{what} at step {step:,}{of_total}'
  if total_steps is not None and step >= total_steps:
    return f'Finished all {total_steps:,} steps'
  return f'At step {step:,}{of_total}, not finished'


def describe_result(
  records: Sequence[Record], best: Record | None, entropy: float | None
) -> str:
  """Returns the key result in sentences; losses are in nats per token."""
  if best is None:
    train = [r for r in of_kind(records, 'train') if math.isfinite(r['loss'])]
    if not train:
      return 'No loss has been recorded yet.'
    return (
      'No validation loss has been recorded yet. The last training loss is'
      f' {train[-1]["loss"]:.4f} nats per token, at step'
      f' {train[-1]["step"]:,}.'
    )
  text = (
    f'The best validation loss is {best["loss"]:.4f} nats per token, at step'
    f' {best["step"]:,}'
  )
  if entropy is not None:
    gap = entropy - best['loss']
    text += (
      f': {abs(gap):.4f} {"below" if gap >= 0 else "above"} the unigram'
      f' entropy of the data ({entropy:.4f}), which is the loss of a model that'
      ' knows how frequent every token is and nothing else'
    )
  last = of_kind(records, 'evaluation')[-1]
  if last is best:
    return f'{text}. It is also the last.'
  return f'{text}. The last is {last["loss"]:.4f}, at step {last["step"]:,}.'


def list_warnings(
  records: Sequence[Record], sessions: Sequence[Session]
) -> list[str]:
  """Returns what is missing or wrong in the records, a sentence each."""
  warnings = []
  if not sessions:
    warnings.append(
      'No session has been recorded: devices, model size and dataset are'
      ' unknown.'
    )
  train = of_kind(records, 'train')
  broken = [r['step'] for r in train if not math.isfinite(r['loss'])]
  if broken:
    warnings.append(
      f'The training loss was not finite in {len(broken)} of {len(train)}'
      f' records, first at step {broken[0]:,}. The curve has gaps there.'
    )
  if not train:
    warnings.append('No training step has been recorded yet.')
  evaluations = of_kind(records, 'evaluation')
  broken = [r['step'] for r in evaluations if not math.isfinite(r['loss'])]
  if broken:
    warnings.append(
      f'The validation loss was not finite in {len(broken)} of'
      f' {len(evaluations)} evaluations, first at step {broken[0]:,}.'
    )
  if not evaluations:
    warnings.append(
      'No evaluation has been recorded yet: validation loss, perplexity and'
      ' bits per byte are unknown.'
    )
  return warnings
