"""Text to token ids and back.

Every tokenizer is a `tokenizer.json` of Hugging Face `tokenizers`, be it
trained here, given, or plain bytes. Text is encoded by `tiktoken` on the same
ranks where that gives the same ids, which is about nine times faster, and by
`tokenizers` where it does not.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from etils import epath
from tokenizers import decoders, models, pre_tokenizers, trainers

from input_pipeline.config import MAX_VOCAB_SIZE, SPECIAL_TOKENS
from input_pipeline.errors import DataError
from input_pipeline.guarded import damage_of

# How GPT-2 cuts text before merging: what the byte-level pre-tokenizer does
# without a pattern of its own.
GPT2_PATTERN = (
  r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
# How Llama 3 does it: letters in words, digits in threes, and a run of spaces
# apart from the word after it.
PATTERN = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)

# tiktoken's regular expressions overflow their stack on a run of about a
# million spaces; from two blocks on, a run surely covers an aligned block.
_SPACE_BLOCK = 65_536

# What tokenizers disagree about if they disagree at all.
SAMPLE = (
  '',
  ' ',
  "Hello, world! It's 12345 o'clock; we'LL see \"this\".",
  'def f(x):\n\tif x:\r\n        return x  # twice\n\n\n',
  '   leading,  double, trailing   ',
  '\n\n \n\t \n ',
  'naïve café Ωmega Жук 漢字かな交じり文 한국어 עברית العربية हिन्दी',
  'e\u0301 \u212b \ufb01 \u00bd \u00b2 \u2167 \u3000\u00a0\u2003x\u200b\ufeff',
  '🙂👩\u200d👩\u200d👧\u200d👦🇩🇪 \U0001f9ff',
  '\x00\x01\x1c\x1f\x7f\x85\u2028\u2029',
  '<|pad|><|bos|> <|continue|><|eos|><|endoftext|>',
  '-' * 200 + '=' * 99 + '1' * 50 + 'a' * 300,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
  """Encodes and decodes; made by `load_tokenizer`.

  Attributes:
    kind: 'bytes' or 'bpe', or the model that the tokenizer.json names.
    encoder: which library encodes: 'bytes' (numpy), 'tiktoken' or
      'tokenizers'.
    vocab_size: the greatest id and one.
    special_tokens: ids of the special tokens beside the four that structure
      a row; text never becomes one.
    sha256: of tokenizer.json.
  """

  kind: str
  encoder: str
  vocab_size: int
  pad_id: int
  bos_id: int
  continue_id: int
  eos_id: int
  special_tokens: dict[str, int]
  sha256: str
  _encode: Callable[[str], Sequence[int] | np.ndarray]
  _reference: tokenizers.Tokenizer

  @property
  def dtype(self) -> np.dtype:
    """Of the ids: uint16 where it holds the vocabulary, uint32 otherwise."""
    return token_dtype(self.vocab_size)

  def encode(self, text: str) -> np.ndarray:
    """Ids of a text; what looks like a special token is ordinary text.

    Returns:
      [N] uint16 or uint32.
    """
    with damage_of('The tokenizer cannot encode a text'):
      return np.array(self._encode(text), self.dtype)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Text of ids, special tokens left out, broken UTF-8 replaced."""
    with damage_of('The tokenizer cannot decode ids'):
      return self._reference.decode(
        [int(i) for i in ids], skip_special_tokens=True
      )


def token_dtype(vocab_size: int) -> np.dtype:
  """Smallest of little-endian uint16 and uint32 that holds every id."""
  return np.dtype('<u2' if vocab_size <= 1 << 16 else '<u4')


