"""A search is checked whole before its first trial."""

import math

import pytest
from searches import LAWS, defaults, read, search_of

from configs.search import (
  choice,
  get_search,
  integer,
  log,
  octaves,
  one_minus_log,
  real,
)
from train.tuning.parameters import Choice, Integer, Real

RATE = log('optimizer.learning_rate', 1e-4, 1e-1)
DECAY = log('optimizer.weight_decay', 1e-3, 1.0)
NAME = choice('optimizer.name', ('adamw', 'muon'))
MOMENTUM = real(
  'optimizer.momentum', 0.5, 0.99, when=('optimizer.name', ('muon',))
)


@pytest.mark.parametrize(
  ('entry', 'wanted'),
  [
    (RATE, Real(field='optimizer.learning_rate', low=1e-4, high=0.1, log=True)),
    (
      octaves('optimizer.learning_rate', 2),
      Real(field='optimizer.learning_rate', low=1e-4, high=1.6e-3, log=True),
    ),
    (
      octaves('optimizer.weight_decay', 1, 'default'),
      Real(field='optimizer.weight_decay', low=0.05, high=0.2, log=True),
    ),
    (
      octaves('optimizer.weight_decay', 0.5, 0.1),
      Real(
        field='optimizer.weight_decay',
        low=0.1 * 2**-0.5,
        high=0.1 * 2**0.5,
        log=True,
      ),
    ),
    (
      one_minus_log('optimizer.b2', 2e-3, 0.1),
      Real(field='optimizer.b2', low=2e-3, high=0.1, log=True, one_minus=True),
    ),
    (
      real('model.mlp_dropout', 0, 0.3, 0.1),
      Real(field='model.mlp_dropout', low=0.0, high=0.3, step=0.1),
    ),
    (
      integer('optimizer.warmup_steps', 50, 250, 50),
      Integer(field='optimizer.warmup_steps', low=50, high=250, step=50),
    ),
    (
      integer('batch_size', 8, 512, log=True),
      Integer(field='batch_size', low=8, high=512, log=True),
    ),
    (NAME, Choice(field='optimizer.name', choices=('adamw', 'muon'))),
    (
      choice('optimizer.clip_norm', (None, 1, 0.5)),
      Choice(field='optimizer.clip_norm', choices=(None, 1.0, 0.5)),
    ),
    (
      choice('optimizer.ema_decay', (None, 0.99)),
      Choice(field='optimizer.ema_decay', choices=(None, 0.99)),
    ),
    (
      choice('optimizer.decay_kinds', (('matrix', 'head'), ('matrix',))),
      Choice(
        field='optimizer.decay_kinds', choices=(('matrix', 'head'), ('matrix',))
      ),
    ),
    (
      choice('model.scan_layers', (True, False)),
      Choice(field='model.scan_layers', choices=(True, False)),
    ),
  ],
)
def test_ranges_are_read(entry, wanted):
  (found,) = search_of(entry).space.parameters
  assert type(found) is type(wanted)
  assert found == wanted


RANGES = [
  (log('optimizer.learning_rat', 1e-4, 0.1), 'mean optimizer.learning_rate'),
  (log('optimiser.learning_rate', 1e-4, 0.1), 'mean optimizer.learning_rate'),
  (log('zzz', 1e-4, 0.1), 'no field zzz'),
  (log('optimizer', 1e-4, 0.1), 'is a section'),
  (choice('data.name', ('a', 'b')), 'cannot be compared'),
  (choice('data.tokenizer.vocab_size', (1, 2)), 'cannot be compared'),
  (integer('planning.searched', 1, 5), 'changes no number'),
  (choice('runtime.compilation_cache', ('a', 'b')), 'changes no number'),
  (integer('search.trials', 1, 5), 'does not search itself'),
  (integer('steps', 100, 2000), 'longest'),
  (integer('seed', 0, 5), 'luck'),
  (real('batch_size', 8, 512), 'is an int'),
  (log('batch_size', 8, 512), 'is an int'),
  (octaves('batch_size', 2, 'default'), 'is an int'),
  (integer('optimizer.learning_rate', 1, 5), 'is a float'),
  (integer('optimizer.name', 1, 5), 'choice'),
  (real('optimizer.name', 0, 1), 'choice'),
  (real('model.scan_layers', 0, 1), 'choice'),
  (integer('model.scan_layers', 0, 1), 'choice'),
  (integer('batch_size', 8.0, 512), 'must be an int'),
  (log('optimizer.learning_rate', '1e-4', 0.1), 'finite number'),
  (log('optimizer.learning_rate', 1e-4, math.inf), 'finite number'),
  (log('optimizer.learning_rate', 1e-2, 1e-2), 'less than high'),
  (log('optimizer.learning_rate', 1e-2, 1e-4), 'less than high'),
  (log('optimizer.learning_rate', 0, 1e-2), 'above 0'),
  (log('optimizer.learning_rate', -1, 1e-2), 'above 0'),
  (integer('batch_size', 0, 512, log=True), 'above 0'),
  (integer('batch_size', 8, 512, 8, log=True), 'drop one'),
  (integer('batch_size', 8, 100, 16), 'the last value would be 88'),
  (integer('batch_size', 8, 72, 0), 'above 0'),
  (real('model.mlp_dropout', 0, 0.35, 0.1), 'the last value would be 0.3'),
  (real('model.mlp_dropout', 0, 1, 1e-8), 'fewer than'),
  (one_minus_log('optimizer.b2', 1e-3, 1), 'below 1'),
  (one_minus_log('optimizer.b2', 0, 0.1), 'above 0'),
  (octaves('optimizer.weight_decay', 2), 'no law'),
  (octaves('optimizer.weight_decay', 0, 0.1), 'above 0'),
  (octaves('optimizer.weight_decay', 2, 'laws'), "'laws'"),
  (octaves('loss.z_loss', 2, 'default'), 'above 0'),
  (log('optimizer.learning_rate', 1e-3, 0.1), 'outside 0.001 to 0.1'),
  (octaves('optimizer.learning_rate', 0.2), 'outside 0.000348'),
  (one_minus_log('optimizer.b2', 1e-3, 0.01), 'outside 0.99 to 0.999'),
  (integer('batch_size', 10, 100, 10), 'between the steps'),
  (real('optimizer.b1', 0, 0.96, 0.08), 'between the steps'),
  (choice('optimizer.name', ('muon', 'lion')), 'none of'),
  (real('optimizer.ema_decay', 0.9, 0.999), 'None is no number'),
  (choice('optimizer.name', ('adamw',)), 'two values or more'),
  (choice('optimizer.name', ('adamw', 'muon', 'muon')), 'each once'),
  (choice('optimizer.name', ('adamw', 3)), 'an? int'),
  (choice('batch_size', (64, 32.0)), 'an? float'),
  (choice('batch_size', (64, True)), 'an? bool'),
  (choice('model.scan_layers', (True, 0)), 'an? int'),
  (('optimizer.learning_rate', 1e-4, 1e-1), 'it takes what log'),
  ({'kind': 'log', 'field': 'optimizer.learning_rate'}, 'it takes what log'),
]


