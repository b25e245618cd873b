"""Prose of any length, made from what the interpreter has to read.

Documents are sentences of `pydoc`'s topics and of long docstrings in random
order. So they have the words, the lines and the lengths of prose, and no two of
them are alike. The same seed gives the same documents.
"""

import ast
import functools
import pathlib
import random
import re
import sysconfig
from collections.abc import Iterator
from pydoc_data import topics

_SENTENCE = re.compile(r'(?<=[.!?])\s+')
_MIN_WORDS, _MAX_WORDS = 6, 60


def documents(size: int, seed: int = 0) -> Iterator[str]:
  """Yields documents of about 1 to 8 kB, `size` bytes together."""
  pool, draw = sentences(), random.Random(seed)
  made = 0
  while made < size:
    wanted = draw.lognormvariate(8.0, 0.7)
    paragraphs: list[str] = []
    length = 0.0
    while length < wanted:
      paragraph = ' '.join(draw.choices(pool, k=draw.randint(2, 7)))
      paragraphs.append(paragraph)
      length += len(paragraph)
    text = '\n\n'.join(paragraphs)
    made += len(text.encode())
    yield text


@functools.cache
def sentences() -> tuple[str, ...]:
  """Different sentences of prose that stand in the interpreter."""
  texts = list(topics.topics.values())
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  for path in sorted(root.glob('*.py')):
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
      if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        texts.append(ast.get_docstring(node) or '')
  found = dict.fromkeys(
    ' '.join(sentence.split())
    for text in texts
    for sentence in _SENTENCE.split(text)
    if _is_prose(sentence)
  )
  return tuple(found)


def _is_prose(sentence: str) -> bool:
  words = sentence.split()
  letters = sum(character.isalpha() for character in sentence)
  return (
    _MIN_WORDS <= len(words) <= _MAX_WORDS
    and words[0][0].isupper()
    and sentence[-1] in '.!?'
    and letters > 0.75 * len(sentence)
  )
