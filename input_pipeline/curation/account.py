"""Counts what the stages did that look at all documents together."""

import collections
import dataclasses

import numpy as np
from etils import epath

from input_pipeline import chunks, durable
from input_pipeline.curation.clean import tally_path
from input_pipeline.curation.config import CurationConfig
from input_pipeline.curation.mentions import parse_groups
from input_pipeline.curation.statistics import Tally
from input_pipeline.documents import Document
from input_pipeline.engine import Engine
from input_pipeline.selection import ChunkTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
  """What a stage made of the documents.

  Attributes:
    stage: its name.
    rule: why it leaves a document out.
    before: the chunks that came in.
    after: the chunks that came out, in the same order.
  """

  stage: str
  rule: str
  before: list[ChunkTask]
  after: list[ChunkTask]

  def removed(self, split: str) -> int:
    """Documents of a split that it left out."""
    pairs = zip(self.before, self.after, strict=True)
    return sum(
      int((old.kept_D & ~new.kept_D).sum())
      for old, new in pairs
      if old.split == split
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AccountTask:
  """A chunk through all steps: (stage, rule, before, after)."""

  name: str
  steps: tuple[tuple[str, str, ChunkTask, ChunkTask], ...]
  config: CurationConfig
  directory: epath.Path


def account(
  steps: list[Step],
  config: CurationConfig,
  directory: epath.Path,
  engine: Engine,
) -> Tally:
  """The tally of these steps, over all chunks."""
  tasks = [
    _AccountTask(
      name=task.name,
      steps=tuple((s.stage, s.rule, s.before[n], s.after[n]) for s in steps),
      config=config,
      directory=directory,
    )
    for n, task in enumerate(steps[0].before)
  ]
  for _ in engine.map(_account, tasks):
    pass
  return tally_of(directory, [task.name for task in tasks], config)


def tally_of(
  directory: epath.Path, names: list[str], config: CurationConfig
) -> Tally:
  """The sum of the tallies of some chunks."""
  total = Tally(parse_groups(config.term_groups))
  for name in names:
    total.merge(Tally.from_json(tally_path(directory, name).read_bytes()))
  return total


def removed_by_rule(tally: Tally) -> dict[str, int]:
  """Documents that each rule left out: 'stage/rule' -> number."""
  found: collections.Counter[str] = collections.Counter()
  for (stage, rule, _, unit), number in tally.tables.removed.items():
    if unit == 'documents' and number:
      found[f'{stage}/{rule}'] += number
  return dict(sorted(found.items()))


def _account(task: _AccountTask) -> None:
  path = tally_path(task.directory, task.name)
  if path.exists():
    return
  tally = Tally(parse_groups(task.config.term_groups))
  loaded: dict[epath.Path, list[Document]] = {}
  for stage, rule, before, after in task.steps:
    for chunk in (before, after):
      if chunk.directory not in loaded:
        loaded[chunk.directory] = chunks.documents(chunk.directory, chunk.name)
    numbers = np.flatnonzero(before.kept_D)
    came = [loaded[before.directory][n] for n in numbers.tolist()]
    went = [loaded[after.directory][n] for n in numbers.tolist()]
    tally.stage(
      stage,
      (rule,),
      ids=[document.id for document in came],
      sources=[document.source for document in came],
      texts=[document.text for document in came],
      texts_after=[document.text for document in went],
      rule_D=np.where(after.kept_D[numbers], -1, 0),
    )
  last = task.steps[-1][3]
  final = [
    loaded[last.directory][n] for n in np.flatnonzero(last.kept_D).tolist()
  ]
  tally.lengths('after', [d.source for d in final], [d.text for d in final])
  durable.write(path, tally.to_json())
