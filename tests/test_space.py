"""Values, params, codes and places of a space are one another's images."""

import json

import numpy as np
import pytest
from searches import search_of

from configs.search import choice, integer, log, one_minus_log, real
from train.tuning.space import difference

CONDITIONAL = (
  real('optimizer.momentum', 0.5, 0.99, when=('optimizer.name', ('muon',))),
  choice('optimizer.name', ('adamw', 'muon', 'sgd')),
  one_minus_log(
    'optimizer.b2', 2e-3, 0.1, when=('optimizer.name', ('adamw', 'muon'))
  ),
  choice('optimizer.schedule', ('cosine', 'wsd'), when=(
    'optimizer.name', ('muon',))),
  integer('optimizer.decay_steps', 50, 400, 50, when=(
    'optimizer.schedule', ('wsd',))),
  log('optimizer.learning_rate', 1e-4, 1e-1),
  integer('batch_size', 8, 512, log=True),
  real('model.mlp_dropout', 0, 0.3, 0.1),
  choice('optimizer.clip_norm', (None, 1.0, 0.5)),
  choice('optimizer.decay_kinds', (('matrix', 'head'), ('matrix',))),
)  # fmt: skip
LIMITS = (
  'optimizer.learning_rate * batch_size < 1',
  'optimizer.b2 > optimizer.momentum / 1.02',
)


@pytest.fixture
def space():
  return search_of(*CONDITIONAL, constraints=LIMITS).space


@pytest.fixture
def unit_ND(space):
  corners = np.eye(len(space.parameters))
  random_ND = np.random.default_rng(0).random((500, len(space.parameters)))
  return np.concatenate([random_ND, corners, 1 - corners])


def test_every_place_is_a_point_and_back(space, unit_ND):
  distributions = space.distributions()
  snapped_ND = space.snapped(unit_ND)
  for unit_D, snapped_D in zip(unit_ND, snapped_ND, strict=True):
    params = space.from_units(unit_D)
    assert space.is_complete(params)
    for name, param in params.items():
      code = distributions[name].to_internal_repr(param)
      assert distributions[name]._contains(code), (name, param)
    np.testing.assert_allclose(space.units(params), snapped_D, atol=1e-9)
    again = space.params(space.point(params))
    assert again.keys() == params.keys()
    for name, param in params.items():
      assert again[name] == (
        pytest.approx(param) if isinstance(param, float) else param
      )
    # JSON is what a store keeps of them.
    assert json.loads(json.dumps(params)) == params


def test_a_place_that_is_snapped_stays(space, unit_ND):
  snapped_ND = space.snapped(unit_ND)
  np.testing.assert_allclose(space.snapped(snapped_ND), snapped_ND, atol=1e-9)


def test_all_levels_have_equal_shares(space):
  unit_N = (np.arange(12_000) + 0.5) / 12_000
  for parameter in space.parameters:
    if parameter.levels is not None and not getattr(parameter, 'log', False):
      _, counts = np.unique(parameter.codes(unit_N), return_counts=True)
      assert counts.tolist() == [12_000 / parameter.levels] * parameter.levels


def test_octaves_have_equal_shares():
  space = search_of(integer('batch_size', 1, 1023, log=True)).space
  code_N = space.parameters[0].codes((np.arange(10_000) + 0.5) / 10_000)
  shares = [
    ((code_N >= a) & (code_N < 2 * a)).mean() for a in 2 ** np.arange(10)
  ]
  # Of 1, 2 and 4 the ends weigh more: half a number each.
  assert min(shares[3:]) == pytest.approx(max(shares[3:]), rel=0.1)
  assert code_N.min() == 1
  assert code_N.max() == 1023


def test_conditions_decide_what_is_searched(space, unit_ND):
  names = [parameter.field for parameter in space.parameters]
  active_ND = space.active_at(unit_ND)
  for unit_D, active_D in zip(unit_ND, active_ND, strict=True):
    point = space.point(space.from_units(unit_D))
    assert [n in point for n in names] == active_D.tolist()
    assert ('optimizer.momentum' in point) == (
      point['optimizer.name'] == 'muon'
    )
    assert ('optimizer.decay_steps' in point) == (
      point['optimizer.name'] == 'muon' and point['optimizer.schedule'] == 'wsd'
    )


