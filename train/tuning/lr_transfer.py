"""The command `lr-transfer`: does the best learning rate stay with the width?

A population of learning rates is trained at each of a few widths. Where the
hyper-parameters transfer, the best rate of the narrowest width is the best of
all.
"""

import copy
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from train.config import MESH_AXES, train_config
from train.report_lines import Curve, Lines, render_lines
from train.report_page import data_table, fact_table, render_page, section
from train.tuning.rate_sweep import Rows, losses, rows_of
from train.tuning.shapes import resized, widths_of

if TYPE_CHECKING:
  from input_pipeline.augmentation.config import AugmentationConfig
  from input_pipeline.config import TrainingData

PAGE_FILE, DATA_FILE = 'lr_transfer.html', 'lr_transfer.json'
_NARROWEST, _WIDTHS = 64, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimum:
  """The best learning rate of a width.

  Attributes:
    octave: its logarithm to base 2.
    loss: there, in nats a token.
    edge: 'below' or 'above' if it may lie beyond the rates that were tried;
      empty: it lies between them.
  """

  octave: float
  loss: float
  edge: str = ''

  @property
  def rate(self) -> float:
    """The learning rate."""
    return 2.0**self.octave


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """What came of the learning rates at a width.

  Attributes:
    width: of the model.
    rates: that were tried, rising by the same factor.
    losses: of each, in nats a token; infinite where a run diverged.
  """

  width: int
  rates: tuple[float, ...]
  losses: tuple[float, ...]

  @property
  def optimum(self) -> Optimum:
    """Lowest point of the parabola through the best rate and its neighbours."""
    octaves, best = np.log2(self.rates), int(np.argmin(self.losses))
    found = Optimum(octave=float(octaves[best]), loss=self.losses[best])
    if best in (0, len(self.rates) - 1):
      edge = 'below' if best == 0 else 'above'
      return dataclasses.replace(found, edge=edge)
    low, middle, high = self.losses[best - 1 : best + 2]
    bend = low - 2 * middle + high
    if not 0 < bend < math.inf:
      return found
    shift = (low - high) / (2 * bend)
    step = float(octaves[1] - octaves[0])
    return Optimum(
      octave=found.octave + shift * step, loss=middle - bend * shift**2 / 2
    )

  def loss_at(self, octave: float) -> float:
    """Loss at a rate, along straight lines between those that were tried."""
    return float(np.interp(octave, np.log2(self.rates), self.losses))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
  """What came of all widths.

  Attributes:
    parametrization: of the runs.
    optimizer: of the runs.
    about: what they were trained on, and for how long.
    sweeps: by rising width.
  """

  parametrization: str
  optimizer: str
  about: str
  sweeps: tuple[Sweep, ...]

  @property
  def drift(self) -> float:
    """Octaves between the lowest and the highest of the best rates."""
    octaves = [sweep.optimum.octave for sweep in self.sweeps]
    return max(octaves) - min(octaves)

  @property
  def open_ended(self) -> bool:
    """Whether a best rate may lie beyond those that were tried."""
    return any(sweep.optimum.edge for sweep in self.sweeps)

  @property
  def cost(self) -> float:
    """Nats that the best rate of the narrowest width costs at the widest."""
    first, last = self.sweeps[0], self.sweeps[-1]
    loss = last.loss_at(first.optimum.octave)
    return max(0.0, loss - last.optimum.loss)


def measure_and_print(
  config: dict[str, Any],
  data: 'TrainingData',
  augmentation: 'AugmentationConfig',
  *,
  widths: Sequence[str],
  octaves: int,
  workdir: epath.Path,
) -> Transfer:
  """Measures a configuration, and says what came of it.

  Args:
    config: a run's configuration, as nested dicts.
    data: the datasets; without prepared ones, rows are made up.
    augmentation: how training rows change.
    widths: as typed; empty: three, each twice the one before, from 64 on or
      from the narrowest of whole heads above.
    octaves: to either side of the configuration's learning rate.
    workdir: where the page is written.

  Raises:
    ValueError: the configuration is wrong, or a width is not of whole heads.
  """
  found = measure(
    config,
    rows_of(train_config(config), data, augmentation),
    widths=widths_of(config, widths, _NARROWEST, _WIDTHS),
    octaves=octaves,
    said=lambda text: print(text, file=sys.stderr, flush=True),
  )
  print(text_of(found))
  for file in write_page(found, workdir):
    print(f'Written: {file}')
  return found


def rates_around(rate: float, octaves: int) -> list[float]:
  """Rates an octave apart, as many octaves to either side of one."""
  return [rate * 2.0**i for i in range(-octaves, octaves + 1)]


def measure(
  config: dict[str, Any],
  rows: Rows,
  *,
  widths: Sequence[int],
  octaves: int,
  said: Callable[[str], None],
) -> Transfer:
  """Trains with learning rates around that of the configuration, at each width.

  Args:
    config: a run's configuration, as nested dicts.
    rows: what to train on.
    widths: of the models, rising.
    octaves: to either side of the configuration's learning rate.
    said: is told what goes on.

  Raises:
    ValueError: the configuration is wrong, or a width is not of whole heads.
  """
  if octaves < 1:
    raise ValueError(
      f'--octaves is {octaves}; it takes 1 or more to either side of '
      'optimizer.learning_rate.'
    )
  rates = rates_around(config['optimizer']['learning_rate'], octaves)
  # All that can be wrong is found before anything is trained.
  runs = {width: _one_device(resized(config, width=width)) for width in widths}
  about = (
    f'{config["steps"]:,} steps of {config["batch_size"]} rows of '
    f'{config["sequence_length"]} tokens, {rows.name}'
  )
  said(f'{len(widths)} widths x {len(rates)} learning rates, {about}.')
  sweeps = []
  for width, run in runs.items():
    found = losses(run, rates, rows)
    finite = tuple(x if math.isfinite(x) else math.inf for x in found)
    sweeps.append(Sweep(width=width, rates=tuple(rates), losses=finite))
    if not math.isfinite(min(finite)):
      raise ValueError(
        f'Every run of width {width} diverged, with learning rates from '
        f'{rates[0]:.2g} to {rates[-1]:.2g}: lower optimizer.learning_rate.'
      )
    said(f'Width {width}: {_optimum_text(sweeps[-1].optimum)}')
  return Transfer(
    parametrization=config['model']['parametrization'],
    optimizer=config['optimizer']['name'],
    about=about,
    sweeps=tuple(sweeps),
  )


