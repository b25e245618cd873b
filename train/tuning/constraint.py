"""Conditions that several hyper-parameters meet together.

A constraint compares two expressions of arithmetic, such as
'optimizer.learning_rate * optimizer.weight_decay < 0.01'. It comes from a file
and is read by a grammar of its own; nothing of it is run as Python.
"""

import ast
import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

_LONGEST = 500
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
  ast.Add: np.add,
  ast.Sub: np.subtract,
  ast.Mult: np.multiply,
  ast.Div: np.divide,
  ast.Pow: np.power,
}
_COMPARISONS: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
  ast.Lt: ('<', operator.lt),
  ast.LtE: ('<=', operator.le),
  ast.Gt: ('>', operator.gt),
  ast.GtE: ('>=', operator.ge),
}


@dataclasses.dataclass(frozen=True)
class Constraint:
  """A comparison that has been read.

  Attributes:
    text: as it was written.
    fields: dotted names that it reads, each once.
    tree: the comparison, made of allowed nodes only.
  """

  text: str
  fields: tuple[str, ...]
  tree: ast.Compare = dataclasses.field(repr=False, compare=False)

  def sides(self, values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Both sides of the comparison, in floating-point arithmetic.

    Args:
      values: numbers, or arrays of one shape, by dotted name. What cannot be
        computed, such as the root of a negative number, is not a number.
    """
    with np.errstate(all='ignore'):
      return (
        _evaluate(self.tree.left, values),
        _evaluate(self.tree.comparators[0], values),
      )

  def holds(self, values: Mapping[str, Any]) -> Any:
    """Whether it holds; where a side is not a number, it does not.

    Args:
      values: as in `sides`.

    Returns:
      A bool, or an array of them in the shape of the values.
    """
    left, right = self.sides(values)
    return _COMPARISONS[type(self.tree.ops[0])][1](left, right)

  def explain(self, values: Mapping[str, Any]) -> str:
    """What it comes to, in numbers: '0.02 < 0.01'."""
    left, right = self.sides(values)
    sign = _COMPARISONS[type(self.tree.ops[0])][0]
    return f'{left:.6g} {sign} {right:.6g}'


def parse(text: str) -> Constraint:
  """Reads a constraint.

  Args:
    text: one comparison by <, <=, > or >= of expressions made of dotted names,
      numbers, + - * / ** and parentheses.

  Raises:
    ValueError: it is anything else.
  """
  if not isinstance(text, str) or len(text) > _LONGEST:
    raise ValueError(
      f'The constraint {text!r:.80} must be a string of at most {_LONGEST} '
      'characters.'
    )
  try:
    tree = ast.parse(text.strip(), mode='eval').body
  # Deep parentheses exhaust the parser's stack or memory.
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    raise ValueError(
      f'The constraint {text!r} cannot be read; write one like '
      "'optimizer.learning_rate * optimizer.weight_decay < 0.01'."
    ) from None
  if (
    not isinstance(tree, ast.Compare)
    or len(tree.ops) != 1
    or type(tree.ops[0]) not in _COMPARISONS
  ):
    raise ValueError(
      f'The constraint {text!r} must be one comparison by <, <=, > or >=.'
    )
  names = [
    name
    for side in (tree.left, tree.comparators[0])
    for name in _names(side, text)
  ]
  return Constraint(text=text, fields=tuple(dict.fromkeys(names)), tree=tree)


def _names(node: ast.expr, text: str) -> Iterator[str]:
  """Dotted names below a node; refuses what the grammar does not have."""
  if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
    yield from _names(node.left, text)
    yield from _names(node.right, text)
  elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    yield from _names(node.operand, text)
  elif (
    isinstance(node, ast.Constant)
    and isinstance(node.value, int | float)
    and not isinstance(node.value, bool)
  ):
    if abs(node.value) > 1e300:
      raise ValueError(f'The constraint {text!r} has a number above 1e300.')
  else:
    name = _dotted(node)
    if name is None:
      raise ValueError(
        f'The constraint {text!r} contains {ast.unparse(node)!r:.80}; it is '
        'made of dotted names, numbers, + - * / ** and parentheses.'
      )
    yield name


def _dotted(node: ast.expr) -> str | None:
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute):
    before = _dotted(node.value)
    return None if before is None else f'{before}.{node.attr}'
  return None


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
  if isinstance(node, ast.BinOp):
    return _ARITHMETIC[type(node.op)](
      _evaluate(node.left, values), _evaluate(node.right, values)
    )
  if isinstance(node, ast.UnaryOp):
    return -_evaluate(node.operand, values)
  if isinstance(node, ast.Constant):
    return np.float64(node.value)  # type: ignore[arg-type]
  name = _dotted(node)
  assert name is not None
  return np.asarray(values[name], np.float64)[()]
