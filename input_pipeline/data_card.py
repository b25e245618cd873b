"""The data card of a store: what went in, what left and why, for people."""

from collections.abc import Iterable

import numpy as np
from etils import epath

from input_pipeline import chunks, durable, store_manifest
from input_pipeline.config import DataConfig
from input_pipeline.curate import Curated
from input_pipeline.curation import card, card_page, clean, privacy
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import Privacy
from input_pipeline.curation.near_duplicates import table
from input_pipeline.curation.survivors import cluster_sizes
from input_pipeline.documents import Document
from input_pipeline.selection import POSITIONS_PER_CHUNK

JSON, PAGE = 'card.json', 'card.html'
# Pairs of near-duplicates that the card shows.
_PAIRS = 20
_ALL_MARKS = Privacy(
  enabled=True, emails=True, ip_addresses=True, phones=True, secrets=True
)


def write_card(
  config: DataConfig,
  curated: Curated,
  manifest: store_manifest.Manifest,
  directory: epath.Path,
) -> None:
  """Writes the card beside the store, as JSON and as a page."""
  tally = curated.tally
  contamination = None
  if clean.CONTAMINATION in tally.rules:
    contamination = tuple(
      card.Contamination(
        evaluation=name,
        documents=sum(
          n
          for (stage, rule, _, unit), n in tally.tables.removed.items()
          if (stage, rule, unit) == (clean.CONTAMINATION, name, 'documents')
        ),
        examples=tuple(
          card.ContaminationExample(id=e.id, source=e.source, text=e.text)
          for e in tally.examples.get((clean.CONTAMINATION, name), ())
        ),
      )
      for name in tally.rules[clean.CONTAMINATION]
    )
  near = curated.near_duplicates
  facts = card.CardFacts(
    dataset=directory.name,
    fingerprint=manifest.fingerprint,
    options=manifest.options,
    versions=manifest.versions,
    licence=manifest.licence,
    stages=curated.stages,
    unread=_unread(curated),
    privacy_kinds=tuple(privacy.MARKS) if 'privacy' in tally.rules else None,
    cluster_sizes=None if near is None else _sizes(near),
    duplicate_examples=() if near is None else _pairs(near, curated),
    minhash_lines=() if near is None else tuple(table(config.curation)),
    contamination=contamination,
    tokens=_tokens(manifest.splits[split] for split in chunks.SPLITS),
  )
  made = card.data_card(tally, facts, redact=_redact)
  durable.write(directory / JSON, card.to_json(made))
  durable.write(directory / PAGE, card_page.render(made).encode())


def _unread(curated: Curated) -> dict[str, int]:
  return {
    reason: sum(dropped[reason] for dropped in curated.dropped.values())
    for reason in ('empty', 'unreadable')
  }


def _redact(text: str) -> str:
  """Typed marks for what the privacy stage finds: cards are published."""
  texts = privacy.apply(Columns([text]), _ALL_MARKS).texts
  return text if texts is None else texts[0]


def _sizes(near: np.ndarray) -> dict[int, int]:
  """Size of a cluster -> number of clusters."""
  sizes, counts = np.unique(cluster_sizes(near)[1], return_counts=True)
  return dict(zip(sizes.tolist(), counts.tolist(), strict=True))


def _pairs(
  near: np.ndarray, curated: Curated
) -> tuple[card.DuplicateExample, ...]:
  """Near-duplicates from the least similar to the most, evenly chosen."""
  order = np.argsort(near['similarity'], kind='stable')
  number = min(_PAIRS, order.size)
  places = order[np.linspace(0, order.size - 1, number).astype(int)]
  found = []
  for place in places:
    removed = _document(int(near['position'][place]), curated)
    kept = _document(int(near['survivor'][place]), curated)
    found.append(
      card.DuplicateExample(
        removed_id=removed.id,
        kept_id=kept.id,
        similarity=float(near['similarity'][place]),
        removed_text=removed.text,
        kept_text=kept.text,
      )
    )
  return tuple(found)


def _document(position: int, curated: Curated) -> Document:
  number, place = divmod(position, POSITIONS_PER_CHUNK)
  task = curated.tasks[number]
  mask_D = np.zeros(task.kept_D.size, bool)
  mask_D[place] = True
  return chunks.documents(task.directory, task.name, mask_D)[0]


def _tokens(
  splits: Iterable[store_manifest.SplitManifest],
) -> dict[str, card.TokenCount]:
  found: dict[str, card.TokenCount] = {}
  for split in splits:
    for name, held in split.sources.items():
      before = found.get(name, card.TokenCount(bytes=0, tokens=0))
      found[name] = card.TokenCount(
        bytes=before.bytes + held.text_bytes, tokens=before.tokens + held.tokens
      )
  return found
