"""One form of each character.

Legend of array names: C characters, D documents.
"""

import re
import unicodedata

import numpy as np

from input_pipeline.curation import characters
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import Normalise
from input_pipeline.curation.rules import first_rule
from input_pipeline.curation.stage import Outcome

RULES = ('empty',)

# Those of `str.splitlines`, without the two that are no control characters.
_LINE_ENDS = re.compile('\r\n|[\r\x0b\x0c\x1c-\x1e\x85]')
# `characters.UNWANTED`, when the line ends are gone.
_REMOVED = re.compile(
  f'[{"".join(f"{chr(a)}-{chr(b)}" for a, b in characters.UNWANTED_RANGES)}]'
)
# Two characters as they come out of UTF-8 that was read as Latin-1 or
# Windows-1252: the first byte of a character, and one that continues it.
_MISREAD = re.compile('[\xc2-\xf4][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]')
# Repairs may uncover each other; more than two rounds were never seen.
_MAX_ROUNDS = 8


def apply(columns: Columns, options: Normalise) -> Outcome:
  """Makes texts NFC, with \\n as the only line end and no control characters.

  Spaces and tabs stay as they are: code means them. Mojibake is looked for in
  lines that hold UTF-8 read as Latin-1 or Windows-1252, and repaired where ftfy
  finds it.
  """
  texts = list(columns.texts)
  repaired_D = np.zeros(columns.num_documents, np.int64)
  removed_D = np.zeros(columns.num_documents, np.int64)
  for document in _suspects(columns, options).tolist():
    text, repaired, removed = normalise(
      texts[document], repair_mojibake=options.repair_mojibake
    )
    texts[document] = text
    repaired_D[document], removed_D[document] = repaired, removed
  changed = any(
    new is not old for new, old in zip(texts, columns.texts, strict=True)
  )
  empty_D = np.array([not text or text.isspace() for text in texts], bool)
  return Outcome(
    rule_D=first_rule(columns.num_documents, [empty_D]),
    texts=texts if changed else None,
    counts={'mojibake': repaired_D, 'control_characters': removed_D},
  )


def normalise(text: str, *, repair_mojibake: bool) -> tuple[str, int, int]:
  """Normalises one text.

  Returns:
    The text, the same object if nothing changes; the lines that were repaired;
    and the control characters that were removed.
  """
  repaired = removed = 0
  for _ in range(_MAX_ROUNDS):
    before = text
    if repair_mojibake:
      text, number = _repair(text)
      repaired += number
    text = _LINE_ENDS.sub('\n', text)
    text, number = _REMOVED.subn('', text)
    removed += number
    text = unicodedata.normalize('NFC', text)
    if text == before:
      return before, repaired, removed
  return text, repaired, removed


def _suspects(columns: Columns, options: Normalise) -> np.ndarray:
  """The documents that may change; few, and found without reading each."""
  suspect_D = columns.count_class_D(characters.UNWANTED) > 0
  if options.repair_mojibake:
    suspect_D |= _may_be_misread(columns)
  for document, text in enumerate(columns.texts):
    if not unicodedata.is_normalized('NFC', text):
      suspect_D[document] = True
  return np.flatnonzero(suspect_D)


def _may_be_misread(columns: Columns) -> np.ndarray:
  """Documents with what may be the first bytes of a misread character: [D]."""
  high = np.flatnonzero(columns.points_C >= 0x80)
  lead = columns.points_C[high[:-1]]
  pair = (lead >= 0xC2) & (lead <= 0xF4) & (np.diff(high) == 1)
  doc = np.searchsorted(columns.start_D, high[:-1][pair], side='right') - 1
  return columns.sum_D(doc) > 0


def _repair(text: str) -> tuple[str, int]:
  if text.isascii() or not _MISREAD.search(text):
    return text, 0
  import ftfy
  import ftfy.badness

  lines, repaired = text.split('\n'), 0
  for number, line in enumerate(lines):
    if _MISREAD.search(line) and ftfy.badness.is_bad(line):
      lines[number] = ftfy.fix_encoding(line)
      repaired += lines[number] != line
  return '\n'.join(lines), repaired
