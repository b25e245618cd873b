"""The page of a study shows every trial where it belongs, and nothing else."""

import dataclasses
import math
import re

import pytest
import studies
from html_pages import Page, asks_for_nothing, percent
from studies import BETA, LOSSES, NAME, RATE, curve_to, mixed, study, trial

from train.tuning.study_data import Confirmed
from train.tuning.study_fields import MAX_LINES
from train.tuning.study_marks import metric_axis
from train.tuning.study_page import render_study

HOSTILE = '"\'></td></svg><script>alert(1)</script><img src=x onerror=alert(2)>'


def table_rows(html):
  """The rows of the table of all trials, each a list of its cells."""
  part = html.partition('<div id="trials">')[2].partition('</table>')[0]
  rows = re.findall('<tr>(.*?)</tr>', part.partition('<tbody>')[2])
  return [re.findall('<td[^>]*>([^<]*)</td>', row) for row in rows]


def test_every_trial_is_in_the_table():
  page = mixed()
  rows = table_rows(render_study(page))
  assert [int(row[0]) for row in rows] == [t.number for t in page.trials]
  assert [row[1].split(',')[0] for row in rows] == [
    t.state for t in page.trials
  ]
  assert rows[0][1] == 'complete, the default'
  assert rows[4][1:3] == ['complete, the winner', '3.2000']
  assert rows[10][2] == rows[0][6] == '–'


def test_every_trial_with_a_place_is_in_the_history():
  page = mixed()
  figure = studies.figures(render_study(page))['loss by trial']
  value = studies.y_value(figure)
  complete = studies.marks(figure, 'complete')
  assert set(complete) == set(range(10))
  for number, (_, y) in complete.items():
    assert value(y) == pytest.approx(LOSSES[number], abs=1e-3)
  across = [x for x, _ in complete.values()]
  assert across == sorted(across)
  for kind, number, last in [('pruned', 10, 4.5), ('running', 13, 3.75)]:
    places = studies.marks(figure, kind)
    assert list(places) == [number]
    assert value(places[number][1]) == pytest.approx(last, abs=1e-3)
  assert {y for _, y in studies.marks(figure, 'failed').values()} == {1.0}
  assert set(studies.marks(figure, 'failed')) == {11, 12}
  for kind, number in [('default', 0), ('winner', 4)]:
    assert studies.marks(figure, kind) == {number: complete[number]}


@pytest.mark.parametrize('mode', ['min', 'max'])
def test_the_step_line_is_the_best_so_far(mode):
  page = mixed(modes=(mode,))
  figure = studies.figures(render_study(page))['loss by trial']
  value = studies.y_value(figure)
  [line] = studies.curves(figure, 'best')
  best = min if mode == 'min' else max
  for number, (x, _) in studies.marks(figure, 'complete').items():
    reached = best(LOSSES[: number + 1])
    heights = [value(y) for at, y in line if abs(at - x) < 1e-3]
    assert best(heights) == pytest.approx(reached, abs=1e-3)
  assert f'Best loss\n{best(LOSSES):.4f}' in Page(render_study(page)).text


def test_curves_end_where_their_trials_did():
  page = mixed()
  figure = studies.figures(render_study(page))['loss by step']
  value = studies.y_value(figure)
  [pruned] = studies.curves(figure, 'pruned')
  assert [x for x, _ in pruned] == pytest.approx([0, 1 / 3], abs=1e-3)
  assert value(pruned[-1][1]) == pytest.approx(4.5, abs=0.01)
  [(x, y)] = studies.marks(figure, 'pruned').values()
  assert (x, y) == pytest.approx(pruned[-1], abs=1e-3)
  [winner] = studies.curves(figure, 'winner')
  assert winner[-1][0] == 1
  assert value(winner[-1][1]) == pytest.approx(3.2, abs=0.01)
  # The default and the winner have kinds of their own.
  assert len(studies.curves(figure, 'complete')) == len(LOSSES) - 2
  assert len(studies.curves(figure, 'default')) == 1