def _one_device(config: dict[str, Any]) -> dict[str, Any]:
  """The run on one device, as those of a population are."""
  changed = copy.deepcopy(config)
  changed['mesh'] |= dict.fromkeys(MESH_AXES, 1)
  changed['mesh']['dcn'] = dict.fromkeys(MESH_AXES, 1)
  return changed


def text_of(found: Transfer) -> str:
  """The table for a terminal, and what it says."""
  rates = found.sweeps[0].rates
  lines = [
    f'Validation loss by width and learning rate; {found.optimizer!r}, '
    f'{found.parametrization!r}, {found.about}:',
    f'{"":>7}' + ''.join(f'{rate:>9.2g}' for rate in rates),
  ]
  for sweep in found.sweeps:
    values = ''.join(f'{_number(loss):>9}' for loss in sweep.losses)
    lines.append(f'{sweep.width:>7}{values}  {_optimum_text(sweep.optimum)}')
  return '\n'.join([*lines, verdict(found)])


def verdict(found: Transfer) -> str:
  """What the sweeps say, in words."""
  first, last = found.sweeps[0].width, found.sweeps[-1].width
  least = 'at least ' if found.open_ended else ''
  said = (
    f'From width {first} to {last} the best learning rate moves by {least}'
    f'{found.drift:.1f} octaves. With the best rate of width {first}, width '
    f'{last} loses {least}{found.cost:.3f} nats.'
  )
  if found.open_ended:
    said += (
      ' A best rate is at the end of those that were tried: take more of them '
      'with --octaves, or move optimizer.learning_rate.'
    )
  return said


def _optimum_text(optimum: Optimum) -> str:
  sign = {'below': '<= ', 'above': '>= ', '': ''}[optimum.edge]
  return (
    f'best {optimum.loss:.3f} at {sign}{optimum.rate:.2g} '
    f'(2^{optimum.octave:.1f})'
  )


def _number(loss: float) -> str:
  return f'{loss:.3f}' if math.isfinite(loss) else 'diverged'


def write_page(found: Transfer, workdir: epath.Path) -> list[epath.Path]:
  """Writes the page with the curves, and the numbers; returns their paths."""
  rates = found.sweeps[0].rates
  table = data_table(
    ['width', *(f'{rate:.2g}' for rate in rates), 'best'],
    [
      [
        str(sweep.width),
        *map(_number, sweep.losses),
        _optimum_text(sweep.optimum),
      ]
      for sweep in found.sweeps
    ],
    numbers=range(len(rates) + 1),
  )
  facts = [
    ('parametrization', found.parametrization),
    ('optimizer', found.optimizer),
    ('drift in octaves', f'{found.drift:.2f}'),
    ('cost of the narrowest width\'s rate', f'{found.cost:.4f} nats'),
  ]  # fmt: skip
  title = f'Learning rates of {found.parametrization!r} by width'
  body = (
    f'<header><h1>{escape(title)}</h1><p class="lead">{escape(found.about)}</p>'
    f'<p class="result">{escape(verdict(found))}</p></header>'
    + section('Curves', f'<div class="wide">{_chart(found)}</div>', table)
    + section('In numbers', fact_table('Transfer', facts))
  )
  workdir.mkdir(parents=True, exist_ok=True)
  files = [workdir / PAGE_FILE, workdir / DATA_FILE]
  files[0].write_text(render_page(f'{title} – Meshwork', body))
  files[1].write_text(json.dumps(_kept(found), indent=1))
  return files


def _chart(found: Transfer) -> str:
  rates = found.sweeps[0].rates
  best = [sweep.optimum for sweep in found.sweeps]
  # Runs that nearly diverged would flatten all else.
  spread = max(o.loss for o in best) - min(o.loss for o in best)
  return render_lines(
    Lines(
      title='Validation loss',
      unit='nats a token; a ring marks the best of each width',
      x_name='peak of the learning rate',
      x_ticks=[(rate, f'{rate:.2g}') for rate in rates],
      curves=[
        Curve(
          name=f'width {sweep.width}',
          points=list(zip(rates, sweep.losses, strict=True)),
          mark=(sweep.optimum.rate, sweep.optimum.loss),
        )
        for sweep in found.sweeps
      ],
      log=False,
      high=max(o.loss for o in best) + max(2 * spread, 0.3),
    )
  )


def _kept(found: Transfer) -> dict[str, Any]:
  """What the file of numbers holds; JSON has no number that is infinite."""
  return dataclasses.asdict(found) | {
    'drift': found.drift,
    'cost': found.cost,
    'sweeps': [
      {
        'width': sweep.width,
        'rates': sweep.rates,
        'losses': [x if math.isfinite(x) else None for x in sweep.losses],
      }
      for sweep in found.sweeps
    ],
  }
