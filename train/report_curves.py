"""The curves of a run: loss, learning rate, gradient norm, speed."""

from collections.abc import Sequence

from train.report_charts import Chart, Line, Point, render_chart, smooth
from train.report_page import section
from train.report_run import (
  Record,
  Session,
  best_evaluation,
  of_kind,
  unigram_entropy,
)


def render_curves(
  records: Sequence[Record], sessions: Sequence[Session]
) -> str:
  """Returns the section of all curves, or nothing if there is no value."""
  train = of_kind(records, 'train')
  small = [
    ('Learning rate', 'learning_rate', 'peak × schedule', 'zero'),
    ('Gradient norm', 'grad_norm', 'before clipping, log scale', 'log'),
    ('Throughput', 'tokens_per_second', 'tokens per second', 'zero'),
    ('MFU', 'mfu', 'model FLOPs, of the peak of the devices', 'zero'),
  ]
  last_step = max(
    (r['step'] for r in records if r['kind'] in ('train', 'evaluation')),
    default=0,
  )
  restarts = [s.start['step'] for s in sessions if s.start['resumed']]
  charts = _dataset_charts(records, last_step, restarts)
  for title, key, unit, scale in small:
    points = [(r['step'], r[key]) for r in train if r[key] is not None]
    if not points:
      continue
    # A schedule has no noise, and smoothing would blur its corners.
    lines = (
      [Line('learning rate', 'train', points)]
      if key == 'learning_rate'
      else _raw_and_smooth('', points)
    )
    charts.append(
      Chart(
        title=title,
        unit=unit,
        scale=scale,
        percent=key == 'mfu',
        lines=lines,
        last_step=last_step,
        reference=None,
        mark=None,
        restarts=restarts,
      )
    )
  loss = _loss_chart(records, sessions, last_step, restarts)
  if not loss.lines:
    return ''
  figures = ''.join(render_chart(chart) for chart in charts)
  return section(
    'Curves',
    f'<div class="wide">{render_chart(loss)}</div>',
    f'<div class="grid2">{figures}</div>' if figures else '',
  )


def _dataset_charts(
  records: Sequence[Record], last_step: int, restarts: list[int]
) -> list[Chart]:
  """Validation loss of each dataset of a mixture."""
  return [
    Chart(
      title=f'Validation loss, {key.partition("/")[2]}',
      unit='nats per token',
      scale='range',
      percent=False,
      lines=[Line('validation', 'validation', points)],
      last_step=last_step,
      reference=None,
      mark=None,
      restarts=restarts,
    )
    for key, points in _losses_by_dataset(records).items()
  ]


def _loss_chart(
  records: Sequence[Record],
  sessions: Sequence[Session],
  last_step: int,
  restarts: Sequence[int],
) -> Chart:
  points = [(r['step'], r['loss']) for r in of_kind(records, 'train')]
  lines = _raw_and_smooth('training', points) if points else []
  points = [(r['step'], r['loss']) for r in of_kind(records, 'evaluation')]
  if points:
    lines.append(Line('validation', 'validation', points))
  entropy = unigram_entropy(sessions)
  best = best_evaluation(records)
  return Chart(
    title='Loss',
    unit='nats per token',
    scale='range',
    percent=False,
    lines=lines,
    last_step=last_step,
    reference=(
      None if entropy is None else (entropy, f'unigram entropy {entropy:.2f}')
    ),
    mark=(
      None
      if best is None
      else ((best['step'], best['loss']), f'best {best["loss"]:.4f}')
    ),
    restarts=restarts,
  )


def _losses_by_dataset(records: Sequence[Record]) -> dict[str, list[Point]]:
  """The evaluations of each dataset of a mixture, by the key 'loss/NAME'."""
  found: dict[str, list[Point]] = {}
  for record in of_kind(records, 'evaluation'):
    for key in sorted(k for k in record if k.startswith('loss/')):
      found.setdefault(key, []).append((record['step'], record[key]))
  return found


def _raw_and_smooth(name: str, points: Sequence[Point]) -> list[Line]:
  averages = smooth(points)
  if averages == [point for point in points if point[1] == point[1]]:
    return [Line(name or 'value', 'train', points)]
  prefix = f'{name}, ' if name else ''
  return [
    Line(f'{prefix}each record', 'raw', points),
    Line(f'{prefix}moving average', 'train', averages),
  ]
