"""A classifier of trusted text against text of unknown quality, trained here.

Legend of array names: D documents, W words, X features, F weights, V levels.

As fastText does in DataComp-LM (Li et al. 2024, arXiv 2406.11794), a document
is the mean of the weights of its words and pairs of words, in lower case, by
hash; logistic regression finds the weights by AdaGrad (Duchi et al. 2011). The
weights are whole numbers, so a document has the same score on every machine and
in every batch.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from input_pipeline.curation import config
from input_pipeline.curation.characters import mix
from input_pipeline.curation.columns import Columns

LEVELS = 1 << 16
_NUM_WEIGHTS_LOG2 = 18
# Levels are a unit of log-odds cut into so many, from -16 to 16.
_LEVELS_PER_UNIT = 2_048
# Weights count in this part of a level.
_PARTS_PER_LEVEL = 32
_UNIT = _LEVELS_PER_UNIT * _PARTS_PER_LEVEL

# Features of a document that train, evenly spread over it: bounds memory, and
# no licence at the top of a file stands for the file.
_TRAINING_FEATURES = 1_024
_EPOCHS = 5
_BATCH = 32
_LEARNING_RATE = 4.0
# One in so many documents tells the accuracy and does not train.
_HELD_OUT = 10
_FIELD = 'data.curation.quality_model'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """What `scores` needs, and how good it is.

  Attributes:
    weights_F: int32, of features by hash, in 1/65536 of a unit of log-odds.
    bias: in the same parts.
    accuracy: on documents that did not train; the mean of the shares of trusted
      and of raw ones that are told rightly, so that 0.5 is chance.
    trusted: number of trusted documents.
    raw: number of raw documents.
  """

  weights_F: np.ndarray
  bias: int
  accuracy: float
  trusted: int
  raw: int


def train(
  trusted: Iterable[Columns], raw: Iterable[Columns], seed: int = 0
) -> Model:
  """Learns to tell trusted from raw documents.

  The same documents in the same order give the same model. Documents without
  words are passed over.

  Raises:
    ValueError: one of the two kinds has too few documents.
  """
  kinds = [_training_features(raw), _training_features(trusted)]
  for kind, name, field in zip(
    kinds, ('raw', 'trusted'), ('raw_documents', 'trusted_files'), strict=True
  ):
    if len(kind) < 2 * _HELD_OUT:
      raise ValueError(
        f'{_FIELD}.{field}: {len(kind)} {name} documents with words are too few'
        f' to train and check a model; it needs {2 * _HELD_OUT}, better'
        ' thousands'
      )
  documents = kinds[0] + kinds[1]
  label_D = np.repeat([0.0, 1.0], [len(kind) for kind in kinds])
  # Held-out ones are spread over each kind, whatever its order means.
  order_D = _shuffled(len(documents), seed)
  held_out_D = np.zeros(len(documents), bool)
  for label in (0.0, 1.0):
    held_out_D[order_D[label_D[order_D] == label][::_HELD_OUT]] = True
  weight_F, bias = _fit(documents, label_D, np.flatnonzero(~held_out_D), seed)

  weights_F = np.rint(weight_F * _UNIT).astype(np.int32)
  model = Model(
    weights_F=weights_F,
    bias=round(bias * _UNIT),
    accuracy=0.0,
    trusted=len(kinds[1]),
    raw=len(kinds[0]),
  )
  chosen = np.flatnonzero(held_out_D)
  sums, counts = _sums([documents[n] for n in chosen], weights_F)
  right = (sums + counts * model.bias > 0) == (label_D[chosen] > 0)
  accuracy = np.mean([right[label_D[chosen] == n].mean() for n in (0, 1)])
  return dataclasses.replace(model, accuracy=float(accuracy))


def scores(columns: Columns, model: Model) -> np.ndarray:
  """Log-odds that a document is a trusted one.

  Returns:
    float32 [D], multiples of 1/2048 in [-16, 16); the least for a document
    without words.
  """
  feature_X, count_D = _features(columns)
  start_D = np.cumsum(count_D) - count_D
  sums_D = np.zeros(columns.num_documents, np.int64)
  worded = np.flatnonzero(count_D)
  if worded.size:
    sums_D[worded] = np.add.reduceat(
      model.weights_F[feature_X], start_D[worded], dtype=np.int64
    )
  part_D = _PARTS_PER_LEVEL * np.maximum(count_D, 1)
  level_D = (sums_D + count_D * model.bias) // part_D
  level_D = np.clip(level_D, -LEVELS // 2, LEVELS // 2 - 1)
  level_D[count_D == 0] = -LEVELS // 2
  return (level_D / _LEVELS_PER_UNIT).astype(np.float32)


def levels(score_D: np.ndarray) -> np.ndarray:
  """Scores as whole numbers from 0 to 65,535, without loss: uint16 [D]."""
  level_D = score_D.astype(np.float64) * _LEVELS_PER_UNIT + LEVELS // 2
  return level_D.astype(np.uint16)


def histogram(level_D: np.ndarray, bytes_D: np.ndarray) -> np.ndarray:
  """Documents and bytes by level; those of several batches add up.

  Returns:
    int64 [V, 2].
  """
  level_D = level_D.astype(np.int64)
  documents_V = np.bincount(level_D, minlength=LEVELS)
  bytes_V = np.bincount(level_D, bytes_D, minlength=LEVELS)
  return np.stack([documents_V, bytes_V.astype(np.int64)], axis=1)


def threshold(histogram_V2: np.ndarray, model: config.QualityModel) -> int:
  """The least level that is kept.

  Levels are kept whole, from the best down. With `keep_fraction`, as few as
  hold this fraction of the documents or more; with `keep_bytes`, as many as
  hold these bytes or less; with both, as few as either says; with neither, all.

  Args:
    histogram_V2: of all documents.
    model: says what is kept.

  Raises:
    ValueError: nothing would be kept.
  """
  # From the best level down.
  documents_V, bytes_V = np.cumsum(histogram_V2[::-1], axis=0).T
  kept = LEVELS
  if model.keep_fraction is not None:
    # 0.1 * 30 is a little more than 3.
    wanted = model.keep_fraction * documents_V[-1] - 1e-6
    kept = min(kept, int(np.searchsorted(documents_V, wanted)) + 1)
  if model.keep_bytes is not None:
    kept = min(
      kept, int(np.searchsorted(bytes_V, model.keep_bytes, side='right'))
    )
    if documents_V[-1] and (not kept or not documents_V[kept - 1]):
      best = int(bytes_V[bytes_V > 0][0])
      raise ValueError(
        f'{_FIELD}.keep_bytes={model.keep_bytes}: the best documents alone have'
        f' {best} bytes, so nothing would be kept'
      )
  return LEVELS - kept


def check(model: config.QualityModel) -> None:
  """Refuses a selection that cannot be made.

  Raises:
    ValueError: names the field.
  """
  fraction, size = model.keep_fraction, model.keep_bytes
  if fraction is not None and not 0 < fraction <= 1:
    raise ValueError(
      f'{_FIELD}.keep_fraction={fraction} must lie above 0 and be at most 1'
    )
  if size is not None and size < 1:
    raise ValueError(f'{_FIELD}.keep_bytes={size} must be positive')
  if model.trusted_files and model.raw_documents < 2 * _HELD_OUT:
    raise ValueError(
      f'{_FIELD}.raw_documents={model.raw_documents} must be'
      f' {2 * _HELD_OUT} or more'
    )
  if not model.trusted_files and (fraction is not None or size is not None):
    raise ValueError(
      f'{_FIELD}.keep_fraction and keep_bytes choose by the score of a model,'
      ' but trusted_files names nothing to train it on'
    )


def _features(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
  """Words and pairs of words as indices of weights.

  Returns:
    int32 [X], all of a document's words and then its pairs; and their number
    by document [D].
  """
  shift = np.uint64(64 - _NUM_WEIGHTS_LOG2)
  words_D = columns.num_words_D
  pairs_D = np.maximum(words_D - 1, 0)
  pair_hash, pair_doc, _ = columns.ngrams(2, folded=True)
  feature_X = np.empty(columns.doc_W.size + pair_doc.size, np.int32)
  # A word comes after all pairs of earlier documents, a pair after all words
  # of its own.
  before_D = np.cumsum(pairs_D) - pairs_D
  place_W = np.arange(columns.doc_W.size) + before_D[columns.doc_W]
  feature_X[place_W] = columns.folded_hash_W >> shift
  words_before_D = np.cumsum(words_D)
  place = np.arange(pair_doc.size) + words_before_D[pair_doc]
  feature_X[place] = pair_hash >> shift
  return feature_X, words_D + pairs_D


def _training_features(batches: Iterable[Columns]) -> list[np.ndarray]:
  """Up to so many features of each document with words, int32 each."""
  found = []
  for columns in batches:
    feature_X, count_D = _features(columns)
    for feature in np.split(feature_X, np.cumsum(count_D)[:-1]):
      if feature.size > _TRAINING_FEATURES:
        spread = np.arange(_TRAINING_FEATURES) * feature.size
        feature = feature[spread // _TRAINING_FEATURES]
      if feature.size:
        found.append(feature.copy())
  return found


def _fit(
  documents: list[np.ndarray],
  label_D: np.ndarray,
  chosen: np.ndarray,
  seed: int,
) -> tuple[np.ndarray, float]:
  """Weights, float64 [F], and bias; both kinds weigh the same."""
  weight_F = np.zeros(1 << _NUM_WEIGHTS_LOG2)
  squares_F = np.full(weight_F.size, 1e-12)
  bias, bias_squares = 0.0, 1e-12
  share = label_D[chosen].mean()
  for epoch in range(_EPOCHS):
    order = chosen[_shuffled(chosen.size, seed + 1 + epoch)]
    for start in range(0, order.size, _BATCH):
      batch = order[start : start + _BATCH]
      label_B = label_D[batch]
      sums_B, count_B = _sums([documents[n] for n in batch], weight_F)
      odds_B = np.clip(sums_B / count_B + bias, -30, 30)
      # Rounded, so that the exponentials of different processors agree.
      probability_B = np.round(1 / (1 + np.exp(-odds_B)), 9)
      error_B = (probability_B - label_B) / np.where(label_B, share, 1 - share)
      error_B /= 2 * batch.size
      gradient_F = np.bincount(
        np.concatenate([documents[n] for n in batch]),
        np.repeat(error_B / count_B, count_B),
        minlength=weight_F.size,
      )
      squares_F += gradient_F**2
      weight_F -= _LEARNING_RATE * gradient_F / np.sqrt(squares_F)
      step = float(np.add.accumulate(error_B)[-1])
      bias_squares += step**2
      bias -= _LEARNING_RATE * step / bias_squares**0.5
  return weight_F, bias


def _sums(
  documents: list[np.ndarray], weight_F: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Sum of the weights of each document, added in order, and their number."""
  count_D = np.array([document.size for document in documents])
  doc_X = np.repeat(np.arange(count_D.size), count_D)
  return np.bincount(doc_X, weight_F[np.concatenate(documents)]), count_D


def _shuffled(size: int, seed: int) -> np.ndarray:
  """A permutation of range(size) that depends on the seed alone."""
  key = np.uint64(seed + 1 << 32) + np.arange(size, dtype=np.uint64)
  return np.argsort(mix(key), kind='stable')
