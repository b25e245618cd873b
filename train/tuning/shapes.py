"""A configuration in other widths and depths, its proportions kept."""

import copy
from collections.abc import Sequence
from typing import Any


def resized(
  config: dict[str, Any],
  *,
  width: int | None = None,
  depth: int | None = None,
) -> dict[str, Any]:
  """A configuration of another width and depth.

  Heads keep their size and change in number; feed-forward layers and experts
  keep their width in widths of the model. The shape at which the
  hyper-parameters hold stays: where none is given, it is that of `config`.

  Args:
    config: a run's configuration, as nested dicts.
    width: model.embed_dim of the new one; None: as it is.
    depth: model.num_layers of the new one; None: as it is.

  Raises:
    ValueError: the width is not that of whole heads.
  """
  changed = copy.deepcopy(dict(config))
  model = changed['model']
  if model.get('parametrization', 'standard') != 'standard':
    for name in ('embed_dim', 'num_layers'):
      if model[f'base_{name}'] is None:
        model[f'base_{name}'] = model[name]
  if depth is not None:
    model['num_layers'] = depth
  if width is not None:
    _widen(model, width)
  return changed


def widths_of(
  config: dict[str, Any], typed: Sequence[str], lowest: int, count: int
) -> list[int]:
  """The widths of a comparison, in order.

  Args:
    config: a run's configuration, as nested dicts.
    typed: the widths, as they were typed; empty: of whole heads, each twice the
      one before.
    lowest: the first of these, or a little less.
    count: of these.

  Raises:
    ValueError: what was typed is not two or more whole numbers.
  """
  if typed:
    return sizes_of('widths', typed)
  model = config['model']
  first = -(-model['embed_dim'] // model['num_heads'])
  while first < lowest:
    first *= 2
  return [first * 2**i for i in range(count)]


def sizes_of(flag: str, typed: Sequence[str]) -> list[int]:
  """The sizes of a comparison, in order.

  Args:
    flag: that they were given with.
    typed: the sizes, as they were typed.

  Raises:
    ValueError: they are not two or more whole numbers.
  """
  found = sorted({int(text) for text in typed if text.strip().isdecimal()})
  if len(found) < len(typed) or len(found) < 2 or found[0] < 1:
    raise ValueError(
      f'--{flag}={",".join(typed)}: a comparison takes two or more whole '
      f'numbers, each once, such as --{flag}=64,128,256.'
    )
  return found


def _widen(model: dict[str, Any], width: int) -> None:
  old, heads = model['embed_dim'], model['num_heads']
  if width < 1 or heads * width % old:
    raise ValueError(
      f'Width {width} is none of whole heads: model.embed_dim = {old} has '
      f'model.num_heads = {heads}, so that widths are multiples of '
      f'{-(-old // heads)}.'
    )
  if model['head_dim'] is None:
    model['head_dim'] = old // heads
  model['num_heads'] = heads * width // old
  model['num_kv_heads'] = _divisor(
    model['num_heads'], model['num_kv_heads'] * width // old
  )
  model['embed_dim'] = width
  model['mlp_dim'] = _in_proportion(model['mlp_dim'], width, old)
  expert = model['moe']['expert_dim']
  if expert is not None:
    model['moe']['expert_dim'] = _in_proportion(expert, width, old)


def _divisor(number: int, most: int) -> int:
  """The largest divisor of a number up to another one, at least 1."""
  return max(n for n in range(1, max(most, 1) + 1) if number % n == 0)


def _in_proportion(size: int, width: int, old: int) -> int:
  """A multiple of 8 where the exact size is no whole number."""
  if size * width % old == 0:
    return size * width // old
  return max(8, round(size * width / old / 8) * 8)
