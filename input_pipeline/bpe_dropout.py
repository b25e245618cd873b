"""Encodes text with some merges left out at random: BPE-dropout.

Provilkov, Emelianenko and Voita 2020 (arXiv 1910.13267), algorithm 1: while a
word is merged, each possible merge is left out with probability p, drawn anew
after every merge. So a word is seen in several pieces, and a model that has
little text learns what they have in common.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Callable

import numpy as np
import tokenizers
from etils import epath

from input_pipeline.random_bits import splitmix64
from input_pipeline.tokenizer import token_dtype

# Ways to write each word. An occurrence takes one of them, so that a frequent
# word is not merged anew each time.
VARIANTS = 64


class DroppedMerges:
  """Encodes texts; the same text and id always give the same tokens.

  Args:
    description: the parsed tokenizer.json.
    pre_tokenize: cuts a text into words of byte-level characters.
    rate: probability to leave a merge out.
    seed: of the draws; another seed gives another copy.
    dtype: of the ids.

  Raises:
    ValueError: the tokenizer has no merges to leave out.
  """

  def __init__(
    self,
    description: dict,
    pre_tokenize: Callable[[str], list[str]],
    *,
    rate: float,
    seed: int,
    dtype: np.dtype,
  ) -> None:
    model = description['model']
    if model['type'] != 'BPE' or not model['merges']:
      raise ValueError(
        'data.tokenizer.dropout leaves out merges of byte-pair encoding, and'
        f' this tokenizer has none (it is {model["type"]}); set'
        ' data.tokenizer.copies=0'
      )
    self._ids: dict[str, int] = model['vocab']
    pairs = (m.split(' ') if isinstance(m, str) else m for m in model['merges'])
    self._ranks = {(a, b): rank for rank, (a, b) in enumerate(pairs)}
    self._pre_tokenize = pre_tokenize
    self._rate = rate
    self._seed = seed
    self._dtype = dtype
    self._variants: dict[tuple[str, int], list[int]] = {}

  def encode(self, text: str, identifier: str) -> np.ndarray:
    """Ids of a text.

    Args:
      text: to encode.
      identifier: of the document; equal words of two documents are written
        independently.
    """
    words = self._pre_tokenize(text)
    key = f'{self._seed} {identifier}'.encode()
    start = np.frombuffer(hashlib.blake2b(key, digest_size=8).digest(), '<u8')
    draws_W = splitmix64(start + np.arange(len(words), dtype=np.uint64))
    ids: list[int] = []
    for word, variant in zip(words, (draws_W % VARIANTS).tolist(), strict=True):
      found = self._variants.get((word, variant))
      if found is None:
        found = self._variants[word, variant] = self._merge(word, variant)
      ids += found
    return np.array(ids, self._dtype)

  def _merge(self, word: str, variant: int) -> list[int]:
    # A str seeds by its SHA-512, the same on every machine and version.
    draw = random.Random(f'{self._seed} {variant} {word}').random
    parts = list(word)
    while True:
      possible = [
        (self._ranks[pair], place)
        for place, pair in enumerate(itertools.pairwise(parts))
        if pair in self._ranks and draw() >= self._rate
      ]
      if not possible:
        return [self._ids[part] for part in parts]
      _, place = min(possible)
      parts[place : place + 2] = [parts[place] + parts[place + 1]]


def load_dropped_merges(
  path: epath.Path, *, rate: float, seed: int
) -> DroppedMerges:
  """The encoder of a prepared store's tokenizer.json; see DroppedMerges."""
  text = path.read_text()
  cuts = tokenizers.Tokenizer.from_str(text)
  vocabulary = cuts.get_vocab(with_added_tokens=True)
  return DroppedMerges(
    json.loads(text),
    _words(cuts),
    rate=rate,
    seed=seed,
    dtype=token_dtype(max(vocabulary.values()) + 1),
  )


def _words(tokenizer: tokenizers.Tokenizer) -> Callable[[str], list[str]]:
  """How a tokenizer cuts a text before it merges."""
  normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
  if pre_tokenizer is None:
    raise ValueError(
      'data.tokenizer.dropout merges words, and this tokenizer does not cut'
      ' text into words; set data.tokenizer.copies=0'
    )

  def words(text: str) -> list[str]:
    if normalizer is not None:
      text = normalizer.normalize_str(text)
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]

  return words
