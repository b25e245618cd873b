import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from html_pages import Page, asks_for_nothing, percent

from train.goodput import goodput
from train.metrics import MetricsWriter, read_metrics
from train.report import render_report, write_report
from train.report_run import best_evaluation
from train.timing import PHASES

CONFIG = {
  'seed': 0,
  'steps': 400,
  'model': {'embed_dim': 768, 'head_dim': None, 'tie_embeddings': True},
  'mesh': {'data': -1, 'rules': {'batch': ['data', 'fsdp'], 'length': []}},
}


def write_session(writer, step, resumed):
  writer.write(
    'session',
    step,
    resumed=resumed,
    devices='8 x cpu',
    processes=1,
    mesh={'data': 2, 'fsdp': 4},
    parameters=124_668_672,
    parameters_embedding=25_165_824,
    tokens_per_step=4_096,
    flops_per_token=8.56e8,
    peak_flops_per_device=None,
    dataset={
      'fingerprint': '9f3c2ab1',
      'train_rows': 48_211,
      'train_tokens': 49_368_064,
      'validation_rows': 2_538,
      'unigram_entropy': 7.3124,
      'bytes_per_token': 4.317,
    },
    versions={'jax': '0.10.2'},
  )


def write_steps(writer, start, stop, noise):
  # An earlier record of the same process; the last one counts.
  parts = dict.fromkeys(PHASES, 1.0)
  writer.write('time', start, **parts, total=float(len(parts)))
  for step in range(start + 2, stop + 1, 2):
    loss = 3 + 7 * math.exp(-step / 80)
    writer.write(
      'train',
      step,
      loss=loss + noise.gauss(0, 0.05),
      z_loss=0.0,
      grad_norm=0.4 + 2 * math.exp(-step / 30),
      param_norm=110.0,
      learning_rate=3e-4 * (1 - step / 500),
      tokens=4_096,
      tokens_per_second=40_000.0 + noise.gauss(0, 500),
      tokens_per_second_per_device=5_000.0,
      mfu=0.41,
      epoch=step / 400,
    )
    if step % 40 == 0:
      worse = max(0, step - 320) / 100
      writer.write(
        'evaluation',
        step,
        loss=loss + worse,
        perplexity=math.exp(loss + worse),
        bits_per_byte=(loss + worse) / math.log(2) / 4.317,
        tokens=9_000,
        improved=worse == 0,
      )
      writer.write('checkpoint', step, seconds=1.5)
  writer.write(
    'time',
    stop,
    startup=10.0,
    compile=20.0,
    data_wait=5.0,
    step_time=60.0 + (stop - start),
    evaluation=3.0,
    checkpoint=1.5,
    device_check=1.0,
    other=0.5,
    total=101.0 + (stop - start),
  )


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run of two sessions, the second resumed at step 240."""
  path = tmp_path_factory.mktemp('runs') / 'tiny-01'
  noise = random.Random(0)
  now = [1.79e9]

  def clock():
    now[0] += 0.5
    return now[0]

  for start, stop, resume in ((0, 240, None), (240, 400, 240)):
    with MetricsWriter(
      path, tensorboard=False, resume_step=resume, clock=clock
    ) as writer:
      write_session(writer, start, resume is not None)
      write_steps(writer, start, stop, noise)
      writer.write('event', stop, message=f'at {stop}: <stop> & save')
  (path / 'config.json').write_text(json.dumps(CONFIG))
  (path / 'sample.txt').write_text('def f(x):\n  return x < 3 & True\n')
  return path


@pytest.fixture(scope='module')
def records(workdir):
  return read_metrics(workdir)


def plots(html):
  pattern = (
    r'<svg class="plot".*?</svg></figure>|<svg class="plot".*?</svg>(?=<p)'
  )
  return [ElementTree.fromstring(text) for text in re.findall(pattern, html)]


def y_scale(plot):
  """Returns the map from height to value that the tick labels promise."""
  ticks = [
    (percent(e.get('y')), float(e.text))
    for e in plot.iter('text')
    if e.get('class') == 'tick' and e.get('x') == '-8'
  ]
  (y0, v0), (y1, v1) = ticks[0], ticks[-1]
  return lambda y: v0 + (y - y0) / (y1 - y0) * (v1 - v0)


def test_the_report_lies_in_the_workdir_and_is_the_same_every_time(workdir):
  path = write_report(workdir)
  first = path.read_text()
  assert path.name == 'report.html'
  assert write_report(workdir).read_text() == first
  assert not (workdir / 'report.html.tmp').exists()
  page = Page(first)
  assert 'tiny-01' in page.text
  assert 'def f(x):\n  return x < 3 & True\n' in page.text


def test_the_headline_shows_the_given_numbers(records):
  text = Page(render_report('run', records, CONFIG, None)).text
  best = best_evaluation(records)
  assert best['step'] == 320
  assert f'loss is {best["loss"]:.4f} nats per token, at step 320' in text
  assert f'{7.3124 - best["loss"]:.4f} below the unigram entropy' in text
  assert f'{best["perplexity"]:.2f}' in text
  assert f'{best["bits_per_byte"]:.4f}' in text
  assert 'Finished all 400 steps' in text
  assert '124,668,672' in text
  assert '2026-09-21 14:13 UTC' in text


def test_the_status_tells_how_the_run_ended(records):
  unfinished = [r for r in records if r['step'] <= 240]
  text = Page(render_report('run', unfinished, CONFIG, None)).text
  assert 'At step 240 of 400, not finished' in text
  event = {'kind': 'event', 'step': 240, 'time': 1.79e9}
  stopped = [*unfinished, event | {'message': 'early stopping: patience'}]
  text = Page(render_report('run', stopped, CONFIG, None)).text
  assert 'Stopped early at step 240 of 400' in text
  went_on = [*stopped, *records[len(unfinished) :]]
  text = Page(render_report('run', went_on, CONFIG, None)).text
  assert 'Finished all 400 steps' in text


def test_the_time_of_records_that_tell_less_is_the_sum_of_their_sessions(
  records,
):
  time = goodput(records)
  # The time of these sessions is made up, and longer than their records lie
  # apart.
  assert {name: s for name, s in time.seconds.items() if s} == {
    'step_time': 60.0 + 240 + 60 + 160,
    'data_wait': 10.0,
    'evaluation': 6.0,
    'checkpoint': 3.0,
    'device_check': 2.0,
    'startup': 10.0,
    'compile': 20.0,
    'restart': 30.0,
    # And half a second to the event after the last sum.
    'other': 2 * (0.5 + 0.5),
  }
  html = render_report('run', records, CONFIG, None)
  text = Page(html).text
  assert f'Goodput {520 / 603:.1%}' in text
  assert f'{30 / 603:.1%}' in text
  assert 'unknown' in re.findall('<td class=text>([^<]*)</td>', html)


def test_shares_of_the_time_bar_fill_it_without_gaps(records):
  html = render_report('run', records, CONFIG, None)
  bar = ElementTree.fromstring(re.search('<svg class="bar".*?</svg>', html)[0])
  rects = [
    (percent(r.get('x')), percent(r.get('width'))) for r in bar.iter('rect')
  ]
  assert rects[0][0] == 0
  for (x, width), (following, _) in pairwise(rects):
    assert x + width == pytest.approx(following, abs=1e-4)
  assert sum(rects[-1]) == pytest.approx(1, abs=1e-4)


def test_the_loss_chart_puts_points_where_its_axis_says(records):
  html = render_report('run', records, CONFIG, None)
  plot = plots(html)[0]
  value = y_scale(plot)
  best = best_evaluation(records)
  mark = next(e for e in plot.iter('circle') if e.get('class') == 'mark')
  assert value(percent(mark.get('cy'))) == pytest.approx(best['loss'], rel=1e-3)
  assert percent(mark.get('cx')) == pytest.approx(320 / 400)
  line = next(e for e in plot.iter('line') if e.get('class') == 'reference')
  assert value(percent(line.get('y1'))) == pytest.approx(7.3124, rel=1e-3)
  path = next(e for e in plot.iter('path') if 'validation' in e.get('class'))
  drawn = re.findall(r'[ML]([\d.]+) ([\d.]+)', path.get('d'))
  evaluations = [r for r in records if r['kind'] == 'evaluation']
  assert len(drawn) == len(evaluations)
  for (x, y), record in zip(drawn, evaluations, strict=True):
    assert float(x) / 1000 == pytest.approx(record['step'] / 400, abs=1e-3)
    assert value(float(y) / 1000) == pytest.approx(record['loss'], abs=0.01)
  restart = next(e for e in plot.iter('line') if e.get('class') == 'restart')
  assert percent(restart.get('x1')) == pytest.approx(240 / 400)


def test_every_plot_is_well_formed_and_described(records):
  html = render_report('run', records, CONFIG, None)
  titles = re.findall('<figcaption>(.*?) <', html)
  assert titles == [
    'Loss',
    'Learning rate',
    'Gradient norm',
    'Throughput',
    'MFU',
  ]
  assert len(plots(html)) == len(titles)
  for plot, title in zip(plots(html), titles, strict=True):
    assert plot.get('role') == 'img'
    assert plot.get('aria-label').startswith(title)
    for name, points in json.loads(plot.get('data-lines')):
      assert name
      assert all(0 <= step <= 400 for step, _ in points)
  without = [{**r, 'mfu': None} if r['kind'] == 'train' else r for r in records]
  assert 'MFU' not in Page(render_report('run', without, CONFIG, None)).text


def test_the_page_asks_for_nothing(records):
  html = render_report('run', records, CONFIG, 'sample')
  assert '://' not in html
  assert asks_for_nothing(html)


HOSTILE = '"\'></td></svg><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_hostile_text_stays_text(records):
  def spoil(record):
    if record['kind'] == 'event':
      return {**record, 'message': HOSTILE}
    if record['kind'] == 'session':
      return {
        **record,
        'devices': HOSTILE,
        'mesh': {HOSTILE: HOSTILE},
        'dataset': record['dataset'] | {HOSTILE: HOSTILE},
        'versions': {HOSTILE: HOSTILE},
      }
    return record

  config = {'steps': 400, HOSTILE: HOSTILE, 'model': {HOSTILE: [HOSTILE]}}
  harmless = Page(render_report('run', records, CONFIG, None))
  spoiled = Page(
    render_report(HOSTILE, [spoil(r) for r in records], config, HOSTILE)
  )
  for tag in ('script', 'img'):
    count = sum(name == tag for name, _ in harmless.tags)
    assert sum(name == tag for name, _ in spoiled.tags) == count
  assert not any('onerror' in attributes for _, attributes in spoiled.tags)
  # As data, it is shown to the letter: title, h1, 2 devices and the rest.
  assert spoiled.text.count(HOSTILE) >= 10


def test_no_secret_reaches_the_page(records):
  config = CONFIG | {'log': {'wandb_api_key': 'hunter2'}}
  event = {'kind': 'event', 'step': 400, 'time': 1.79e9}
  message = 'study in postgresql://me:hunter2@host/db'
  page = render_report(
    'run', [*records, event | {'message': message}], config, None
  )
  assert 'hunter2' not in page
  assert 'wandb_api_key' in page


def test_the_config_is_shown_in_full(records):
  html = render_report('run', records, CONFIG, None)
  rows = dict(
    re.findall('<tr><th scope="row">([^<]*)</th><td>([^<]*)</td></tr>', html)
  )
  assert rows['seed'] == '0'
  assert rows['embed_dim'] == '768'
  assert rows['head_dim'] == 'none'
  assert rows['tie_embeddings'] == 'true'
  assert rows['rules.batch'] == 'data, fsdp'
  assert rows['rules.length'] == '(empty)'
  assert rows['train rows'] == '48,211'
  assert rows['bytes per token'] == '4.3170'
  assert rows['jax'] == '0.10.2'


def broken(records, step):
  nan = dict.fromkeys(('loss', 'perplexity', 'bits_per_byte', 'grad_norm'))
  return [
    {**r, **{key: math.nan for key in nan if key in r}}
    if r['step'] >= step
    else r
    for r in records
  ]


def test_each_lack_is_told_in_words(records):
  def text(selected, config=CONFIG):
    return Page(render_report('run', selected, config, None)).text

  assert 'No evaluation has been recorded' in text(records[:5])
  assert 'No time has been recorded' in text(records[:1])
  assert 'No session has been recorded' in text(records[1:50])
  assert 'No training step has been recorded' in text(records[:1])
  assert 'No loss has been recorded' in text([])
  assert 'config.json is not in the workdir' in text(records, None)
  last = next(r for r in reversed(records[:5]) if r['kind'] == 'train')
  assert f'last training loss is {last["loss"]:.4f}' in text(records[:5])
  nan = text(broken(records, 200))
  assert 'not finite in 101 of 200 records, first at step 200' in nan
  assert 'not finite in 6 of 10 evaluations, first at step 200' in nan
  assert 'nats per token, at step 160' in nan
  assert 'No finite value has been recorded' in text(broken(records, 0))


def test_a_gap_in_the_numbers_is_a_gap_in_the_curve(records):
  middle = [
    {**r, 'loss': math.nan} if 200 <= r['step'] <= 240 else r for r in records
  ]
  plot = plots(render_report('run', middle, CONFIG, None))[0]
  raw, _, validation = (e.get('d') for e in plot.iter('path'))
  assert raw.count('M') == validation.count('M') == 2
  assert 'nan' not in ElementTree.tostring(plot).decode()


def test_a_single_record_is_a_visible_dot(records):
  one = [r for r in records if r['kind'] == 'train'][:1]
  for plot in plots(render_report('run', one, None, None)):
    assert any('dot' in e.get('class') for e in plot.iter('circle'))
