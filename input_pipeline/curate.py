"""Leaves out and changes documents, and counts what it does.

First the stages that look at one document, chunk by chunk; then those that
compare all documents, of which only hashes are brought together.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from etils import epath

from input_pipeline import chunks
from input_pipeline.chunks import Chunks
from input_pipeline.config import DataConfig
from input_pipeline.curation import clean, quality
from input_pipeline.curation.account import (
  Step,
  account,
  removed_by_rule,
  tally_of,
)
from input_pipeline.curation.checks import check_sources
from input_pipeline.curation.contamination import load_evaluations
from input_pipeline.curation.lines import remove_repeated_lines
from input_pipeline.curation.near_duplicates import find_near_duplicates
from input_pipeline.curation.stages import STAGES
from input_pipeline.curation.statistics import Tally
from input_pipeline.curation.survivors import REMOVED
from input_pipeline.engine import Engine
from input_pipeline.progress import Progress
from input_pipeline.read import Read
from input_pipeline.selection import (
  ChunkTask,
  chunk_tasks,
  find_equal,
  without,
)

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curated:
  """The documents to train on, and what became of the others.

  Attributes:
    tasks: chunks and masks of the documents that stay.
    dropped: documents left out by split and reason.
    source_sha256: by split, of all ids and texts that were read.
    tally: of all stages.
    stages: their names, in order.
    near_duplicates: survivors.REMOVED; None: they were not looked for.
  """

  tasks: list[ChunkTask]
  dropped: dict[str, dict[str, int]]
  source_sha256: dict[str, str]
  tally: Tally
  stages: tuple[str, ...]
  near_duplicates: np.ndarray | None

  def tasks_of(self, split: str) -> list[ChunkTask]:
    """Those of a split."""
    return [task for task in self.tasks if task.split == split]


def curate(
  config: DataConfig, found: Read, work: epath.Path, engine: Engine, log: Log
) -> Curated:
  """Runs all stages of curation.

  Raises:
    ValueError: evaluation or trusted files cannot be read, or the config
      names a source that no document has.
  """
  check_sources(config.curation, found.sources)
  cleaned = _clean(config, found.chunks, work, engine, log)
  steps, removed = _compare(config, cleaned, work, engine, log)
  tally = account(steps, config.curation, work / 'account', engine)
  dropped = {}
  for split in chunks.SPLITS:
    before = tally_of(cleaned.directory, cleaned.names[split], config.curation)
    dropped[split] = found.dropped[split] | removed_by_rule(before)
    dropped[split] |= {step.rule: step.removed(split) for step in steps}
    tally.merge(before)
  alone = [name for name in _alone(config) if name in tally.rules]
  return Curated(
    tasks=steps[-1].after,
    dropped=dropped,
    source_sha256=found.source_sha256,
    tally=tally,
    stages=(*alone, *(step.stage for step in steps)),
    near_duplicates=removed,
  )


def _alone(config: DataConfig) -> list[str]:
  """Names of the stages that look at one document, in their order."""
  names = list(STAGES)
  names.insert(names.index('privacy'), clean.CONTAMINATION)
  return names


def _clean(
  config: DataConfig, read: Chunks, work: epath.Path, engine: Engine, log: Log
) -> Chunks:
  curation, directory = config.curation, work / 'clean'
  evaluations = None
  if curation.contamination.evaluations:
    evaluations = work / 'evaluations.npz'
    if not evaluations.exists():
      loaded = load_evaluations(curation.contamination)
      clean.save_evaluations(loaded, evaluations)
  tasks = [
    clean.CleanTask(
      name=name,
      source=read.directory,
      directory=directory,
      config=curation,
      evaluations=evaluations,
    )
    for name in read.all_names()
  ]
  progress = Progress('Cleaned', log)
  for done in engine.map(clean.clean_chunk, tasks):
    progress.add(*done)
  progress.finish()
  return Chunks(directory=directory, names=read.names)


def _compare(
  config: DataConfig, source: Chunks, work: epath.Path, engine: Engine, log: Log
) -> tuple[list[Step], np.ndarray | None]:
  """The stages that look at all documents, and the near-duplicates."""
  curation, profiles = config.curation, config.curation.profiles().values()
  tasks = chunk_tasks(source)
  steps: list[Step] = []

  def done(stage: str, rule: str, after: list[ChunkTask]) -> list[ChunkTask]:
    before = steps[-1].after if steps else tasks
    step = Step(stage=stage, rule=rule, before=before, after=after)
    steps.append(step)
    removed = sum(step.removed(split) for split in chunks.SPLITS)
    log(f'{stage}: {removed:,} documents left out')
    return after

  equal = find_equal(tasks, work / 'equal', engine)
  left = done('equal_texts', 'duplicate', without(tasks, equal[:, 0]))
  if curation.quality_model.trusted_files:
    # Of near-duplicates the best one stays, so it is scored before.
    left = quality.score(left, config, work / 'quality', engine, log)
  if any(profile.repeated_lines is not None for profile in profiles):
    edited = remove_repeated_lines(left, curation, work / 'lines', engine)
    left = done('repeated_lines', 'only_repeated_lines', edited)
  near = None
  if any(profile.near_duplicates for profile in profiles):
    near = find_near_duplicates(left, curation, work / 'near', engine, log)
    assert near.dtype == REMOVED
    rest = without(left, near['position'])
    left = done('near_duplicates', 'near_duplicate', rest)
  if curation.quality_model.trusted_files:
    worse = quality.below_threshold(left, config)
    left = done('quality_model', 'low_quality', without(left, worse))
  return steps, near
