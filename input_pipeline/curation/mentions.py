"""Which groups of words a text mentions: whole words, in any case."""

import re
from collections.abc import Mapping

from input_pipeline.curation.config import pairs

# Name of a group -> its terms.
Groups = Mapping[str, tuple[str, ...]]

_PLAIN = re.compile(r'[a-z0-9_]+')
# Letters, digits and _ stay; every other byte, those of characters beyond
# ASCII too, becomes a space.
_WORDS = bytes(
  byte if _PLAIN.fullmatch(chr(byte)) else ord(' ') for byte in range(256)
)


def parse_groups(term_groups: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
  """Reads `data.curation.term_groups`: ('women=she,her', 'men=he,his').

  Raises:
    ValueError: an entry has another form, a name stands twice, or a term is
      empty.
  """
  groups = {}
  for name, terms in pairs('term_groups', term_groups).items():
    found = tuple(term.strip().casefold() for term in terms.split(','))
    if '' in found:
      raise ValueError(
        f'data.curation.term_groups: {name}={terms!r} holds an empty term;'
        ' separate terms by one comma each'
      )
    groups[name] = tuple(dict.fromkeys(found))
  return groups


class Mentions:
  """Finds the groups that a text mentions.

  A term of several words ('african american') is one term. Where a text is
  ASCII and a term is a word of ASCII, looking the term up in the set of words
  is exact; elsewhere that lookup finds candidates, which a pattern checks.
  """

  def __init__(self, groups: Groups) -> None:
    groups_of: dict[str, list[str]] = {}
    for name, terms in groups.items():
      for term in terms:
        groups_of.setdefault(term.casefold(), []).append(name)
    self._groups_of = groups_of
    self._plain = frozenset(
      term.encode() for term in groups_of if _PLAIN.fullmatch(term)
    )
    self._other = [term for term in groups_of if not _PLAIN.fullmatch(term)]
    self._patterns = {
      term: re.compile(rf'(?<!\w){re.escape(term)}(?!\w)') for term in groups_of
    }

  def __call__(self, text: str) -> frozenset[str]:
    """Names of the groups of which a term stands in the text."""
    if not self._groups_of:
      return frozenset()
    folded = text.casefold()
    words = folded.encode().translate(_WORDS).split()
    terms = [word.decode() for word in self._plain.intersection(words)]
    if not folded.isascii():
      terms = [term for term in terms if self._stands(term, folded)]
    terms += [
      term
      for term in self._other
      if term in folded and self._stands(term, folded)
    ]
    return frozenset(name for term in terms for name in self._groups_of[term])

  def _stands(self, term: str, folded: str) -> bool:
    return self._patterns[term].search(folded) is not None
