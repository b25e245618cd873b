"""Runs the stages on single documents, over one chunk at a time.

Suffix: D documents of a batch.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import numpy as np
from etils import epath

from input_pipeline import chunks, durable, named_arrays
from input_pipeline.curation import contamination
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import CurationConfig, Profile
from input_pipeline.curation.contamination import Evaluations
from input_pipeline.curation.mentions import parse_groups
from input_pipeline.curation.stage import Outcome, Stage
from input_pipeline.curation.stages import STAGES
from input_pipeline.curation.statistics import Tally, utf8_bytes
from input_pipeline.documents import Document

CONTAMINATION = 'contamination'
# Characters that are looked at together: they and their columns fit into the
# caches, and numpy's calls cost little.
_BATCH = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleanTask:
  """One chunk.

  Attributes:
    name: of the chunk.
    source: directory where it lies.
    directory: where the chunk of what stays goes, and its tally.
    config: names the stages.
    evaluations: file of `save_evaluations`; None: there are none.
  """

  name: str
  source: epath.Path
  directory: epath.Path
  config: CurationConfig
  evaluations: epath.Path | None


def clean_chunk(task: CleanTask) -> tuple[int, int]:
  """Writes the documents of a chunk that stay, as they are then.

  Returns:
    Documents and bytes that came in; zeros if it was finished before.
  """
  if chunks.is_written(task.directory, task.name):
    return 0, 0
  documents = chunks.documents(task.source, task.name)
  tally = Tally(parse_groups(task.config.term_groups))
  tally.lengths(
    'before', [d.source for d in documents], [d.text for d in documents]
  )
  stays: dict[int, Document] = {}
  for profile, members in _by_profile(documents, task.config):
    stages = stages_of(profile, task.evaluations)
    for batch in _batches(members, documents):
      kept = _run([documents[n] for n in batch], stages, tally)
      stays.update({batch[i]: document for i, document in kept})
  chosen = [stays[n] for n in sorted(stays)]
  for document in chosen:
    if document.licence:
      size = utf8_bytes(document.text)
      tally.label('licence', document.licence, document.source, 1, size)
  durable.write(tally_path(task.directory, task.name), tally.to_json())
  priority = {s: n for n, s in enumerate(task.config.source_priority)}
  chunks.write(
    task.directory,
    task.name,
    chosen,
    priority_D=np.array(
      [priority.get(d.source, len(priority)) for d in chosen], np.uint16
    ),
  )
  return len(documents), sum(utf8_bytes(d.text) for d in documents)


def tally_path(directory: epath.Path, name: str) -> epath.Path:
  """Where the tally of a chunk lies."""
  return directory / f'{name}.tally.json'


def save_evaluations(evaluations: Evaluations, path: epath.Path) -> None:
  """Writes them for the processes that clean."""
  names = list(evaluations.hashes)
  facts = {
    'names': names,
    'ngram': evaluations.ngram,
    'sizes': evaluations.sizes,
    'texts': evaluations.texts,
    'too_short': evaluations.too_short,
  }
  hashes = [evaluations.hashes[name] for name in names]
  durable.write(path, named_arrays.pack(facts, hashes))


@functools.lru_cache(maxsize=1)
def _load_evaluations(path: epath.Path) -> Evaluations:
  facts, hashes = named_arrays.unpack(path.read_bytes())
  names = facts.pop('names')
  facts['sizes'] = tuple(facts['sizes'])
  return Evaluations(hashes=dict(zip(names, hashes, strict=True)), **facts)


def stages_of(
  profile: Profile | None, evaluations: epath.Path | None
) -> list[tuple[Stage, object]]:
  """The stages that run, each with its options, in their order."""
  found: list[tuple[Stage, object]] = []
  for name, stage in STAGES.items():
    # Marks of the privacy stage would hide parts of evaluation texts.
    if name == 'privacy' and evaluations is not None:
      loaded = _load_evaluations(evaluations)
      found.append((_contamination_stage(loaded), loaded))
    if profile is not None and getattr(profile, name).enabled:
      found.append((stage, getattr(profile, name)))
  return found


def _contamination_stage(evaluations: Evaluations) -> Stage:
  return Stage(
    name=CONTAMINATION,
    rules=tuple(evaluations.hashes),
    apply=_leave_out_contaminated,
  )


def _leave_out_contaminated(
  columns: Columns, evaluations: Evaluations
) -> Outcome:
  rule_D = np.full(columns.num_documents, -1, np.int8)
  hits = contamination.hits(columns, evaluations)
  for number, hits_D in reversed(list(enumerate(hits.values()))):
    rule_D[hits_D > 0] = number
  return Outcome(rule_D=rule_D)


def _by_profile(
  documents: list[Document], config: CurationConfig
) -> Iterator[tuple[Profile | None, list[int]]]:
  """Numbers of the documents of each profile, in order."""
  of_source: dict[str, list[int]] = {}
  for number, document in enumerate(documents):
    of_source.setdefault(document.source, []).append(number)
  names: dict[str, list[int]] = {}
  for source, members in of_source.items():
    names.setdefault(config.profile_name(source), []).extend(members)
  for name, members in names.items():
    yield config.profile_named(name), sorted(members)


def _batches(
  members: list[int], documents: list[Document]
) -> Iterator[list[int]]:
  batch: list[int] = []
  size = 0
  for number in members:
    batch.append(number)
    size += len(documents[number].text)
    if size >= _BATCH:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


def _run(
  documents: list[Document],
  stages: Iterable[tuple[Stage, object]],
  tally: Tally,
) -> list[tuple[int, Document]]:
  """Runs the stages over a batch.

  Returns:
    The documents that stay, with their numbers in the batch.
  """
  alive = np.arange(len(documents))
  languages: dict[int, str] = {}
  # What stage sees; those that left stay in it until a text changes, as new
  # columns cost more than a look at text that does not matter.
  seen, texts = alive, [document.text for document in documents]
  columns = Columns(texts)
  for stage, options in stages:
    outcome = stage.apply(columns, options)
    place = np.searchsorted(seen, alive)
    rule_D = outcome.rule_D[place]
    before = [texts[n] for n in place.tolist()]
    after = None
    if outcome.texts is not None:
      after = [outcome.texts[n] for n in place.tolist()]
    sources = [documents[n].source for n in alive.tolist()]
    tally.stage(
      stage.name,
      stage.rules,
      ids=[documents[n].id for n in alive.tolist()],
      sources=sources,
      texts=before,
      texts_after=after,
      rule_D=rule_D,
    )
    for name, count_D in outcome.counts.items():
      for source, count in zip(sources, count_D[place].tolist(), strict=True):
        if count:
          tally.count(name, source, count)
    for n, i in zip(alive.tolist(), place.tolist(), strict=True):
      if 'language' in outcome.labels:
        languages[n] = outcome.labels['language'][i]
    stays_D = rule_D < 0
    alive = alive[stays_D]
    if after is not None:
      seen = alive
      texts = [t for t, s in zip(after, stays_D.tolist(), strict=True) if s]
      columns = Columns(texts)
  kept = [
    (n, dataclasses.replace(documents[n], text=texts[i]))
    for n, i in zip(
      alive.tolist(), np.searchsorted(seen, alive).tolist(), strict=True
    )
  ]
  for n, document in kept:
    if n in languages:
      size = utf8_bytes(document.text)
      tally.label('language', languages[n], document.source, 1, size)
  return kept