def test_a_constraint_reads_the_default_where_a_field_is_not_searched(
  space, unit_ND
):
  allowed_N = space.allowed_at(unit_ND)
  assert 0.2 < allowed_N.mean() < 0.8
  for unit_D, allowed in zip(unit_ND, allowed_N, strict=True):
    params = space.from_units(unit_D)
    values = dict(space.defaults) | space.point(params)
    assert space.allows(params) == allowed
    assert allowed == (
      values['optimizer.learning_rate'] * values['batch_size'] < 1
      and values['optimizer.b2'] > values['optimizer.momentum'] / 1.02
    )


def test_one_minus_log_has_clean_values():
  space = search_of(one_minus_log('optimizer.b2', 1e-3, 0.1)).space
  assert space.params({'optimizer.b2': 0.95}) == {'1 - optimizer.b2': 0.05}
  assert space.point({'1 - optimizer.b2': 0.001}) == {'optimizer.b2': 0.999}


def test_a_grid_has_each_point_once():
  space = search_of(
    choice('optimizer.name', ('adamw', 'muon')),
    integer(
      'optimizer.warmup_steps', 50, 150, 50, when=('optimizer.name', ('muon',))
    ),
    integer('batch_size', 62, 65),
    constraints=('optimizer.warmup_steps + batch_size < 214',),
  ).space
  # adamw with the default of 100 steps, and muon with 150 only up to 63.
  wanted = {('adamw', None, batch) for batch in (62, 63, 64, 65)}
  wanted |= {
    ('muon', warmup, batch)
    for warmup in (50, 100, 150)
    for batch in (62, 63, 64, 65)
    if warmup + batch < 214
  }
  points = [
    (
      p['optimizer.name'], p.get('optimizer.warmup_steps'), p['batch_size'],
    )
    for p in map(space.point, space.grid())
  ]  # fmt: skip
  assert len(points) == len(set(points)) == space.grid_size == 14
  assert set(points) == wanted


def test_a_grid_of_octaves_has_all_integers():
  space = search_of(integer('batch_size', 3, 100, log=True)).space
  points = [point['batch_size'] for point in map(space.point, space.grid())]
  assert points == list(range(3, 101))


@pytest.mark.parametrize(
  ('entry', 'lines'),
  [
    (log('optimizer.learning_rate', 1e-4, 1e-2), ['high 0.1 -> 0.01']),
    (
      real('optimizer.learning_rate', 1e-4, 1e-1),
      ['log True -> False'],
    ),
    (
      choice('optimizer.learning_rate', (3e-4, 1e-3)),
      ['real -> choice'],
    ),
    (
      log('optimizer.learning_rate', 1e-4, 1e-1, when=(
        'optimizer.name', ('muon',))),
      ["when None -> ['optimizer.name', ['muon']]"],
    ),
  ],
)  # fmt: skip
def test_two_spaces_differ_in_lines_that_a_person_reads(entry, lines):
  before = search_of(*CONDITIONAL).space
  after = search_of(*(entry if e.field == entry.field else e
                      for e in CONDITIONAL)).space  # fmt: skip
  found = difference(before.to_json(), after.to_json())
  assert found == [f'optimizer.learning_rate: {line}' for line in lines]
  assert before.fingerprint() != after.fingerprint()


def test_fields_and_constraints_that_come_and_go():
  before = search_of(*CONDITIONAL, constraints=LIMITS).space
  after = search_of(
    *CONDITIONAL[:-1], integer('sequence_length', 512, 2048, 512),
    constraints=(LIMITS[1],),
  ).space  # fmt: skip
  old, new = before.to_json(), after.to_json()
  assert difference(old, new) == [
    'optimizer.decay_kinds: no longer searched',
    'sequence_length: not searched before',
    f'constraint dropped: {LIMITS[0]}',
  ]
  assert difference(old, json.loads(json.dumps(old))) == []
  again = search_of(*reversed(CONDITIONAL), constraints=LIMITS[::-1]).space
  assert again.fingerprint() == before.fingerprint()
