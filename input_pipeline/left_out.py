"""Batches that a run does not read, and what that makes of the others."""

from collections.abc import Sequence

# First batch that is left out, and how many are.
Window = tuple[int, int]


def batch_number(step: int, left_out: Sequence[Window]) -> int:
  """The number of the batch that a step reads.

  Args:
    step: updates before it.
    left_out: windows of batch numbers, in the order of their numbers.
  """
  number = step
  for first, count in left_out:
    if number >= first:
      number += count
  return number


def leave_out(
  left_out: Sequence[Window], first: int, last: int
) -> tuple[Window, ...]:
  """The windows with one more, which may overlap them.

  Args:
    left_out: disjoint windows, in the order of their numbers.
    first: number of the first batch of the new one.
    last: number of its last batch.
  """
  windows: list[Window] = []
  for start, count in sorted([*left_out, (first, last - first + 1)]):
    if windows and start <= sum(windows[-1]):
      before, length = windows[-1]
      windows[-1] = before, max(length, start + count - before)
    else:
      windows.append((start, count))
  return tuple(windows)