def test_slices_lie_on_the_axes_of_their_fields():
  page = mixed()
  found = studies.figures(render_study(page))
  log = math.log(1e-1 / 1e-4)
  places = studies.marks(found['loss over learning_rate'], 'complete')
  (x0, _), (x1, _) = places[1], places[2]
  rates = [page.trials[n].point[RATE.name] for n in (1, 2)]
  # The axis is a little longer than the range that was searched.
  distance = math.log(rates[1] / rates[0]) / log
  assert (x1 - x0) * 1.06 == pytest.approx(distance, abs=1e-3)
  line = next(
    e
    for e in found['loss over learning_rate'].iter('line')
    if e.get('class') == 'default'
  )
  assert percent(line.get('x1')) == pytest.approx(places[0][0], abs=1e-4)
  # Of one minus the value: the larger beta lies to the left.
  betas = studies.marks(found['loss over b2'], 'complete')
  values = {n: page.trials[n].point[BETA.name] for n in betas}
  assert sorted(betas, key=lambda n: betas[n][0]) == sorted(
    values, key=lambda n: -values[n]
  )
  for number, (x, _) in studies.marks(
    found['loss over name'], 'complete'
  ).items():
    assert int(x * 2) == number % 2
  assert set(studies.marks(found['loss over momentum'], 'complete')) == {
    1, 3, 5, 7, 9,
  }  # fmt: skip


def test_long_choices_are_numbered_below_their_slice():
  column = dataclasses.replace(NAME, choices=('a' * 30, 'b' * 30), default='a')
  page = study(
    [trial(0, values=(3.0,), point={NAME.name: 'b' * 30})], fields=(column,)
  )
  figure = studies.figures(render_study(page))['loss over name']
  assert [item.text for item in figure.iter('li')] == ['a' * 30, 'b' * 30]
  assert {'1', '2'} <= {text.text for text in figure.iter('text')}


def test_parallel_lines_have_a_corner_on_every_axis_and_the_best_a_shade():
  figure = studies.figures(render_study(mixed()))[
    'Fields and loss of each complete trial'
  ]
  lines = studies.curves(figure, 'curve')
  assert len(lines) == len(LOSSES)
  assert {len(line) for line in lines} == {5}
  [winner] = studies.curves(figure, 'winner')
  assert lines[-1] == winner
  worse = studies.figures(render_study(mixed(winner=7)))
  figure = worse['Fields and loss of each complete trial']
  assert studies.curves(figure, 'curve')[-1:] == studies.curves(
    figure, 'winner'
  )
  # Momentum is not searched by even trials.
  assert winner[3][1] < 0
  without = studies.figures(render_study(mixed(winner=None)))
  figure = without['Fields and loss of each complete trial']
  [best] = studies.curves(figure, 'shade0')
  assert (
    min(line[-1][1] for line in studies.curves(figure, 'curve'))
    == (best[-1][1])
  )


def test_too_many_lines_are_told():
  trials = [trial(n, values=(3 + n / 100,)) for n in range(MAX_LINES + 5)]
  html = render_study(study(trials))
  assert f'Of {MAX_LINES + 5} trials, the best {MAX_LINES} are drawn' in html
  assert len(table_rows(html)) == MAX_LINES + 5


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    ({}, 'Trial 4 wins: 3.2 in place of 3.6.'),
    ({'verdict': '', 'winner': 4}, 'Trial 4 is the best'),
    ({'verdict': '', 'winner': 0}, 'Trial 0, the default itself, is the best'),
    ({'verdict': '', 'winner': None}, 'The default stands.'),
  ],
)
def test_the_headline_names_the_winner(fields, text):
  page = mixed(**fields)
  head = Page(render_study(page)).text.partition('History')[0]
  assert text in head
  assert ('the default' if page.winner is None else f'trial {page.winner}') in (
    head.splitlines()
  )
  assert '15 trials: 10 complete, 1 pruned, 2 failed, 1 running' in head


def test_difference_seeds_and_facts_are_tables():
  text = Page(render_study(mixed())).text
  for cells in (
    [RATE.name, '0.001', '0.0123'],
    ['Candidate', 'Seed 1', 'Seed 2', 'Mean'],
    ['default', '3.6000', '3.6200', '3.6100'],
    ['trial 8', '3.3000', 'failed', '3.3000'],
    ['sampler', 'gp'],
    [BETA.name, '1 − value: 0.001 to 0.1, log; default 0.95'],
    [NAME.name, 'adamw | muon; default adamw'],
  ):
    assert '\n'.join(cells) in text


