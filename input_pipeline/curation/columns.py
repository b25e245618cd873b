"""A batch of documents as columns of numbers.

Legend of array names: C characters, W words, L lines, P paragraphs, G n-grams,
D documents, X any of these.

The rules of curation count words, lines and characters of many documents. One
pass of numpy over the characters of a whole batch does that some ten times
faster than Python's string methods do document by document. Everything here is
made when it is first asked for.

A word is what `str.split()` gives, a line what `split('\\n')` gives, and a
paragraph is a run of lines that are not blank.
"""

import functools
from collections.abc import Sequence

import numpy as np

from input_pipeline.curation import characters

word_hash = characters.word_hash


class Columns:
  """D texts, seen as arrays; all positions count characters of the batch.

  Attributes:
    texts: the D texts.
  """

  def __init__(self, texts: Sequence[str]):
    self.texts = texts

  @property
  def num_documents(self) -> int:
    """D."""
    return len(self.texts)

  # Characters.

  @functools.cached_property
  def points_C(self) -> np.ndarray:
    """uint32; code points of all texts, each followed by a line end."""
    joined = '\n'.join([*self.texts, ''])
    return np.frombuffer(joined.encode('utf-32-le', 'surrogatepass'), '<u4')

  @functools.cached_property
  def classes_C(self) -> np.ndarray:
    """uint8; bits of `characters.classes`."""
    return characters.classes().take(self.points_C)

  @functools.cached_property
  def length_D(self) -> np.ndarray:
    """Characters of each document."""
    return np.fromiter(map(len, self.texts), np.int64, self.num_documents)

  @functools.cached_property
  def start_D(self) -> np.ndarray:
    """Position of each document's first character."""
    return np.cumsum(self.length_D + 1) - self.length_D - 1

  @functools.cached_property
  def lowered(self) -> list[bytes]:
    """Each text in UTF-8 with the letters A to Z in lower case."""
    # Bytes are lowered and searched several times faster than characters.
    return [
      text.encode('utf-8', 'surrogatepass').lower() for text in self.texts
    ]

  def count_class_D(self, bit: int) -> np.ndarray:
    """Characters of a class, e.g. `characters.DIGIT`, in each document."""
    assert bit != characters.SPACE, 'the line ends between documents are spaces'
    return self.count_characters_D((self.classes_C & np.uint8(bit)) != 0)

  def count_characters_D(self, mask_C: np.ndarray) -> np.ndarray:
    """True characters of each document; its end must be False."""
    if not self.num_documents:
      return np.zeros(0, np.int64)
    return np.add.reduceat(mask_C, self.start_D, dtype=np.int64)

  @functools.cached_property
  def _spans(self) -> characters.Spans:
    return characters.Spans(self.points_C, characters.hashes(False))

  @functools.cached_property
  def _folded_spans(self) -> characters.Spans:
    return characters.Spans(self.points_C, characters.hashes(True))

  # Words.

  @functools.cached_property
  def _word_bounds(self) -> tuple[np.ndarray, np.ndarray]:
    inside_C = (self.classes_C & np.uint8(characters.SPACE)) == 0
    # The batch ends in a line end, so each start has a stop.
    changes = np.flatnonzero(inside_C[1:] != inside_C[:-1]) + 1
    if inside_C.size and inside_C[0]:
      changes = np.concatenate([np.zeros(1, changes.dtype), changes])
    return changes[0::2], changes[1::2]

  @property
  def start_W(self) -> np.ndarray:
    """Position of each word's first character."""
    return self._word_bounds[0]

  @property
  def stop_W(self) -> np.ndarray:
    """Position after each word's last character."""
    return self._word_bounds[1]

  @functools.cached_property
  def length_W(self) -> np.ndarray:
    """Characters of each word."""
    return self.stop_W - self.start_W

  @functools.cached_property
  def has_letter_W(self) -> np.ndarray:
    """Whether some character of each word is a letter: bool."""
    letter = np.uint8(characters.ALPHA)
    found_W = (self.classes_C[self.start_W] & letter) != 0
    # Few words start with something else; only they are read to their end.
    others = np.flatnonzero(~found_W)
    if others.size:
      bounds = np.stack([self.start_W[others], self.stop_W[others]], axis=1)
      union = np.bitwise_or.reduceat(self.classes_C, bounds.ravel())[::2]
      found_W[others] = (union & letter) != 0
    return found_W

  @functools.cached_property
  def starts_small_W(self) -> np.ndarray:
    """Whether each word starts with a small letter: bool."""
    return (self.classes_C[self.start_W] & np.uint8(characters.LOWER)) != 0

  @functools.cached_property
  def first_word_D(self) -> np.ndarray:
    """Index of each document's first word; [D + 1], the last is W."""
    return self._first_words(self.start_D)

  @functools.cached_property
  def num_words_D(self) -> np.ndarray:
    """Words of each document."""
    return np.diff(self.first_word_D)

  @functools.cached_property
  def doc_W(self) -> np.ndarray:
    """Document of each word."""
    return np.repeat(np.arange(self.num_documents), self.num_words_D)

  @functools.cached_property
  def hash_W(self) -> np.ndarray:
    """uint64; `word_hash` of each word."""
    return self._spans.hash(self.start_W, self.stop_W)

  @functools.cached_property
  def folded_hash_W(self) -> np.ndarray:
    """uint64; `word_hash(word, folded=True)` of each word."""
    return self._folded_spans.hash(self.start_W, self.stop_W)

  def word(self, index: int) -> str:
    """The word of an index of [W]."""
    document = int(self.doc_W[index])
    first = int(self.start_D[document])
    start, stop = int(self.start_W[index]), int(self.stop_W[index])
    return self.texts[document][start - first : stop - first]

  def ngrams(
    self, n: int, *, folded: bool = False
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All runs of n words within a document, in their order.

    Returns:
      The hash of each, uint64 [G]; its document [G]; and its first word [G].
    """
    assert n >= 1, n
    first_G = self.ngram_starts(n)
    hash_G = self.hash_ngrams(first_G, n, folded=folded)
    return hash_G, self.doc_W[first_G], first_G

  def hash_ngrams(
    self, first_G: np.ndarray, n: int, *, folded: bool = False
  ) -> np.ndarray:
    """Hashes the n words from each of these words on: uint64 [G]."""
    spans = self._folded_word_spans if folded else self._word_spans
    return spans.hash(first_G, first_G + n)

  def ngram_starts(self, n: int) -> np.ndarray:
    """Words with which a run of n words of one document starts: [G]."""
    if self.doc_W.size < n:
      return np.zeros(0, np.int64)
    last = self.doc_W.size - n + 1
    return np.flatnonzero(self.doc_W[:last] == self.doc_W[n - 1 :])

  @functools.cached_property
  def _word_spans(self) -> characters.Spans:
    return characters.Spans(self.hash_W)

  @functools.cached_property
  def _folded_word_spans(self) -> characters.Spans:
    return characters.Spans(self.folded_hash_W)

  # Lines.

  @functools.cached_property
  def stop_L(self) -> np.ndarray:
    """Position of each line's end."""
    return np.flatnonzero(self.points_C == ord('\n'))

  @functools.cached_property
  def start_L(self) -> np.ndarray:
    """Position of each line's first character."""
    return np.concatenate([[0], self.stop_L[:-1] + 1])[: self.stop_L.size]

  @functools.cached_property
  def num_lines_D(self) -> np.ndarray:
    """Lines of each document, blank ones too."""
    first_D = np.searchsorted(self.start_L, self.start_D)
    return np.diff(first_D, append=self.start_L.size)

  @functools.cached_property
  def doc_L(self) -> np.ndarray:
    """Document of each line."""
    return np.repeat(np.arange(self.num_documents), self.num_lines_D)

  def line(self, index: int) -> str:
    """The line of an index of [L], without its end."""
    document = int(self.doc_L[index])
    first = int(self.start_D[document])
    start, stop = int(self.start_L[index]), int(self.stop_L[index])
    return self.texts[document][start - first : stop - first]

  @functools.cached_property
  def first_word_L(self) -> np.ndarray:
    """Index of each line's first word; [L + 1], the last is W."""
    return self._first_words(self.start_L)

  @functools.cached_property
  def num_words_L(self) -> np.ndarray:
    """Words of each line; blank lines have none."""
    return np.diff(self.first_word_L)

  @functools.cached_property
  def content_L(self) -> np.ndarray:
    """Indices of the lines that are not blank."""
    return np.flatnonzero(self.num_words_L)

  # Paragraphs.

  @functools.cached_property
  def first_line_P(self) -> np.ndarray:
    """First line of each paragraph, as an index of `content_L`."""
    lines, doc_L = self.content_L, self.doc_L
    if not lines.size:
      return np.zeros(0, np.int64)
    follows = (np.diff(lines) == 1) & (np.diff(doc_L[lines]) == 0)
    return np.concatenate([[0], np.flatnonzero(~follows) + 1])

  def trimmed(
    self, first_X: np.ndarray, after_X: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans of words [first, after), without the space around them.

    Returns:
      Position of the first character, position after the last, and the hash of
      all between (uint64): [X] each.
    """
    start_X, stop_X = self.start_W[first_X], self.stop_W[after_X - 1]
    return start_X, stop_X, self._spans.hash(start_X, stop_X)

  # Sums.

  def sum_D(
    self, doc_X: np.ndarray, weight_X: np.ndarray | None = None
  ) -> np.ndarray:
    """Adds up by document: int64 [D].

    Args:
      doc_X: document of each.
      weight_X: what to add, below 2^53 in all; None: one each.
    """
    sums_D = np.bincount(doc_X, weight_X, minlength=self.num_documents)
    return sums_D.astype(np.int64)

  def _first_words(self, start_X: np.ndarray) -> np.ndarray:
    first_X = np.searchsorted(self.start_W, start_X)
    return np.append(first_X, self.start_W.size)
