"""What a person sees while a run goes on."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from train.goodput import NAMES, Goodput


class Console:
  """Prints log lines, with a progress bar below them on a terminal.

  Args:
    total_steps: Step at which the run ends.
    initial_step: Step at which this process starts.
    stream: Where to print; None: stderr.
    clock: Gives seconds; the remaining time is estimated with it.
  """

  def __init__(
    self,
    total_steps: int,
    initial_step: int,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total = total_steps
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._first: tuple[int, float] | None = None
    self._bar = None
    if self._stream.isatty():
      import tqdm

      self._bar = tqdm.tqdm(
        total=total_steps,
        initial=initial_step,
        file=self._stream,
        dynamic_ncols=True,
        bar_format=(
          '{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]'
        ),
      )

  def line(self, text: str) -> None:
    """Prints a line of text (above the bar)."""
    if self._bar is None:
      print(text, file=self._stream, flush=True)
    else:
      self._bar.write(text, file=self._stream)

  def train_line(self, record: Mapping[str, Any]) -> None:
    """Prints a record of kind 'train'; it holds its step."""
    remaining = self._remaining(record['step'])
    self.line(format_train(record, self._total, remaining))
    if self._bar is not None:
      parts = [
        f'loss {record["loss"]:.3f}',
        f'{format_count(record["tokens_per_second"])} tok/s',
      ]
      if remaining is not None:
        parts.append(f'ETA {format_duration(remaining)}')
      self._bar.set_postfix_str(', '.join(parts))

  def evaluation_line(self, record: Mapping[str, Any]) -> None:
    """Prints a record of kind 'evaluation'; it holds its step."""
    self.line(format_evaluation(record, self._total))

  def ends_at(self, step: int) -> None:
    """Takes another step for the one at which the run ends."""
    self._total = step
    if self._bar is not None:
      self._bar.total = step
      self._bar.refresh()

  def advance(self, step: int) -> None:
    """Moves the bar to `step`."""
    if self._bar is not None:
      self._bar.update(step - self._bar.n)

  def close(self) -> None:
    """Leaves the bar as it is and ends its line; twice does no harm."""
    if self._bar is not None:
      self._bar.close()

  def _remaining(self, step: int) -> float | None:
    # Counted from the first line: the steps before it hold the compilation.
    now = self._clock()
    if self._first is None:
      self._first = step, now
      return None
    first_step, first_time = self._first
    if step <= first_step:
      return None
    return (now - first_time) / (step - first_step) * (self._total - step)


def format_train(
  record: Mapping[str, Any], total_steps: int, remaining: float | None
) -> str:
  """Returns the line of a 'train' record.

  Args:
    record: With step, loss, grad_norm, learning_rate, tokens_per_second,
      tokens_per_second_per_device and mfu (a fraction, or None if unknown).
    total_steps: Step at which the run ends.
    remaining: Seconds until then, or None if unknown.
  """
  rate = format_count(record['tokens_per_second'])
  device_rate = format_count(record['tokens_per_second_per_device'])
  parts = [
    format_step(record['step'], total_steps),
    f'loss {record["loss"]:.3f}',
    f'gnorm {format_norm(record["grad_norm"])}',
    f'lr {record["learning_rate"]:.1e}',
    f'{rate} tok/s ({device_rate}/device)',
  ]
  if record['mfu'] is not None:
    parts.append(f'MFU {record["mfu"]:.1%}')
  if remaining is not None:
    parts.append(f'ETA {format_duration(remaining)}')
  return '  '.join(parts)


def format_evaluation(record: Mapping[str, Any], total_steps: int) -> str:
  """Returns the line of an 'evaluation' record.

  Args:
    record: With step, loss, perplexity, bits_per_byte and improved; a mixture
      has the 'loss/NAME' of each dataset too.
    total_steps: Step at which the run ends.
  """
  parts = [
    format_step(record['step'], total_steps),
    f'validation loss {record["loss"]:.3f}',
    f'perplexity {format_significant(record["perplexity"], 4)}',
    f'bits/byte {record["bits_per_byte"]:.3f}',
    *(
      f'{key.partition("/")[2]} {value:.3f}'
      for key, value in record.items()
      if key.startswith('loss/')
    ),
  ]
  if record['improved']:
    parts.append('best so far')
  return '  '.join(parts)


def format_goodput(goodput: Goodput) -> str:
  """Returns one line: what share the steps had, and what had the rest."""
  shares = {
    name: goodput.seconds[name] / max(goodput.total, 1e-9)
    for name in NAMES
    if name != 'step_time'
  }
  rest = [
    f'{NAMES[name]} {share:.1%}'
    for name, share in sorted(shares.items(), key=lambda item: -item[1])
    if share >= 0.0005
  ]
  line = f'Goodput {goodput.share:.1%} of {format_duration(goodput.total)}'
  if len(goodput.sessions) > 1:
    line += f' in {len(goodput.sessions)} sessions'
  return line + (f': {", ".join(rest)}.' if rest else '.')


def format_step(step: int, total_steps: int) -> str:
  """Returns 'step  12/5000' with the step as wide as the total."""
  return f'step {step:>{len(str(total_steps))}}/{total_steps}'


def format_norm(value: float) -> str:
  """Returns a norm in a few characters: '0.61', '12.40', '3.2e+05'."""
  if value == 0 or 0.01 <= abs(value) < 1_000 or not math.isfinite(value):
    return f'{value:.2f}'
  return f'{value:.1e}'


def format_significant(value: float, digits: int) -> str:
  """Returns the number rounded to `digits` significant digits.

  Thousands are grouped: 12345.6 with 4 digits is '12,350'. Numbers below 1e-4
  and from 1e9 on get an exponent.
  """
  if not math.isfinite(value):
    return str(value)
  if value == 0:
    return '0'
  rounded = float(f'{value:.{digits - 1}e}')
  if not 1e-4 <= abs(rounded) < 1e9:
    return f'{value:.{digits - 1}e}'
  decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
  return f'{rounded:,.{max(decimals, 0)}f}'


def format_count(value: float) -> str:
  """Returns a count in three digits: '950', '51.5k', '412k', '1.23B'."""
  if not math.isfinite(value):
    return str(value)
  if isinstance(value, int) and abs(value) < 1_000:
    return str(value)
  rounded = float(f'{value:.2e}')
  for unit, suffix in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'k')):
    if unit <= abs(rounded) < 1_000 * unit:
      return f'{format_significant(rounded / unit, 3)}{suffix}'
  return format_significant(rounded, 3)


def format_duration(seconds: float) -> str:
  """Returns a time span: '1.2s', '1m 15s', '26m', '3h 05m', '2d 04h'.

  It has two decimals below a second, one below ten, and minutes come with
  seconds up to ten.
  """
  if not math.isfinite(seconds) or seconds < 0:
    return '?'
  if seconds < 0.995:
    return f'{seconds:.2f}s'
  if seconds < 9.95:
    return f'{seconds:.1f}s'
  whole = round(seconds)
  if whole < 60:
    return f'{whole}s'
  if whole < 600:
    return f'{whole // 60}m {whole % 60:02d}s'
  minutes = round(seconds / 60)
  if minutes < 60:
    return f'{minutes}m'
  if minutes < 24 * 60:
    return f'{minutes // 60}h {minutes % 60:02d}m'
  hours = round(seconds / 3_600)
  return f'{hours // 24}d {hours % 24:02d}h'


def summary_table(rows: list[tuple[str, str]]) -> str:
  """Returns lines of a name and a value each, the values aligned."""
  width = max((len(name) for name, _ in rows), default=0)
  return '\n'.join(
    f'  {name:<{width}}  {value}'.rstrip() for name, value in rows
  )
