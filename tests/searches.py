"""Searches for tests, of the default configuration."""

import functools
from typing import Any

from etils import epath

from configs import base, check
from configs.search import get_search, log
from train.tuning.search_config import SearchConfig, search_config
from train.tuning.study import Study

LAWS = {'optimizer.learning_rate': 4e-4}


@functools.cache
def defaults() -> dict[str, Any]:
  known = check.fields(base.get_config())
  return {name: value for name, (value, _) in known.items()}


def search_of(*space, config: dict[str, Any] | None = None, **fields):
  """A checked search.

  Args:
    *space: its ranges.
    config: fields of the configuration that differ from base.py.
    **fields: of the search.
  """
  search = get_search()
  search.space = space
  search.update(fields)
  return read(search, config)


def read(search, config: dict[str, Any] | None = None) -> SearchConfig:
  return search_config(search, defaults() | (config or {}), LAWS.get)


def random_study(folder, storage, *, trials: int, said=lambda text: None):
  """A study as a host joins it; storage as of Study."""
  return Study(
    epath.Path(folder),
    search_of(
      log('optimizer.learning_rate', 1e-5, 1e-2),
      trials=trials,
      pruner='none',
      sampler='random',
    ),
    storage=storage,
    config={'steps': 8},
    data_fingerprint='data',
    steps=8,
    warmup_steps=1,
    said=said,
  )