@pytest.mark.parametrize(('entry', 'message'), RANGES)
def test_a_wrong_range_is_one_clean_error(entry, message):
  with pytest.raises(ValueError, match=message) as error:
    search_of(entry)
  assert str(error.value).startswith('search.space')
  assert '\n' not in str(error.value)


LIMIT = 'optimizer.learning_rate * optimizer.weight_decay < {}'
SEARCHES = [
  ({'space': ()}, 'is empty'),
  ({'space': (RATE, DECAY, RATE)}, 'twice'),
  ({'space': (RATE, MOMENTUM)}, 'another field of the space'),
  (
    {'space': (RATE, log('optimizer.b1', 0.1, 0.95, when=(
      'optimizer.learning_rate', (3e-4,))))},
    'a choice',
  ),
  (
    {'space': (NAME, real('optimizer.b1', 0.1, 0.95, when=(
      'optimizer.name', ('lion',))))},
    'chooses among',
  ),
  (
    {'space': (NAME, real('optimizer.b1', 0.1, 0.95, when=(
      'optimizer.name', 'muon')))},
    'tuple of its values',
  ),
  (
    {'space': (
      choice('optimizer.name', ('adamw', 'muon'), when=(
        'optimizer.schedule', ('cosine',))),
      choice('optimizer.schedule', ('cosine', 'wsd'), when=(
        'optimizer.name', ('muon',))),
    )},
    'circle',
  ),
  ({'constraints': ('optimizer.b1 < 1',)}, 'not in search.space'),
  ({'constraints': (LIMIT.format(1e-5),)}, '3e-05 < 1e-05 is false'),
  ({'constraints': ('optimizer.learning_rate <',)}, 'cannot be read'),
  (
    {'space': (RATE, NAME), 'constraints': ('optimizer.name < 1',)},
    'not all of them are numbers',
  ),
  (
    {'constraints': (
      'optimizer.learning_rate <= 0.0003', 'optimizer.learning_rate >= 0.0003',
    )},
    '0 of 8,192',
  ),
  (
    {
      'space': (octaves('optimizer.learning_rate', 2), DECAY),
      'constraints': ('optimizer.learning_rate < 3.5e-4',),
    },
    "laws' point breaks",
  ),
  ({'metrics': ('los',)}, 'choose one of'),
  ({'metrics': ('loss/code',)}, 'choose one of'),
  ({'metrics': (), 'modes': ()}, 'at least one'),
  ({'metrics': ('loss', 'loss'), 'modes': ('min', 'min')}, 'twice'),
  ({'metrics': ('loss', 'parameters')}, 'a mode for each'),
  ({'modes': ('least',)}, 'choose one of'),
  ({'metrics': ('loss', 'parameters'), 'modes': ('min', 'min')}, "'none'"),
  ({'metrics': ('step_seconds',)}, "'none'"),
  ({'sampler': 'anneal'}, 'choose one of'),
  ({'sampler': 'grid'}, 'needs a finite space, and optimizer.learning_rate'),
  (
    {'sampler': 'grid', 'space': (integer('batch_size', 1, 41),),
     'config': {'batch_size': 8}},
    'visits 41 points',
  ),
  ({'sampler': 'grid', 'space': (integer('batch_size', 1, 20_000),)}, '10,000'),
  ({'sampler': 'cmaes', 'space': (NAME,)}, 'needs a range of numbers'),
  (
    {'sampler': 'cmaes', 'metrics': ('loss', 'parameters'),
     'modes': ('min', 'min'), 'pruner': 'none'},
    'makes one metric best',
  ),
  ({'pruner': 'sha'}, 'choose one of'),
  ({'rungs': (0.5, 0.25)}, 'must rise'),
  ({'rungs': (0.5, 0.5)}, 'must rise'),
  ({'rungs': (0.12, 0.5)}, 'noise before'),
  ({'rungs': (0.5, 1.0)}, 'below 1'),
  ({'rungs': ()}, 'there are none'),
  ({'keep': 1.0}, 'between 0 and 1'),
  ({'keep': 0.0}, 'between 0 and 1'),
  ({'rungs': ('0.5',)}, 'noise before'),
  ({'trails': 10}, 'mean search.trials?'),
  ({'confirm': {'seed': 1}}, 'mean search.confirm.seeds?'),
  ({'trials': 0}, 'search.trials is 0'),
  ({'startup': 0}, 'search.startup is 0'),
  ({'workers': 0}, 'search.workers is 0'),
  ({'seed': -1}, 'search.seed is -1'),
  ({'tokens': 0}, 'search.tokens is 0'),
  ({'hours': -1.0}, 'search.hours is -1'),
  ({'population': 0}, 'search.population is 0'),
  ({'population': 'all'}, "an int or 'auto'"),
  ({'population': 2.5}, "an int or 'auto'"),
  ({'seed_noise': -0.1}, 'search.seed_noise'),
  ({'confirm': {'seeds': 0}}, 'search.confirm.seeds is 0'),
  ({'confirm': {'scale': 0.0}}, 'search.confirm.scale is 0'),
  ({'proxy': (('model.embed_dims', 64),)}, 'mean model.embed_dim?'),
  ({'proxy': (('optimizer.weight_decay', 0.1),)}, 'drop one of them'),
  ({'proxy': (('model.embed_dim', 64.0),)}, 'a float; it takes int'),
  ({'proxy': (('steps', 1), ('steps', 2))}, 'twice'),
  ({'proxy': ('steps', 1)}, 'it takes pairs'),
]  # fmt: skip