def load_tokenizer(
  path: epath.PathLike,
  *,
  encoder: str | None = None,
  sample: Iterable[str] = SAMPLE,
) -> Tokenizer:
  """Loads the tokenizer.json of a prepared store.

  Args:
    path: of tokenizer.json.
    encoder: the library that encodes; None: tiktoken if it gives the same ids
      as tokenizers for `sample`, else tokenizers.
    sample: texts to compare.

  Raises:
    DataError: when the file is no tokenizer, or lacks the special tokens.
  """
  path = epath.Path(path)
  data = path.read_bytes()
  with damage_of(f'{path} is no tokenizer.json'):
    reference = _parse(data)
    description = json.loads(data)
    vocabulary = reference.get_vocab(with_added_tokens=True)
    if missing := [t for t in SPECIAL_TOKENS if t not in vocabulary]:
      raise DataError(
        f'{path} lacks the special tokens {", ".join(missing)}; load the'
        ' tokenizer.json of a prepared store, which has them'
      )
    encode = _encoders(description, reference)
    if encoder is None:
      encoder = _choose(encode, sample)
    return Tokenizer(
      kind=_kind(description),
      encoder=encoder,
      vocab_size=max(vocabulary.values()) + 1,
      pad_id=vocabulary['<|pad|>'],
      bos_id=vocabulary['<|bos|>'],
      continue_id=vocabulary['<|continue|>'],
      eos_id=vocabulary['<|eos|>'],
      special_tokens={
        token['content']: token['id']
        for token in description['added_tokens']
        if token['special'] and token['content'] not in SPECIAL_TOKENS
      },
      sha256=hashlib.sha256(data).hexdigest(),
      _encode=encode[encoder],
      _reference=reference,
    )


def train_bpe(
  texts: Iterable[str], vocab_size: int, reserved: Sequence[str] = ()
) -> bytes:
  """Trains byte-level byte-pair encoding; returns a tokenizer.json.

  The special tokens have ids 0 to 3, the `reserved` ones the ids after them,
  and the 256 bytes those that follow. A merge must occur twice, so little text
  gives fewer than `vocab_size` tokens.
  """
  trained = _byte_level(models.BPE())
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    min_frequency=2,
    special_tokens=[*SPECIAL_TOKENS, *reserved],
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  trained.train_from_iterator(texts, trainer)
  return trained.to_str(pretty=True).encode()


def bytes_tokenizer(reserved: Sequence[str] = ()) -> bytes:
  """A tokenizer.json whose ids are the special tokens, then the bytes.

  Without `reserved` tokens a byte's id is its value + 4.
  """
  special = [*SPECIAL_TOKENS, *reserved]
  vocabulary = {token: i for i, token in enumerate(special)}
  for character, byte in _byte_of_character().items():
    vocabulary[character] = byte + len(special)
  plain = _byte_level(models.BPE(vocab=vocabulary, merges=[]))
  plain.add_special_tokens(special)
  return plain.to_str(pretty=True).encode()


def with_special_tokens(
  path: epath.PathLike, reserved: Sequence[str] = ()
) -> bytes:
  """Reads a tokenizer.json and appends the special tokens that it lacks.

  No token that is there already takes their place, `<|endoftext|>` say, as its
  meaning elsewhere is unknown.
  """
  path = epath.Path(path)
  if not path.exists():
    raise ValueError(f'data.tokenizer.path={path} does not exist')
  data = path.read_bytes()
  with damage_of(f'{path} is no tokenizer.json'):
    given = _parse(data)
    wanted = [*SPECIAL_TOKENS, *reserved]
    missing = [t for t in wanted if given.token_to_id(t) is None]
    if not missing:
      return data
    taken = set(given.get_vocab(with_added_tokens=True).values())
    given.add_special_tokens(missing)
    if any(given.token_to_id(token) in taken for token in missing):
      raise DataError(
        f'{path} leaves ids unused, so appended special tokens would collide;'
        f' add {", ".join(missing)} to it by hand'
      )
    return given.to_str(pretty=True).encode()


def _parse(data: bytes) -> tokenizers.Tokenizer:
  parsed = tokenizers.Tokenizer.from_str(data.decode())
  if max(parsed.get_vocab().values()) >= MAX_VOCAB_SIZE:
    raise ValueError(f'an id is not below {MAX_VOCAB_SIZE}')
  parsed.no_padding()
  parsed.no_truncation()
  parsed.encode_special_tokens = True
  return parsed


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(PATTERN), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _kind(description: dict[str, Any]) -> str:
  model = description['model']
  if model['type'] != 'BPE':
    return model['type']
  plain = not model['merges'] and _first_byte(description) is not None
  return 'bytes' if plain and _pattern(description) == PATTERN else 'bpe'


def _first_byte(description: dict[str, Any]) -> int | None:
  """Id of byte 0 where bytes follow the special tokens and are all else."""
  vocabulary = description['model']['vocab']
  first = len(vocabulary) - 256
  bytes_follow = all(
    vocabulary.get(character) == first + byte
    for character, byte in _byte_of_character().items()
  )
  return first if bytes_follow else None


