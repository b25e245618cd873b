"""The command `coordinate-check`: do activations move alike at any width?

Where a parametrization is right, a step changes the activations of a wide model
as much as those of a narrow one (Yang et al. 2021, arXiv 2203.03466, appendix
D.1). The configuration is made small, a few steps are made at several widths,
and the slope of log change over log width is fitted: it should be zero.

A few seeds tell most slopes. Where they leave it open on which side of the
limit one lies, more are run.
"""

import copy
import dataclasses
from collections.abc import Sequence
from html import escape
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from train.config import MESH_AXES, train_config
from train.report_lines import Curve, Lines, render_lines
from train.report_page import data_table, note, render_page, section
from train.setup import make_setup
from train.tuning import synthetic
from train.tuning.coordinates import NAMES, compiled_changes
from train.tuning.shapes import resized, sizes_of, widths_of

PAGE_FILE = 'coordinate_check.html'
# A slope beyond it, either way, is no rounding and no luck.
TOLERANCE = 0.1
_STEPS = 4
# Of the peak of the learning rate, which comes after a warm-up. Without one, a
# few steps of it would leave little of the initial values, and in narrow
# matrices less than in wide ones.
_SHARE = 0.25
# Seeds at a time, and at most.
_SEEDS, _MOST_SEEDS = 8, 64
# A slope is known where the limit is so many of its standard errors away.
_CLEAR = 2.0
_VOCABULARY, _ROWS, _LENGTH, _LAYERS = 256, 8, 64, 2
_NARROWEST, _WIDTHS = 32, 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
  """How a kind of activation moves.

  Attributes:
    name: of the kind.
    changes: root mean square of its change, of each size.
    slope: of log change over log size.
    error: of the slope, its standard error over the seeds.
    excuse: why the slope does not count; empty: it does.
  """

  name: str
  changes: tuple[float, ...]
  slope: float
  error: float = 0.0
  excuse: str = ''

  @property
  def ok(self) -> bool:
    """Whether it moves alike at all sizes, or need not."""
    # Not a number is not below anything.
    return bool(self.excuse) or abs(self.slope) <= TOLERANCE

  @property
  def clear(self) -> bool:
    """Whether other seeds are unlikely to change what is said of it."""
    beside = abs(abs(self.slope) - TOLERANCE)
    return bool(self.excuse) or not beside < _CLEAR * self.error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
  """What came of a check.

  Attributes:
    parametrization: that was checked.
    axis: 'width' or 'depth'.
    sizes: along it.
    findings: of each kind of activation.
    seeds: that each is the mean of.
  """

  parametrization: str
  axis: str
  sizes: tuple[int, ...]
  findings: tuple[Finding, ...]
  seeds: int = _SEEDS

  @property
  def ok(self) -> bool:
    """Whether all activations move alike at all sizes."""
    return all(finding.ok for finding in self.findings)


def check_and_print(
  config: dict[str, Any],
  *,
  widths: Sequence[str],
  depths: Sequence[str],
  workdir: epath.Path | None,
) -> bool:
  """Checks a configuration, and says what came of it.

  Args:
    config: a run's configuration, as nested dicts.
    widths: as typed; empty: four, each twice the one before, from 32 on or
      from the narrowest of whole heads above.
    depths: as typed, in place of widths; empty: widths.
    workdir: where the page is written; None: nowhere.

  Returns:
    Whether activations move alike.

  Raises:
    ValueError: the configuration is wrong, or a width is not of whole heads.
  """
  if depths:
    found = check(config, axis='depth', sizes=sizes_of('depths', depths))
  else:
    sizes = widths_of(config, widths, _NARROWEST, _WIDTHS)
    found = check(config, axis='width', sizes=sizes)
  print(text_of(found))
  if workdir is not None:
    print(f'Page: {write_page(found, workdir)}')
  return found.ok


