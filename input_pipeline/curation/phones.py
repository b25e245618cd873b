"""Telephone numbers among other numbers.

Digits alone say little, so a number counts only if it is written like one: with
a plus and a country, or with the separators of a common national form. Dates,
ISBNs, versions, prices and identifiers are not.
"""

import re
from collections.abc import Iterator

MIN_DIGITS = 8
# Characters between two digits of a number, and one.
MAX_GAP = 4
# ITU-T E.164.
_MAX_DIGITS = 15

_INTERNATIONAL = (
  # +49 30 1234567, +1 (212) 555-0123, +44 (0)20 7946 0958
  r'\+[1-9]\d{0,2}(?:[ -]?\(\d{1,5}\)|[ -]\d{1,5})(?:[ /-]?\d{2,8}){1,5}',
  # +1.212.555.0123
  r'\+[1-9]\d{0,2}(?:\.\d{2,4}){3,4}',
  # +493012345678
  r'\+[1-9]\d{9,14}',
)
_NATIONAL = (
  # North America: (212) 555-0123, 1-800-555-0123, 212.555.0123
  r'(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d(?P<dot>[ .-]))'
  r'[2-9]\d\d(?(dot)(?P=dot)|[ .-])\d{4}',
  # France: 01 23 45 67 89
  r'0[1-9](?P<pair>[ .-])\d\d(?:(?P=pair)\d\d){3}',
  # Britain, Germany and others: 020 7946 0958, 07911 123456, 089/12345678
  r'(?:\(0[1-9]\d{1,3}\)[ /-]?|0[1-9]\d{1,3}[ /-])\d{3,5}[ -]?\d{3,4}',
)
_NUMBER = re.compile(
  rf'(?<![\d+./-])(?<!\d\()(?:{"|".join((*_INTERNATIONAL, *_NATIONAL))})'
  r'(?![\d/]|[.-]\d|\)\d)'
)
# A number in a longer word, an amount or an assignment is something else.
_BAD_BEFORE = re.compile(r'[\w$€£¥#%=*^\\]')
_BAD_AFTER = re.compile(r'[\w%€£¥=*^\\]|:\d')
_DIGIT_SPACE = re.compile(r'\d $')
_SPACE_DIGIT = re.compile(r' \d')


def find(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
  """Finds the telephone numbers around a run of digits.

  Args:
    text: of the document.
    start: of the first digit.
    stop: after the last; other digits are at least MAX_GAP characters away.

  Yields:
    Start and stop of each.
  """
  # A plus or a bracket may stand before, and the end must be seen as one.
  for match in _NUMBER.finditer(text, max(0, start - 2), stop + MAX_GAP):
    first, last = match.span()
    digits = sum(map(str.isdigit, match.group()))
    if (
      MIN_DIGITS <= digits <= _MAX_DIGITS
      and not _BAD_BEFORE.match(text[max(0, first - 1) : first])
      and not _BAD_AFTER.match(text, last)
      and not _in_table(
        match.group(), text[max(0, first - 2) : first], text[last : last + 2]
      )
    ):
      yield first, last


def _in_table(number: str, before: str, after: str) -> bool:
  """Whether numbers with spaces between stand among more of their kind."""
  if not number.replace(' ', '').isdigit():
    return False
  return bool(_DIGIT_SPACE.search(before) or _SPACE_DIGIT.match(after))
