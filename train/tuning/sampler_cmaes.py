"""The evolution strategy CMA-ES (Hansen 2016), by the package cmaes."""

from collections.abc import Iterator

import cmaes
import numpy as np

from train.tuning.history import History
from train.tuning.parameters import Choice
from train.tuning.space import Params, Space

# Where a search begins: the middle of each range, and this deviation.
_DEVIATION = 1 / 6


def suggest_cmaes(
  space: Space, history: History, rng: np.random.Generator
) -> Iterator[Params]:
  """Yields params of the next generation; choices are random.

  The strategy is made anew from the finished trials, a generation after the
  other. Nothing but the study holds its state, and no pickle is read.

  Args:
    space: of the search.
    history: finished trials; the last ones, too few for a generation, wait.
    rng: source of the suggestions.
  """
  numeric_D = np.array([not isinstance(p, Choice) for p in space.parameters])
  count = int(numeric_D.sum())
  strategy = cmaes.CMA(
    mean=np.full(count, 0.5),
    sigma=_DEVIATION,
    bounds=np.array([[0.0, 1.0]] * count),
    seed=int(rng.integers(2**31)),
  )
  told = [
    (space.units(params)[numeric_D], float(cost_M[0]))
    for params, cost_M in zip(history.finished, history.costs_NM, strict=True)
  ]
  size = strategy.population_size
  for start in range(0, len(told) - size + 1, size):
    strategy.tell(told[start : start + size])
  while True:
    unit_D = rng.random(len(space.parameters))
    unit_D[numeric_D] = strategy.ask()
    yield space.from_units(unit_D)