def check(config: dict[str, Any], *, axis: str, sizes: Sequence[int]) -> Check:
  """Measures how activations change at several widths or depths.

  Args:
    config: a run's configuration, as nested dicts.
    axis: 'width' or 'depth'.
    sizes: along it, two or more.

  Raises:
    ValueError: the configuration is wrong, or a width is not of whole heads.
  """
  small = small_config(config)
  model = small['model']
  rows_BR = jnp.asarray(
    synthetic.rows(
      vocabulary=model['vocab_size'], count=_ROWS, length=_LENGTH + 1, seed=0
    )
  )
  runs = []
  for size in sizes:
    run = train_config(resized(small, **{axis: size}))
    setup = make_setup(run, jax.local_devices()[:1])
    runs.append(
      compiled_changes(
        setup, rows_BR, synthetic.MARKS, steps=_STEPS, seeds=_SEEDS
      )
    )
  excuse = 'the head is the embedding' if model['tie_embeddings'] else ''
  squares_SK = {name: np.empty((len(sizes), 0)) for name in NAMES}
  for first in range(0, _MOST_SEEDS, _SEEDS):
    more = [changes(range(first, first + _SEEDS)) for changes in runs]
    for name, known_SK in squares_SK.items():
      new_SK = np.stack([of_size[name] for of_size in more])
      squares_SK[name] = np.concatenate([known_SK, new_SK], axis=1)
    found = Check(
      parametrization=model['parametrization'],
      axis=axis,
      sizes=tuple(sizes),
      findings=tuple(
        _finding(name, sizes, known_SK, excuse if name == 'logits' else '')
        for name, known_SK in squares_SK.items()
      ),
      seeds=first + _SEEDS,
    )
    if all(finding.clear for finding in found.findings):
      break
  return found


def _finding(
  name: str, sizes: Sequence[int], squares_SK: np.ndarray, excuse: str
) -> Finding:
  """What the mean squares of sizes S and seeds K tell."""
  mean_S = squares_SK.mean(axis=1)
  with np.errstate(divide='ignore', invalid='ignore'):
    noise_S = squares_SK.std(axis=1, ddof=1) / squares_SK.shape[1] ** 0.5
    # Of the logarithm, to base 2, of the root of the mean.
    noise_S = noise_S / mean_S / (2 * np.log(2))
  return Finding(
    name=name,
    changes=tuple(float(mean) ** 0.5 for mean in mean_S),
    slope=slope(sizes, mean_S**0.5),
    error=slope_error(sizes, noise_S),
    excuse=excuse,
  )


def slope_error(sizes: Sequence[float], noise: Sequence[float]) -> float:
  """Standard error of a slope.

  Args:
    sizes: that the line goes through.
    noise: standard errors of the logarithms, to base 2, of the values there.
  """
  apart_S = np.log2(sizes) - np.mean(np.log2(sizes))
  weight_S = apart_S / np.sum(apart_S**2)
  return float(np.sqrt(np.sum((weight_S * np.asarray(noise)) ** 2)))


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
  """Slope of a line through log value over log size, by least squares."""
  if not (np.isfinite(values).all() and min(values) > 0):
    return float('nan')
  logs = np.log2(values)
  return float(np.polyfit(np.log2(sizes), logs, 1)[0])