@pytest.mark.parametrize(('fields', 'message'), SEARCHES)
def test_a_wrong_search_is_one_clean_error(fields, message):
  fields = dict(fields)
  space = fields.pop('space', (RATE, DECAY))
  with pytest.raises(ValueError, match=message) as error:
    search_of(*space, **fields)
  assert '\n' not in str(error.value)


def test_a_mixture_has_a_loss_of_each_dataset():
  config = {'data.mixture.code.weights': ('1',)}
  search = search_of(RATE, metrics=('loss/code',), config=config)
  assert search.metrics == ('loss/code',)
  with pytest.raises(ValueError, match='loss/code'):
    search_of(RATE, metrics=('loss/prose',), config=config)


GRID = (integer('optimizer.warmup_steps', 50, 150, 50), NAME)


@pytest.mark.parametrize(
  ('space', 'trials', 'wanted'),
  [
    (GRID, 6, 'grid'),
    (GRID, 5, 'gp'),
    ((RATE,), 300, 'gp'),
    ((RATE,), 301, 'tpe'),
    ((*GRID, RATE), 6, 'gp'),
  ],
)
def test_the_sampler_follows_from_space_and_budget(space, trials, wanted):
  assert search_of(*space, trials=trials).sampler == wanted


def test_the_default_is_a_search_but_for_its_space():
  search = get_search()
  search.space = (RATE,)
  found = read(search)
  assert found.population is None
  assert found.proxy == ()
  assert found.confirm.seeds == 3
  search.population = 8
  assert read(search).population == 8
  assert search_of(RATE, proxy=(('optimizer.b1', 1),)).proxy == (
    ('optimizer.b1', 1),
  )


def test_a_search_has_all_fields():
  search = get_search()
  search.space = (RATE,)
  del search['keep'], search['seed']
  with pytest.raises(ValueError, match='search lacks keep, seed'):
    read(search)


def test_a_search_starts_from_the_configuration_and_from_the_laws():
  space = search_of(octaves('optimizer.learning_rate', 3), DECAY, *GRID).space
  default = {p.field: defaults()[p.field] for p in space.parameters}
  assert space.default_point() == default
  assert space.law_point() == default | LAWS
  assert search_of(RATE).space.law_point() is None


def test_a_parameter_comes_after_the_choice_that_it_depends_on():
  space = search_of(MOMENTUM, RATE, NAME).space
  fields = [parameter.field for parameter in space.parameters]
  assert fields.index('optimizer.name') < fields.index('optimizer.momentum')
  assert 'optimizer.momentum' not in space.default_point()