def test_importance_is_bars_or_a_remark():
  html = render_study(mixed())
  widths = re.findall('<rect class="share" width="([^"]*)"', html)
  assert [percent(w) for w in widths] == pytest.approx([1, 3 / 7], abs=1e-4)
  assert 'Too few trials' in render_study(mixed(importance=()))


def several(front=(1, 3)):
  values = [(3.0, 9.0), (2.0, 5.0), (2.5, 6.0), (4.0, 1.0), (2.0, math.inf)]
  return study(
    [trial(n, values=v) for n, v in enumerate(values)],
    metrics=('loss', 'parameters'),
    modes=('min', 'min'),
    front=front,
  )


def test_the_front_is_ringed_joined_and_listed():
  html = render_study(several())
  figure = studies.figures(html)['loss and parameters']
  places = studies.marks(figure, 'complete')
  rings = {
    (percent(e.get('x')), 1 - percent(e.get('y')))
    for e in figure.iter('svg')
    if e.get('class') == 'trial front' and '%' in e.get('x')
  }
  assert rings == {places[1], places[3]}
  [line] = studies.curves(figure, 'best')
  corner = (places[1][0], places[3][1])
  for got, want in zip(line, [places[3], corner, places[1]], strict=True):
    assert got == pytest.approx(want, abs=1e-3)
  assert 'No other trial beats 2 trials in all metrics: 1, 3.' in html
  assert 'Pareto front' not in render_study(mixed())


def test_no_attribute_of_a_picture_is_a_number_that_is_not_finite():
  bad = (math.nan, math.inf, -math.inf, 1e300, -1e300)
  trials = [
    trial(n, values=(v,), curve=((100, v), (200, 3.0), (300, v)))
    for n, v in enumerate(bad)
  ]
  trials += [
    trial(9, values=(3.0,)), trial(10, 'failed', curve=((100, math.nan),)),
    trial(11, values=(3.1,), point={RATE.name: math.nan, BETA.name: 1.0}),
    trial(12, values=(3.1,), point={RATE.name: 0.0, BETA.name: math.inf}),
  ]  # fmt: skip
  pairs = [
    *zip(bad, bad[::-1], strict=True),
    (3.0, 1.0),
    (3.0, 2.0),
    (4.0, 1.0),
  ]
  pairs += [(2.0, v) for v in bad] + [(v, 2.0) for v in bad]
  two = [trial(n, values=pair) for n, pair in enumerate(pairs)]
  confirming = (studies.Confirmed(name='default', values=(math.nan, math.inf)),)
  for page in (
    study(trials, confirming=confirming, seeds=(1, 2)),
    study(trials[:5]),
    study(
      two, metrics=('loss', 'x'), modes=('min', 'max'), front=range(len(two))
    ),
  ):
    for mode in ('min', 'max'):
      modes = (mode, *page.modes[1:])
      html = render_study(dataclasses.replace(page, modes=modes))
      assert studies.figures(html)
      for tag, held in Page(html).tags:
        for name in set(held) - {'class', 'aria-label', 'content', 'style'}:
          text = (held[name] or '').lower()
          assert 'nan' not in text, (tag, held)
          assert 'inf' not in text, (tag, held)


@pytest.mark.parametrize(
  'trials',
  [
    [],
    [trial(0, values=(3.0,))],
    [trial(0, values=(0.0,), curve=((0, 0.0),))],
    [trial(7, 'failed', point={}, reason='')],
    [trial(0, 'pruned', curve=((100, 4.0),))],
    [trial(0, 'running')],
    [trial(0, 'waiting', point={})],
  ],
)
def test_studies_of_one_trial_and_of_none_have_a_page(trials):
  for mode in ('min', 'max'):
    html = render_study(study(trials, modes=(mode,)))
    assert studies.figures(html) or not trials
    count = '1 trial' if trials else '0 trials'
    assert count in Page(html).text
    assert len(table_rows(html)) == len(trials)


