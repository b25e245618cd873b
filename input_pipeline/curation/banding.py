"""How many bands of how many rows, and what they find with which probability.

Two documents whose sets of shingles have the Jaccard similarity s agree in each
of K permutations with probability s (Broder 1997). B bands of R permutations
each are hash tables: the documents meet in a bucket where a whole band agrees,
so with probability 1 - (1 - s^R)^B (Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", 3.4). Where they meet, the similarity is estimated from all K
permutations, of which 8 bits each are kept, and compared with a threshold.
"""

import dataclasses
import math

import numpy as np

# Chance that 8 bits of two different hashes agree.
CHANCE = 1 / 256
# What a pair at the target similarity must meet with at least.
_WANTED = 0.9
# Below this the hash tables do not do what their target says.
_USELESS = 0.5
# A pair at the target passes the verification unless its estimate falls short
# by more than this many standard errors: 97.7 % of a normal distribution.
_STANDARD_ERRORS = 2.0
_FIELD = 'data.curation.near_duplicates'


@dataclasses.dataclass(frozen=True)
class Bands:
  """The shape of the hash tables.

  Attributes:
    bands: B, number of tables.
    rows: R, permutations of a band; bands * rows <= K.
  """

  bands: int
  rows: int


def bands(similarity: float, permutations: int) -> Bands:
  """The sharpest bands that find pairs at `similarity`, 90 % of them or more.

  More rows are sharper, and fewer bands fit. Where no number of rows finds
  90 %, a band is one permutation, which finds most.
  """
  found = Bands(permutations, 1)
  for rows in range(2, permutations + 1):
    shape = Bands(permutations // rows, rows)
    if match_probability(shape, similarity) >= _WANTED:
      found = shape
  return found


def match_probability(shape: Bands, similarity: float) -> float:
  """Probability that two documents meet in a bucket: 1 - (1 - s^R)^B."""
  whole_band = similarity**shape.rows
  if whole_band == 1:
    return 1.0
  return -math.expm1(shape.bands * math.log1p(-whole_band))


def threshold(similarity: float, permutations: int) -> float:
  """Estimated similarity from which on a pair that met counts as similar.

  The target less two standard errors of the estimate, sqrt(s (1 - s) / K), so
  that the estimate of a pair at the target passes in 97.7 % of cases.
  """
  error = math.sqrt(similarity * (1 - similarity) / permutations)
  return similarity - _STANDARD_ERRORS * error


def required_matches(similarity: float, permutations: int) -> int:
  """Number of equal bytes, of K, from which on a pair counts as similar."""
  least = threshold(similarity, permutations)
  # Rounded, so that a whole number of matches is not missed by an ulp.
  matches = round(permutations * (CHANCE + (1 - CHANCE) * least), 9)
  return max(1, math.ceil(matches))


def estimate(matches: np.ndarray, permutations: int) -> np.ndarray:
  """Similarity from numbers of equal bytes, without those equal by chance.

  Li and Koenig 2010, "b-Bit Minwise Hashing", theorem 1, for sets that are
  small against the 2^32 hashes. Unbiased; below 0 where chance fell short.
  """
  return (matches / permutations - CHANCE) / (1 - CHANCE)


def removal_probability(
  shape: Bands, similarity: float, *, target: float, permutations: int
) -> float:
  """Probability that two documents meet and pass the verification.

  Exact for independent permutations. A permutation agrees in full with
  probability s, and in its byte only with (1 - s) / 256. The number of equal
  bytes, without a whole band and in all, has a generating function that is a
  product over the bands; its coefficients are products of probabilities, so
  nothing cancels, as the terms of an inclusion and exclusion would.

  Args:
    shape: of the hash tables.
    similarity: Jaccard similarity of the two documents.
    target: from which similarity on documents shall count as the same.
    permutations: K.
  """
  spare = permutations - shape.bands * shape.rows
  assert spare >= 0, (shape, permutations)
  byte = similarity + (1 - similarity) * CHANCE
  band_M = _binomial(shape.rows, byte)
  apart_M = band_M.copy()
  apart_M[-1] = max(0.0, apart_M[-1] - similarity**shape.rows)
  all_M = never_M = _binomial(spare, byte)
  for _ in range(shape.bands):
    all_M = np.convolve(all_M, band_M)
    never_M = np.convolve(never_M, apart_M)
  enough = required_matches(target, permutations)
  return float(np.clip((all_M - never_M)[enough:].sum(), 0.0, 1.0))


def _binomial(trials: int, probability: float) -> np.ndarray:
  """Probabilities of 0 to `trials` successes."""
  distribution = np.ones(1)
  for _ in range(trials):
    distribution = np.convolve(distribution, [1 - probability, probability])
  return distribution


def table(shape: Bands, *, target: float, permutations: int) -> list[str]:
  """Lines that say which similarities are found, to print and to store."""
  least = threshold(target, permutations)
  lines = [
    f'Near-duplicates: {shape.bands} bands of {shape.rows} rows,'
    f' {permutations} permutations; pairs that meet are removed from an'
    f' estimated similarity of {least:.3f} on',
    'similarity  meet    removed',
  ]
  for similarity in sorted({0.7, 0.8, 0.9, target}):
    meet = match_probability(shape, similarity)
    removed = removal_probability(
      shape, similarity, target=target, permutations=permutations
    )
    mark = '  target' if similarity == target else ''
    lines.append(f'{similarity:<10.3g}  {meet:.4f}  {removed:.4f}{mark}')
  return lines


def check(
  similarity: float, ngram: int, permutations: int, shape: Bands | None = None
) -> None:
  """Refuses settings that would find nothing.

  Args:
    similarity: the target.
    ngram: words of a shingle.
    permutations: K.
    shape: of the hash tables; None: the one that `bands` derives.

  Raises:
    ValueError: names the field of data.curation.near_duplicates.
  """
  if not 0 < similarity < 1:
    raise ValueError(
      f'{_FIELD}.similarity={similarity} must lie between 0 and 1, neither'
      ' included; equal texts are left out anyway'
    )
  if ngram < 1:
    raise ValueError(f'{_FIELD}.ngram={ngram}: a shingle is 1 word or more')
  if permutations < 1:
    raise ValueError(f'{_FIELD}.permutations={permutations} must be positive')
  shape = shape or bands(similarity, permutations)
  if shape.bands * shape.rows > permutations:
    raise ValueError(
      f'{_FIELD}.permutations={permutations}: {shape.bands} bands of'
      f' {shape.rows} rows need {shape.bands * shape.rows}'
    )
  found = match_probability(shape, similarity)
  if found < _USELESS:
    raise ValueError(
      f'{_FIELD}.similarity={similarity} and permutations={permutations} give'
      f' {shape.bands} bands of {shape.rows} rows, which find'
      f' 1 - (1 - {similarity}^{shape.rows})^{shape.bands} = {found:.2g} of the'
      f' pairs at that similarity, less than {_USELESS}: raise permutations'
    )
  if threshold(similarity, permutations) <= 0:
    error = _STANDARD_ERRORS * math.sqrt(
      similarity * (1 - similarity) / permutations
    )
    raise ValueError(
      f'{_FIELD}.permutations={permutations} estimate a similarity of'
      f' {similarity} to within {error:.2f} only, so unrelated documents would'
      ' pass: raise permutations or similarity'
    )
