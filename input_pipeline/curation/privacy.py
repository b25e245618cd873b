"""Replaces what identifies a person or opens a door by a typed mark.

Legend of array names: C characters, W words, R runs of characters, D documents.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

import numpy as np

from input_pipeline.curation import phones, secrets
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import Privacy
from input_pipeline.curation.stage import Outcome

RULES = ()
# Plain text, and nothing that a tokenizer holds for a special token.
MARKS = {
  'email': '[EMAIL]',
  'ip_address': '[IP_ADDRESS]',
  'phone': '[PHONE]',
  'secret': '[SECRET]',
}
# (start, stop, kind), in characters of the document; and with its number.
_Span = tuple[int, int, str]
_Found = tuple[int, int, int, str]
_Search = Callable[[str, int, int], Iterator[_Span]]

_EMAIL = re.compile(
  r'(?<![\w.%+-])\w[\w.%+-]{0,63}@'
  r'(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}'
  r'[A-Za-z]{2,24}(?![\w-])'
)
_IPV4 = re.compile(r'(?<![\w.-])(?<!==)\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)')
_IPV6 = re.compile(
  r'(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:]|\.\w)'
)
_GLOBAL_UNICAST = ipaddress.ip_network('2000::/3')
# Four numbers after such a word are no address.
_NUMBERED = re.compile(
  r'(?:version|ver\.?|v\.?|release|section|sec\.?|chapter|clause|§)\s*$', re.I
)
_CONTEXT = 16


def apply(columns: Columns, options: Privacy) -> Outcome:
  """Marks emails, public IP addresses, telephone numbers, keys and tokens."""
  counts = {
    kind: np.zeros(columns.num_documents, np.int64)
    for kind, wanted in (
      ('email', options.emails),
      ('ip_address', options.ip_addresses),
      ('phone', options.phones),
      ('secret', options.secrets),
    )
    if wanted
  }
  texts = list(columns.texts)
  documents = list(range(columns.num_documents))
  # A mark may part what hid another find, so changed texts are read again. Each
  # round takes characters away that no mark has, so there is a last one.
  while found := _find(columns, options):
    spans: dict[int, list[_Span]] = {}
    for document, start, stop, kind in found:
      of_document = spans.setdefault(documents[document], [])
      of_document.append((start, stop, kind))
    documents = sorted(spans)
    for place in documents:
      texts[place], kinds = _mark(texts[place], spans[place])
      for kind in kinds:
        counts[kind][place] += 1
    columns = Columns([texts[place] for place in documents])
  changed_any = any(count_D.any() for count_D in counts.values())
  return Outcome(
    rule_D=np.full(len(texts), -1, np.int8),
    texts=texts if changed_any else None,
    counts=counts,
  )


def _mark(text: str, spans: list[_Span]) -> tuple[str, list[str]]:
  """Replaces the spans that overlap none before them in the list.

  Returns:
    The text, and the kinds of what was replaced.
  """
  taken = bytearray(len(text))
  chosen = []
  for start, stop, kind in spans:
    if not any(taken[start:stop]):
      taken[start:stop] = b'\1' * (stop - start)
      chosen.append((start, stop, kind))
  parts, rest = [], 0
  for start, stop, kind in sorted(chosen):
    parts += [text[rest:start], MARKS[kind]]
    rest = stop
  return ''.join([*parts, text[rest:]]), [kind for *_, kind in chosen]


def _find(columns: Columns, options: Privacy) -> list[_Found]:
  """Finds all, the kinds that hold others first."""
  found: list[_Found] = []
  if options.secrets:
    found += _private_keys(columns)
    found += _in_words(columns, _long_words(columns), _tokens)
  if options.emails:
    found += _in_words(columns, _words_with(columns, '@', 1), _emails)
  if options.ip_addresses:
    dotted = _words_with(columns, '.', 3)
    found += _in_words(columns, dotted, _ipv4_addresses)
    found += _in_words(columns, _words_with(columns, ':', 2), _ipv6_addresses)
  if options.phones:
    found += _phones(columns)
  return found


def _in_words(
  columns: Columns, words: np.ndarray, search: _Search
) -> Iterator[_Found]:
  """Searches some words; `search` gets the text and the span of the word."""
  doc_W = columns.doc_W[words]
  base_W = columns.start_D[doc_W]
  spans = zip(
    doc_W.tolist(),
    (columns.start_W[words] - base_W).tolist(),
    (columns.stop_W[words] - base_W).tolist(),
    strict=True,
  )
  for document, start, stop in spans:
    for first, last, kind in search(columns.texts[document], start, stop):
      yield document, first, last, kind


def _long_words(columns: Columns) -> np.ndarray:
  return np.flatnonzero(columns.length_W >= secrets.MIN_LENGTH)


def _words_with(columns: Columns, character: str, count: int) -> np.ndarray:
  """Words with a character so many times."""
  places = np.flatnonzero(columns.points_C == ord(character))
  words = np.searchsorted(columns.start_W, places, side='right') - 1
  last = count - 1
  return np.unique(words[last:][words[last:] == words[: words.size - last]])


def _tokens(text: str, start: int, stop: int) -> Iterator[_Span]:
  for match in secrets.TOKEN.finditer(text, start, stop):
    yield *match.span(), 'secret'


def _emails(text: str, start: int, stop: int) -> Iterator[_Span]:
  for match in _EMAIL.finditer(text, start, stop):
    yield *match.span(), 'email'


def _ipv4_addresses(text: str, start: int, stop: int) -> Iterator[_Span]:
  for match in _IPV4.finditer(text, start, stop):
    context = text[max(0, match.start() - _CONTEXT) : match.start()]
    if _is_global(match.group()) and not _NUMBERED.search(context):
      yield *match.span(), 'ip_address'


def _ipv6_addresses(text: str, start: int, stop: int) -> Iterator[_Span]:
  for match in _IPV6.finditer(text, start, stop):
    # The colon of a sentence may follow.
    address = match.group()
    if address.endswith(':') and not address.endswith('::'):
      address = address[:-1]
    if _is_global(address):
      yield match.start(), match.start() + len(address), 'ip_address'


def _is_global(address: str) -> bool:
  try:
    parsed = ipaddress.ip_address(address)
  except ValueError:
    return False
  return parsed.is_global and (parsed.version == 4 or parsed in _GLOBAL_UNICAST)


def _private_keys(columns: Columns) -> Iterator[_Found]:
  for document, text in enumerate(columns.texts):
    if secrets.PRIVATE_KEY_START in text:
      for match in secrets.PRIVATE_KEY.finditer(text):
        yield document, *match.span(), 'secret'


def _phones(columns: Columns) -> Iterator[_Found]:
  """Looks at runs of digits and separators with digits enough."""
  points_C = columns.points_C
  digit_C = (points_C >= ord('0')) & (points_C <= ord('9'))
  digits = np.flatnonzero(digit_C)
  if digits.size < phones.MIN_DIGITS:
    return
  doc = np.searchsorted(columns.start_D, digits, side='right') - 1
  apart = (np.diff(digits) > phones.MAX_GAP) | (np.diff(doc) > 0)
  gap = np.flatnonzero(apart)
  first_R, last_R = np.append(0, gap + 1), np.append(gap, digits.size - 1)
  many_R = last_R - first_R + 1 >= phones.MIN_DIGITS
  first_R, last_R = first_R[many_R], last_R[many_R]
  base_R = columns.start_D[doc[first_R]]
  spans = zip(
    doc[first_R].tolist(),
    (digits[first_R] - base_R).tolist(),
    (digits[last_R] + 1 - base_R).tolist(),
    strict=True,
  )
  for document, start, stop in spans:
    for first, last in phones.find(columns.texts[document], start, stop):
      yield document, first, last, 'phone'