def _encoders(
  description: dict[str, Any], reference: tokenizers.Tokenizer
) -> dict[str, Callable[[str], Sequence[int] | np.ndarray]]:
  """Ways to encode, the fastest first and `tokenizers` itself last."""

  def by_tokenizers(text: str) -> list[int]:
    return reference.encode(text, add_special_tokens=False).ids

  encoders: dict[str, Callable[[str], Sequence[int] | np.ndarray]] = {}
  if _kind(description) == 'bytes':
    first = _first_byte(description)
    assert first is not None
    encoders['bytes'] = functools.partial(_encode_bytes, first=first)
  elif (encoding := _tiktoken_encoding(description)) is not None:
    merge = encoding

    def by_tiktoken(text: str) -> list[int]:
      if _has_long_space(text):
        return by_tokenizers(text)
      return merge.encode_ordinary(text)

    encoders['tiktoken'] = by_tiktoken
  encoders['tokenizers'] = by_tokenizers
  return encoders


def _choose(
  encode: dict[str, Callable[[str], Sequence[int] | np.ndarray]],
  sample: Iterable[str],
) -> str:
  """The fastest encoder that agrees with `tokenizers` on the sample."""
  fastest = next(iter(encode))
  if fastest == 'tokenizers':
    return fastest
  same = all(
    list(encode[fastest](text)) == list(encode['tokenizers'](text))
    for text in sample
  )
  return fastest if same else 'tokenizers'


def _encode_bytes(text: str, *, first: int) -> np.ndarray:
  data = np.frombuffer(text.encode(), np.uint8)
  return data.astype(np.uint16) + np.uint16(first)


def _has_long_space(text: str) -> bool:
  return any(
    text[i].isspace() and text[i : i + _SPACE_BLOCK].isspace()
    for i in range(0, len(text) - _SPACE_BLOCK, _SPACE_BLOCK)
  )


def _tiktoken_encoding(description: dict[str, Any]) -> tiktoken.Encoding | None:
  """The same tokenizer for tiktoken, or None if it cannot be written so."""
  model = description['model']
  pattern = _pattern(description)
  plain = model['type'] == 'BPE' and not any(
    model.get(field)
    for field in (
      'dropout',
      'unk_token',
      'continuing_subword_prefix',
      'end_of_word_suffix',
      'byte_fallback',
    )
  )
  ordinary = [t for t in description['added_tokens'] if not t['special']]
  if not plain or pattern is None or ordinary or description['normalizer']:
    return None
  special = {token['content'] for token in description['added_tokens']}
  byte_of = _byte_of_character()
  ranks = {}
  for token, i in model['vocab'].items():
    if token in special:
      continue
    if not all(character in byte_of for character in token):
      return None
    ranks[bytes(byte_of[character] for character in token)] = i
  if not _ids_follow_merges(model) or any(
    bytes([byte]) not in ranks for byte in range(256)
  ):
    return None
  return tiktoken.Encoding(
    'tokenizer.json',
    pat_str=pattern,
    mergeable_ranks=ranks,
    special_tokens={},
  )


def _ids_follow_merges(model: dict[str, Any]) -> bool:
  """Whether ids rise in the order of the merges, as tiktoken takes it."""
  merged = dict.fromkeys(
    ''.join(pair.split(' ') if isinstance(pair, str) else pair)
    for pair in model['merges']
  )
  ids = [model['vocab'][token] for token in merged]
  return ids == sorted(ids)


def _pattern(description: dict[str, Any]) -> str | None:
  """The regular expression that cuts the text, or None if there is no one."""
  match description['pre_tokenizer']:
    case {'type': 'ByteLevel', 'add_prefix_space': False, 'use_regex': True}:
      return GPT2_PATTERN
    case {
      'type': 'Sequence',
      'pretokenizers': [
        {
          'type': 'Split',
          'pattern': {'Regex': str(pattern)},
          'behavior': 'Isolated',
          'invert': False,
        },
        {'type': 'ByteLevel', 'add_prefix_space': False, 'use_regex': False},
      ],
    }:
      return pattern
  return None


def _byte_of_character() -> dict[str, int]:
  """The printable character that stands for each byte in a byte-level JSON.

  Radford et al. 2019 (GPT-2): bytes that are printable in Latin-1 stand for
  themselves, the others for the characters from 256 on, in order.
  """
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  mapping = {chr(byte): byte for byte in printable}
  mapping.update({chr(256 + n): byte for n, byte in enumerate(others)})
  return mapping
