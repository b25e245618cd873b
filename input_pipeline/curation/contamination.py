"""Documents that hold parts of evaluation texts.

Legend of array names: C characters, W words, G n-grams, D documents.

As in GPT-3 (Brown et al. 2020, appendix C), a word is what stands between
spaces, in lower case and less all that is neither a letter nor a digit; words
of which nothing is left are passed over. So neither case nor punctuation nor
line breaks hide a leak: 'It's -- "state-of-the-art"!' is 'its stateoftheart'.
Texts are compared in Unicode's form NFC. Lower case is one character for one,
so that 'ß' is not 'SS'. Languages that write no spaces have few words, and only
long runs of them match.

An n-gram of an evaluation text (n = 13 by default) that stands in a document is
a hit. A text of fewer words matches as a whole, if it has 8 or more, which is
the least n of GPT-3; a shorter one would match by chance.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np

from input_pipeline.curation import characters, evaluation_files
from input_pipeline.curation.characters import ALNUM, SPACE, Spans
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import Contamination, pairs

# Words that a text has at least that matches as a whole.
_SHORTEST = 8
# Characters of evaluation texts that are hashed at a time.
_BATCH = 1_000_000
_FIELD = 'data.curation.contamination'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluations:
  """What must not be trained on.

  Attributes:
    ngram: words of a hit in longer texts.
    hashes: name -> n-grams and short whole texts, uint64, sorted, unique.
    sizes: numbers of words that these have, in increasing order.
    texts: name -> number of texts that are looked for.
    too_short: name -> number of texts that are not, for they have few words.
  """

  ngram: int
  hashes: dict[str, np.ndarray]
  sizes: tuple[int, ...]
  texts: dict[str, int]
  too_short: dict[str, int]

  @functools.cached_property
  def sieve(self) -> np.ndarray:
    """bool [2^k]; whether a hash with these first k bits is looked for.

    It spares nearly all of a document's n-grams the search among the hashes.
    """
    total = sum(hashes.size for hashes in self.hashes.values())
    bits = min(max((16 * total).bit_length(), 16), 28)
    sieve = np.zeros(1 << bits, bool)
    for hashes in self.hashes.values():
      sieve[hashes >> np.uint64(64 - bits)] = True
    return sieve


def load_evaluations(config: Contamination) -> Evaluations:
  """Reads the evaluation texts that the config names.

  Raises:
    ValueError: a name matches no file, a file cannot be read, or no text of a
      name has words enough to be looked for.
  """
  check(config)
  texts: dict[str, Iterable[str]] = {
    name: evaluation_files.strings(pattern, f'{_FIELD}.evaluations')
    for name, pattern in pairs(
      'contamination.evaluations', config.evaluations
    ).items()
  }
  return evaluations_of(texts, config.ngram)


def check(config: Contamination) -> None:
  """Refuses n-grams that would match anything.

  Raises:
    ValueError: names the field.
  """
  if config.ngram < 2:
    raise ValueError(
      f'{_FIELD}.ngram={config.ngram}: single words stand in every document;'
      ' use 13 (GPT-3), or 8 at the least'
    )


def evaluations_of(texts: dict[str, Iterable[str]], ngram: int) -> Evaluations:
  """Hashes the texts of each name.

  Raises:
    ValueError: no text of a name has words enough to be looked for.
  """
  shortest = min(_SHORTEST, ngram)
  hashes, found, too_short = {}, {}, {}
  sizes: set[int] = set()
  for name, strings in texts.items():
    pieces = [np.empty(0, np.uint64)]
    found[name] = too_short[name] = 0
    for batch in _batches(strings):
      words = _PlainWords(Columns(batch))
      size_D = np.minimum(words.num_words_D, ngram)
      found[name] += int((size_D >= shortest).sum())
      too_short[name] += int((size_D < shortest).sum())
      for size in np.unique(size_D[size_D >= shortest]).tolist():
        hash_G, doc_G = words.ngrams(size)
        pieces.append(hash_G[size_D[doc_G] == size])
        sizes.add(size)
    hashes[name] = np.unique(np.concatenate(pieces))
    if not found[name]:
      raise ValueError(
        f'{_FIELD}.evaluations: none of the {too_short[name]} texts of {name!r}'
        f' has {shortest} words or more, so nothing could be found'
      )
  return Evaluations(
    ngram=ngram,
    hashes=hashes,
    sizes=tuple(sorted(sizes)),
    texts=found,
    too_short=too_short,
  )


def hits(columns: Columns, evaluations: Evaluations) -> dict[str, np.ndarray]:
  """Counts parts of evaluation texts in each document.

  Returns:
    Name -> int64 [D].
  """
  documents = columns.num_documents
  counts = {name: np.zeros(documents, np.int64) for name in evaluations.hashes}
  words = _PlainWords(columns)
  sieve = evaluations.sieve
  shift = np.uint64(64 - (sieve.size.bit_length() - 1))
  for size in evaluations.sizes:
    hash_G, doc_G = words.ngrams(size)
    maybe = np.flatnonzero(sieve[hash_G >> shift])
    hash_G, doc_G = hash_G[maybe], doc_G[maybe]
    for name, known in evaluations.hashes.items():
      place_G = np.minimum(np.searchsorted(known, hash_G), known.size - 1)
      found_G = known[place_G] == hash_G
      counts[name] += np.bincount(doc_G[found_G], minlength=documents)
  return counts


class _PlainWords:
  """The words of documents, without case and punctuation."""

  def __init__(self, columns: Columns):
    if not all(unicodedata.is_normalized('NFC', t) for t in columns.texts):
      columns = Columns(
        [unicodedata.normalize('NFC', t) for t in columns.texts]
      )
    class_C = columns.classes_C & np.uint8(ALNUM | SPACE)
    counts_C = class_C != 0
    # Every text is followed by a space, so each start has a stop.
    space_C = class_C[counts_C] == SPACE
    before_C = np.append(True, space_C[:-1])[: space_C.size]
    start_W = np.flatnonzero(before_C & ~space_C)
    stop_W = np.flatnonzero(~before_C & space_C)
    hash_C = characters.hashes(True)[columns.points_C[counts_C]]
    self._spans = Spans(Spans(hash_C).hash(start_W, stop_W))
    length_D = columns.count_characters_D(counts_C)
    first_D = np.searchsorted(start_W, np.cumsum(length_D) - length_D)
    self.num_words_D = np.diff(first_D, append=start_W.size)
    self._doc_W = np.repeat(np.arange(first_D.size), self.num_words_D)

  def ngrams(self, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash, uint64 [G], and document [G] of all runs of `size` words."""
    last = max(0, self._doc_W.size - size + 1)
    same_G = self._doc_W[:last] == self._doc_W[size - 1 :][:last]
    first_G = np.flatnonzero(same_G)
    return self._spans.hash(first_G, first_G + size), self._doc_W[first_G]


def _batches(strings: Iterable[str]) -> Iterator[list[str]]:
  batch: list[str] = []
  length = 0
  for text in strings:
    batch.append(text)
    length += len(text)
    if length >= _BATCH:
      yield batch
      batch, length = [], 0
  if batch:
    yield batch
