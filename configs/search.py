"""Every field of a search for hyper-parameters, and the ranges it is made of.

A config file that is to be tuned defines a search beside its configuration:

    from configs.search import get_search as base_search
    from configs.search import log, one_minus_log

    def get_search():
      search = base_search()
      search.space = (
        log('optimizer.learning_rate', 1e-4, 1e-1),
        one_minus_log('optimizer.b2', 2e-3, 1e-1),
      )
      return search
"""

from typing import Any

from ml_collections import ConfigDict, config_dict


def get_search() -> ConfigDict:
  """Returns the default: all but the space."""
  search = ConfigDict()
  # What is searched: ranges, made by the functions below, of fields of the
  # configuration. The values that this has must lie in them: they are tried
  # first.
  search.space = ()
  # Comparisons that every trial meets, of arithmetic with searched fields:
  # 'optimizer.learning_rate * optimizer.weight_decay < 0.01'.
  search.constraints = ()

  # What is made best: 'loss', 'perplexity', 'bits_per_byte' or 'loss/NAME' of
  # the last evaluation, 'parameters' or 'step_seconds'. Of several, those
  # trials are found that no other beats in all.
  search.metrics = ('loss',)
  # 'min' or 'max' for each metric.
  search.modes = ('min',)

  # Who suggests the next trial: 'grid', 'random', 'qmc' (a Sobol sequence),
  # 'tpe', 'cmaes' or 'gp' (a Gaussian process). 'auto': grid if the space is a
  # grid with no more points than trials; else gp up to 300 trials, and tpe
  # above.
  search.sampler = 'auto'
  # Trials at random before tpe, cmaes or gp have something to learn from.
  search.startup = 10
  # Who ends trials before their last step: 'asha' (successive halving),
  # 'hyperband', 'median' or 'none', which several metrics need.
  search.pruner = 'asha'
  # Fractions of the steps at which trials are compared, and end if they are
  # not among the best `keep` of those that came so far. Rungs within the
  # warm-up move to its end; before 0.25 ranks are noise.
  search.rungs = (0.25, 0.5)
  search.keep = 0.5

  # The search ends with the first of these that is spent. Trials, pruned and
  # failed ones included:
  search.trials = 40
  # tokens that all of them trained on; None: any.
  search.tokens = config_dict.placeholder(int)
  # hours since it began, from one start to the next; None: any.
  search.hours = config_dict.placeholder(float)
  # Everything random in the search derives from it. Trials share the seed of
  # the configuration.
  search.seed = 0

  # Trials that are computed at once in one program; 'auto': as many as help
  # and fit into memory.
  search.population = config_dict.FieldReference('auto', field_type=object)
  # Processes of this machine that run trials.
  search.workers = 1

  # Fields of the configuration, with the values they have in the search, such
  # as (('model.embed_dim', 256), ('steps', 1_000)): a smaller model that the
  # answer is transferred from.
  search.proxy = ()
  search.confirm = _confirm()
  # Standard deviation of the loss over seeds, in nats: a gain must exceed what
  # it explains. None: from the seeds above.
  search.seed_noise = config_dict.placeholder(float)
  return search


def _confirm() -> ConfigDict:
  """What is run again before an answer is believed."""
  confirm = ConfigDict()
  # The best this many trials, beside the default.
  confirm.top = 3
  # Fresh seeds for each of them.
  confirm.seeds = 3
  # Width, as a multiple of that in the search, such as 2.0: there are more
  # heads of the same size, and wider feed-forward layers and experts. None: the
  # same.
  confirm.scale = config_dict.placeholder(float)
  return confirm


When = tuple[str, tuple[Any, ...]] | None


def log(
  field: str, low: float, high: float, *, when: When = None
) -> ConfigDict:
  """A float whose octaves are equally likely.

  Args:
    field: dotted name in the configuration.
    low: lowest value, above 0.
    high: highest.
    when: another searched field, a choice, and those of its values for which
      this one is searched, such as ('optimizer.name', ('muon',)); elsewhere it
      has the configuration's value. None: always.
  """
  return _range('log', field, when, low=low, high=high)


def octaves(
  field: str,
  width: float,
  around: str | float = 'law',
  *,
  when: When = None,
) -> ConfigDict:
  """A float from 2**-width to 2**width times a centre, as `log`.

  Args:
    field: dotted name in the configuration.
    width: octaves to either side.
    around: 'law': what a published law says for this model and data;
      'default': the configuration's value; or a number.
    when: as in `log`.
  """
  return _range('octaves', field, when, width=width, around=around)


def one_minus_log(
  field: str, low: float, high: float, *, when: When = None
) -> ConfigDict:
  """A float below 1, such as Adam's beta; of 1 - value, octaves are likely.

  Args:
    field: dotted name in the configuration.
    low: lowest value of 1 - value, above 0.
    high: highest, below 1.
    when: as in `log`.
  """
  return _range('one_minus_log', field, when, low=low, high=high)


def real(
  field: str,
  low: float,
  high: float,
  step: float | None = None,
  *,
  when: When = None,
) -> ConfigDict:
  """A float.

  Args:
    field: dotted name in the configuration.
    low: lowest value.
    high: highest; with a step, low and a multiple of it.
    step: distance of the values; None: any.
    when: as in `log`.
  """
  return _range('real', field, when, low=low, high=high, step=step)


def integer(
  field: str,
  low: int,
  high: int,
  step: int = 1,
  log: bool = False,
  *,
  when: When = None,
) -> ConfigDict:
  """An int.

  Args:
    field: dotted name in the configuration.
    low: lowest value.
    high: highest: low and a multiple of the step.
    step: distance of the values.
    log: octaves are equally likely, and not numbers; low is at least 1 then.
    when: as in `log`.
  """
  return _range('integer', field, when, low=low, high=high, step=step, log=log)


def choice(
  field: str, values: tuple[Any, ...], *, when: When = None
) -> ConfigDict:
  """One of some values, which have no order.

  Args:
    field: dotted name in the configuration.
    values: of the field's type; None too where it may be None.
    when: as in `log`.
  """
  return _range('choice', field, when, values=tuple(values))


def _range(kind: str, field: str, when: When, **rest: Any) -> ConfigDict:
  return ConfigDict({'kind': kind, 'field': field, 'when': when, **rest})