def test_outliers_lie_on_the_edge_and_leave_the_others_apart():
  values = [3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 3.8, 900.0]
  for sign, mode, kind, edge in [
    (1, 'min', 'above', 1),
    (-1, 'max', 'below', 0),
  ]:
    axis = metric_axis([sign * v for v in values], mode)
    assert axis.high - axis.low < 2
    page = study(
      [trial(n, values=(sign * v,)) for n, v in enumerate(values)],
      modes=(mode,),
    )
    figure = studies.figures(render_study(page))['loss by trial']
    assert studies.marks(figure, kind)[9][1] == edge
    assert len(studies.marks(figure, 'complete')) == 9


def hostile():
  page = mixed()
  column = dataclasses.replace(NAME, choices=('adamw', HOSTILE))
  return dataclasses.replace(
    page,
    title=HOSTILE,
    metrics=(HOSTILE,),
    fields=(*page.fields, dataclasses.replace(RATE, name=HOSTILE), column),
    trials=tuple(
      dataclasses.replace(
        t,
        reason=HOSTILE,
        point={**t.point, NAME.name: HOSTILE, HOSTILE: 0.01},
      )
      for t in page.trials
    ),
    facts=((HOSTILE, HOSTILE),),
    verdict=HOSTILE,
    confirming=(studies.Confirmed(name=HOSTILE, values=(1.0, 2.0)),),
    difference=((HOSTILE, HOSTILE, HOSTILE),),
    importance=((HOSTILE, 1.0),),
  )


def test_no_value_with_a_fresh_seed_is_left_out():
  """One seed far from the others says how much luck there is."""
  losses = {'default': (5.27, 5.31, 5.57), 'trial 4': (5.01, 5.03, 5.08)}
  losses |= {'trial 8': (5.01, 5.05, 5.08), 'trial 9': (5.0, 5.08, 5.11)}
  page = mixed(
    seeds=(1, 2, 3),
    confirming=[Confirmed(name=n, values=v) for n, v in losses.items()],
  )
  figure = studies.figures(render_study(page))['loss with fresh seeds']
  value_at = studies.y_value(figure)
  drawn = [
    value_at(1 - percent(mark.get('y')))
    for mark in figure.iter('svg')
    if mark.get('class') == 'trial complete' and mark.find('title') is not None
  ]
  every = [value for found in losses.values() for value in found]
  assert drawn == pytest.approx(every, abs=2e-3)


def test_hostile_text_stays_text():
  harmless, spoiled = Page(render_study(mixed())), Page(render_study(hostile()))
  for tag in ('script', 'img'):
    count = sum(name == tag for name, _ in harmless.tags)
    assert sum(name == tag for name, _ in spoiled.tags) == count
  assert not any('onerror' in attributes for _, attributes in spoiled.tags)
  failures = spoiled.text.partition('Failures')[2]
  assert failures.count(HOSTILE) == 2


def test_a_long_reason_is_cut_and_says_so():
  html = render_study(study([trial(0, 'failed', reason='x' * 5_000)]))
  assert 'x' * 2_000 + '… (3,000 letters more)' in html


def test_the_page_asks_for_nothing_and_is_the_same_every_time():
  html = render_study(mixed())
  assert '://' not in html
  assert asks_for_nothing(html)
  assert html == render_study(mixed())
  assert asks_for_nothing(render_study(several()))


def test_no_secret_reaches_the_page():
  key = dataclasses.replace(NAME, name='log.api_key', choices=('hunter2', 'b'))
  page = dataclasses.replace(
    mixed(),
    facts=(('storage', 'postgresql://me:hunter2@host/db'),),
    fields=(RATE, key),
    difference=(('log.api_key', 'b', 'hunter2'),),
    trials=(
      trial(0, 'failed', reason='no answer of sql://me:hunter2@host'),
      trial(1, values=(3.0,), point={RATE.name: 0.1, key.name: 'hunter2'}),
    ),
    winner=1,
  )
  html = render_study(page)
  assert 'hunter2' not in html
  assert 'me:(hidden)@host' in html
  assert 'log.api_key' in html


def test_a_curve_of_one_point_is_visible():
  html = render_study(
    study([trial(3, values=(3.0,), curve=curve_to(3.0, 100))])
  )
  figure = studies.figures(html)['loss by step']
  assert list(studies.marks(figure, 'complete')) == [3]
