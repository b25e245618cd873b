"""Finds the near-duplicates among all documents.

Suffix: D documents of a chunk.
"""

import functools
from collections.abc import Callable

import numpy as np
from etils import epath

from input_pipeline import chunks
from input_pipeline.curation import banding, minhash
from input_pipeline.curation.banding import Bands
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import CurationConfig
from input_pipeline.curation.survivors import survivors
from input_pipeline.engine import Engine, Shuffle, partitions_for, results
from input_pipeline.selection import ChunkTask, ranks, text_batches

Log = Callable[[str], None]


def find_near_duplicates(
  tasks: list[ChunkTask],
  config: CurationConfig,
  directory: epath.Path,
  engine: Engine,
  log: Log,
) -> np.ndarray:
  """Documents that are similar to a better one that stays.

  Returns:
    [R] of survivors.REMOVED.
  """
  near = config.near_duplicates
  shape = banding.bands(near.similarity, near.permutations)
  for line in table(config):
    log(line)
  kind = minhash.record_dtype(near.permutations)
  documents = sum(int(task.kept_D.sum()) for task in tasks)
  shuffle = Shuffle(
    name='near-duplicates',
    directory=directory,
    kind=kind,
    emit=functools.partial(_records, config=config, shape=shape),
    reduce=functools.partial(minhash.similar_pairs, similarity=near.similarity),
    partitions=partitions_for(documents * shape.bands * kind.itemsize),
  )
  engine.shuffle(shuffle, tasks)
  return survivors(np.concatenate(list(results(shuffle))))


def table(config: CurationConfig) -> list[str]:
  """What is found of which similarity, for people."""
  near = config.near_duplicates
  shape = banding.bands(near.similarity, near.permutations)
  return banding.table(
    shape, target=near.similarity, permutations=near.permutations
  )


def _records(
  task: ChunkTask, config: CurationConfig, shape: Bands
) -> np.ndarray:
  near = config.near_duplicates
  sources = chunks.load_index(task.directory, task.name).sources
  looked_for = {
    source: (profile := config.profile_of(source)) is not None
    and profile.near_duplicates
    for source in set(sources)
  }
  chosen_D = task.kept_D & np.array([looked_for[s] for s in sources], bool)
  rank_D, position_D = ranks(task), task.position_D
  found = [np.empty(0, minhash.record_dtype(near.permutations))]
  for place_D, texts in text_batches(task, chosen_D):
    signature_DK = minhash.signatures(
      Columns(texts), near.ngram, near.permutations
    )
    found.append(
      minhash.band_records(
        signature_DK, rank_D[place_D], position_D[place_D], shape
      )
    )
  return np.concatenate(found)