def small_config(config: dict[str, Any]) -> dict[str, Any]:
  """The configuration with what a check needs, and no more.

  Width and what learns stay as they are, but for a lower learning rate.
  """
  small: dict[str, Any] = copy.deepcopy(dict(config))
  model, optimizer = small['model'], small['optimizer']
  if model['parametrization'] != 'standard':
    model['base_embed_dim'] = model['base_embed_dim'] or model['embed_dim']
    model['base_num_layers'] = None
  model |= {
    'num_layers': min(model['num_layers'], _LAYERS),
    'vocab_size': min(model['vocab_size'], _VOCABULARY),
    'compute_dtype': 'float32',
    'attention': 'xla',
    'remat': 'none',
    'scan_layers': True,
  }
  model |= {name: 0.0 for name in model if name.endswith('_dropout')}
  # The random logits of a wide head are small, and what they add to the change
  # falls with the width though nothing is wrong.
  model['zero_head'] = not model['tie_embeddings']
  optimizer |= {
    'learning_rate': _SHARE * optimizer['learning_rate'],
    'schedule': 'constant',
    'warmup_steps': 0,
    'shard_axes': [],
    'ema_decay': None,
  }
  small['offload'] |= {
    'parameters': False, 'optimizer': False, 'activations': [],
  }  # fmt: skip
  small['mesh'] |= dict.fromkeys(MESH_AXES, 1)
  small['mesh']['dcn'] = dict.fromkeys(MESH_AXES, 1)
  small['log']['profile_start'] = None
  small |= {
    'steps': _STEPS,
    'batch_size': _ROWS,
    'accumulation_steps': 1,
    'microbatches': 1,
    'sequence_length': _LENGTH,
  }
  small['loss']['chunk'] = _LENGTH
  small['evaluation']['batch_size'] = _ROWS
  return small


def text_of(found: Check) -> str:
  """The table for a terminal, and a verdict."""
  sizes = ''.join(f'{size:>10}' for size in found.sizes)
  lines = [
    f'Change of activations in {_STEPS} steps (root mean square over '
    f'{found.seeds} seeds), by {found.axis}, {found.parametrization!r}:',
    f'{"":12}{sizes}     slope  error',
  ]
  for finding in found.findings:
    values = ''.join(f'{change:10.2e}' for change in finding.changes)
    remark = '' if finding.ok else '  WRONG'
    if finding.excuse:
      remark = f'  does not count: {finding.excuse}'
    lines.append(
      f'{finding.name:12}{values}{finding.slope:+10.3f}{finding.error:7.3f}'
      f'{remark}'
    )
  return '\n'.join([*lines, verdict(found)])


def verdict(found: Check) -> str:
  """What the slopes say, in a sentence."""
  wrong = [finding.name for finding in found.findings if not finding.ok]
  if not wrong:
    return (
      f'All slopes lie within {TOLERANCE} of zero: a step moves activations '
      f'alike at any {found.axis}.'
    )
  return (
    f'The change of {", ".join(wrong)} depends on the {found.axis} (slope '
    f'beyond {TOLERANCE}): the best learning rate is likely to do so too.'
  )


def write_page(found: Check, workdir: epath.Path) -> epath.Path:
  """Writes the page with the chart, and returns its path."""
  chart = Lines(
    title='Change of activations',
    unit=f'root mean square over {found.seeds} seeds, after {_STEPS} steps',
    x_name=found.axis,
    x_ticks=[(size, str(size)) for size in found.sizes],
    curves=[
      Curve(
        name=f'{finding.name} ({finding.slope:+.2f})',
        points=list(zip(found.sizes, finding.changes, strict=True)),
      )
      for finding in found.findings
    ],
    log=True,
  )
  table = data_table(
    ['activation', *map(str, found.sizes), 'slope', 'error', ''],
    [
      [
        finding.name,
        *(f'{change:.3g}' for change in finding.changes),
        f'{finding.slope:+.3f}',
        f'{finding.error:.3f}',
        finding.excuse or ('' if finding.ok else 'wrong'),
      ]
      for finding in found.findings
    ],
    numbers=range(1, len(found.sizes) + 3),
  )
  title = f'Coordinate check of {found.parametrization!r} by {found.axis}'
  said = escape(verdict(found))
  body = (
    f'<header><h1>{escape(title)}</h1>'
    + (f'<p class="result">{said}</p>' if found.ok else note(verdict(found)))
    + '</header>'
    + section('Slopes', f'<div class="wide">{render_lines(chart)}</div>', table)
  )
  workdir.mkdir(parents=True, exist_ok=True)
  page = workdir / PAGE_FILE
  page.write_text(render_page(f'{title} – Meshwork', body))
  return page
