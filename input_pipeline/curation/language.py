"""The language of a text, by the model of py3langid.

Legend of array names: B bytes of a sample, D documents, K languages of the
model, F its features, V visits of features.

py3langid (Lui and Baldwin 2012, 'langid.py', and its successors) walks each
text through an automaton, byte by byte, and scores the features that it passes
with naive Bayes. Here all documents of a batch take a step at a time, which is
several times faster and gives the same result.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import Language
from input_pipeline.curation.rules import first_rule
from input_pipeline.curation.stage import Outcome

RULES = ('other_language', 'uncertain')

# A sample has this many pieces of this many characters, taken evenly from the
# text: a heading or a quotation in another language then decides little.
_PIECES = 4
_PIECE_LENGTH = 128


@dataclasses.dataclass(frozen=True)
class _Model:
  """What is read of py3langid.

  Attributes:
    next_state: the automaton, indexed by 256 * row + byte.
    row: row of each state.
    feature: that each state completes; -1: none.
    weight_FK: float32; log-likelihood of each feature.
    prior_K: float32; log-probability of each language.
    names: of the K languages; one that has several scripts stands there often.
  """

  next_state: np.ndarray
  row: np.ndarray
  feature: np.ndarray
  weight_FK: np.ndarray
  prior_K: np.ndarray
  names: tuple[str, ...]


def apply(columns: Columns, options: Language) -> Outcome:
  """Keeps documents whose language is wanted, and sure enough.

  Raises:
    ValueError: a language in `keep` is none that the model knows.
  """
  check_languages(options.keep)
  languages, probability_D = detect(columns.texts)
  wanted = frozenset(options.keep)
  broken = (
    np.array([name not in wanted for name in languages], bool),
    probability_D < options.min_probability,
  )
  return Outcome(
    rule_D=first_rule(columns.num_documents, broken),
    labels={'language': languages},
  )


def check_languages(
  keep: Sequence[str], field: str = 'data.curation.<profile>.language.keep'
) -> None:
  """Refuses codes of languages that the model does not know.

  Raises:
    ValueError: names the field and lists the known codes.
  """
  known = sorted(set(_model().names))
  if unknown := [name for name in keep if name not in known]:
    raise ValueError(
      f'{field} holds {unknown[0]!r}, which is no language of py3langid; '
      f'it knows {", ".join(known)}'
    )
  if not keep:
    raise ValueError(f'{field} is empty, so no document would be kept')


def detect(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
  """Finds the language of each text from a sample of it.

  Returns:
    D codes, and the probability of each, float32 [D].
  """
  if not texts:
    return [], np.zeros(0, np.float32)
  model = _model()
  samples = [_sample(text) for text in texts]
  length_D = np.array([len(sample) for sample in samples])
  doc_V, feature_V, count_V = _visits(model, samples)
  weight_V = np.log1p(count_V.astype(np.float32))
  bounds = np.searchsorted(doc_V, np.arange(len(texts) + 1)).tolist()
  score_DK = np.zeros((len(texts), len(model.names)), np.float32)
  for document in range(len(texts)):
    part = slice(bounds[document], bounds[document + 1])
    if part.start < part.stop:
      score_DK[document] = weight_V[part] @ model.weight_FK.take(
        feature_V[part], axis=0
      )
      score_DK[document] += model.prior_K
  # As py3langid does: the evidence of many bytes depends on each other.
  score_DK /= np.sqrt(np.maximum(length_D, 1)).astype(np.float32)[:, None]
  score_DK -= score_DK.max(axis=1, keepdims=True)
  np.exp(score_DK, out=score_DK)
  score_DK /= score_DK.sum(axis=1, keepdims=True)
  for number, name in enumerate(model.names):
    first = model.names.index(name)
    if first < number:
      score_DK[:, first] += score_DK[:, number]
      score_DK[:, number] = 0
  best_D = score_DK.argmax(axis=1)
  languages = [model.names[best] for best in best_D.tolist()]
  return languages, score_DK[np.arange(len(texts)), best_D]


def _sample(text: str) -> bytes:
  if len(text) > _PIECES * _PIECE_LENGTH:
    step = (len(text) - _PIECE_LENGTH) // (_PIECES - 1)
    text = ' '.join(
      text[piece * step :][:_PIECE_LENGTH] for piece in range(_PIECES)
    )
  if text.isupper():
    text = text.lower()
  return text.encode('utf-8', 'surrogatepass')


def _visits(
  model: _Model, samples: list[bytes]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Features that the samples pass, by document.

  Returns:
    Document, feature and how often: [V] each, in this order.
  """
  longest = max(map(len, samples))
  padded = b''.join(sample.ljust(longest, b'\0') for sample in samples)
  byte_DB = np.frombuffer(padded, np.uint8).reshape(len(samples), longest)
  byte_BD = np.ascontiguousarray(byte_DB.T).astype(np.int64)
  state_BD = np.empty((longest, len(samples)), np.int64)
  state_D = np.zeros(len(samples), np.int64)
  for place in range(longest):
    index_D = model.row[state_D] + byte_BD[place]
    state_D = model.next_state[index_D]
    state_BD[place] = state_D
  feature_BD = model.feature[state_BD]
  length_D = np.array([len(sample) for sample in samples])
  inside_BD = np.arange(longest)[:, None] < length_D
  place_V, doc_V = np.nonzero((feature_BD >= 0) & inside_BD)
  num_features = len(model.weight_FK)
  key_V, count_V = np.unique(
    doc_V * num_features + feature_BD[place_V, doc_V], return_counts=True
  )
  return key_V // num_features, key_V % num_features, count_V


@functools.cache
def _model() -> _Model:
  """Loads py3langid's model, once a process."""
  from py3langid import langid

  loaded = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
  return _Model(
    next_state=np.array(loaded.tk_nextmove, np.int32),
    row=np.array(loaded.tk_row, np.int64) << 8,
    feature=np.array(loaded.tk_output, np.int32),
    weight_FK=loaded.nb_ptc.astype(np.float32),
    prior_K=loaded.nb_pc.astype(np.float32),
    names=tuple(loaded.nb_classes),
  )
