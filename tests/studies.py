"""Pages of studies for tests, made of plain values."""

import math
import random
import re
import xml.etree.ElementTree as ElementTree

from html_pages import percent

from train.tuning.study_data import (
  Confirmed,
  FieldColumn,
  StudyPage,
  TrialRow,
)

RATE = FieldColumn(
  name='optimizer.learning_rate',
  log=True,
  one_minus=False,
  bounds=(1e-4, 1e-1),
  choices=(),
  default=1e-3,
)
BETA = FieldColumn(
  name='optimizer.b2',
  log=True,
  one_minus=True,
  bounds=(1e-3, 1e-1),
  choices=(),
  default=0.95,
)
NAME = FieldColumn(
  name='optimizer.name',
  log=False,
  one_minus=False,
  bounds=None,
  choices=('adamw', 'muon'),
  default='adamw',
)
MOMENTUM = FieldColumn(
  name='optimizer.momentum',
  log=False,
  one_minus=False,
  bounds=(0.0, 1.0),
  choices=(),
  default=0.9,
)


def trial(number, state='complete', *, values=(), **fields):
  """A trial at a point that follows from its number; 0 is the default."""
  noise = random.Random(number)
  point = {
    RATE.name: 10 ** noise.uniform(-4, -1) if number else RATE.default,
    BETA.name: 1 - 10 ** noise.uniform(-3, -1) if number else BETA.default,
    NAME.name: NAME.choices[number % 2],
  }
  if number % 2:
    point[MOMENTUM.name] = noise.random()
  return TrialRow(
    **{
      'number': number,
      'state': state,
      'point': point,
      'values': tuple(values),
      'curve': (),
      'reason': '',
      'seconds': 60.0,
      'tokens': 1_000,
    }
    | fields
  )


def curve_to(value, last=400, every=100):
  """A learning curve that comes to a value at 400 steps."""
  return tuple(
    (step, value + (400 - step) / 400) for step in range(every, last + 1, every)
  )


def study(trials, **fields):
  """A page of a search for the lowest loss."""
  return StudyPage(
    **{
      'title': 'search-1',
      'metrics': ('loss',),
      'modes': ('min',),
      'fields': (RATE, BETA, NAME, MOMENTUM),
      'trials': tuple(trials),
      'facts': (('sampler', 'gp'), ('pruner', 'asha')),
      'verdict': '',
      'seeds': (),
      'confirming': (),
      'winner': None,
      'difference': (),
      'importance': (),
      'front': (),
    }
    | fields
  )


LOSSES = (3.6, 3.9, 3.5, 3.7, 3.2, 3.4, 3.3, 3.45, 3.25, 3.8)


def mixed(**fields):
  """A page with trials of every state, and trial 4 as the winner."""
  trials = [
    trial(n, values=(loss,), curve=curve_to(loss))
    for n, loss in enumerate(LOSSES)
  ]
  trials += [
    trial(10, 'pruned', curve=curve_to(4.0, last=200)),
    trial(11, 'failed', reason='out of memory'),
    trial(12, 'failed', point={}, reason='killed'),
    trial(13, 'running', curve=curve_to(3.5, last=300)),
    trial(14, 'waiting', point={}),
  ]
  return study(
    trials,
    **{
      'verdict': 'Trial 4 wins: 3.2 in place of 3.6.',
      'winner': 4,
      'difference': ((RATE.name, '0.001', '0.0123'),),
      'seeds': (1, 2),
      'confirming': (
        Confirmed(name='default', values=(3.6, 3.62)),
        Confirmed(name='trial 4', values=(3.2, 3.21)),
        Confirmed(name='trial 8', values=(3.3, math.nan)),
      ),
      'importance': ((RATE.name, 0.7), (NAME.name, 0.3)),
    }
    | fields,
  )


def figures(html):
  """The figures of a page by their titles."""
  found = re.findall('<figure>.*?</figure>', html, re.DOTALL)
  parsed = [ElementTree.fromstring(text) for text in found]
  return {figure.find('figcaption').text.strip(): figure for figure in parsed}


def marks(figure, kind):
  """Places of the marks of a kind by trial, from the plot's lower left."""
  return {
    int(mark.get('data-trial')): (
      percent(mark.get('x')),
      1 - percent(mark.get('y')),
    )
    for mark in figure.iter('svg')
    if mark.get('class') == f'trial {kind}' and mark.get('data-trial')
  }


def curves(figure, kind):
  """Points of each path of a kind, from the plot's lower left."""
  return [
    [
      (float(x) / 1000, 1 - float(y) / 1000)
      for x, y in re.findall(r'[ML](-?[\d.]+) (-?[\d.]+)', path.get('d'))
    ]
    for svg in figure.iter('svg')
    if svg.get('class') == 'curves'
    for path in svg.iter('path')
    if kind in path.get('class').split()
  ]


def y_value(figure):
  """The map from height to value that the labels of a plot promise."""
  ticks = [
    (1 - percent(text.get('y')), float(text.text.replace(',', '')))
    for text in figure.iter('text')
    if text.get('class') == 'tick' and text.get('x') == '-8'
  ]
  (y0, v0), (y1, v1) = ticks[0], ticks[-1]
  return lambda y: v0 + (y - y0) / (y1 - y0) * (v1 - v0)
