"""What distinguishes a store from others, and what it says of itself."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from input_pipeline import store_manifest, tfds_source
from input_pipeline.config import DataConfig
from input_pipeline.curate import Curated
from input_pipeline.curation.config import PROFILES
from input_pipeline.documents import TRAIN
from input_pipeline.encode import Packed
from input_pipeline.tokenizer import Tokenizer

# Whose versions may change the bytes of a store.
_LIBRARIES = ('ftfy', 'numpy', 'py3langid', 'tiktoken', 'tokenizers')


def store_directory(config: DataConfig) -> epath.Path:
  """Where the store of these options lies, be it prepared or not."""
  return store_directories([config], [1.0])[0]


def store_directories(
  configs: Sequence[DataConfig], shares: Sequence[float]
) -> list[epath.Path]:
  """Where the stores of a mixture lie, be they prepared or not.

  A vocabulary that is trained on all of them makes stores of its own, so that
  they never mix with those of other vocabularies.

  Args:
    configs: of the datasets.
    shares: of the tokenizer's training text.
  """
  together = ''
  if len(configs) > 1 and configs[0].tokenizer.kind == 'bpe':
    mixture = [
      [_options(config), share]
      for config, share in zip(configs, shares, strict=True)
    ]
    together = _digest(mixture)
  return [_store_directory(config, together) for config in configs]


def _store_directory(config: DataConfig, together: str) -> epath.Path:
  options = _options(config)
  digest = _digest([options, together] if together else options)[:8]
  label = config.name if config.source == 'tfds' else config.source
  label = label.replace('/', '_').replace(':', '_')
  return epath.Path(config.directory).expanduser() / f'{label}-{digest}'


def _digest(options: Any) -> str:
  text = json.dumps(options, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _options(config: DataConfig) -> dict[str, Any]:
  """The options that change the bytes of the store."""
  options: dict[str, Any] = {
    'format_version': store_manifest.FORMAT_VERSION,
    'source': config.source,
    'on_bad_document': config.on_bad_document,
    'sequence_length': config.sequence_length,
    'tokenizer': {'kind': config.tokenizer.kind},
  }
  curation = dataclasses.asdict(config.curation)
  for name in set(PROFILES) - {'none', *config.curation.profiles()}:
    del curation[name]  # what is not used makes no other store
  options['curation'] = curation
  if config.source == 'tfds':
    options |= {'name': config.name, 'split': config.split}
    options |= {'validation_split': config.validation_split or None}
    if tfds_source.is_stdlib_text(config.name):
      options |= {'interpreter': tfds_source.INTERPRETER}
  else:
    options |= {'files': config.files}
    options |= {'validation_files': config.validation_files}
  if config.source != 'text':
    options |= {'text_field': config.text_field}
  for name in ('source_field', 'licence_field'):
    if value := getattr(config, name):
      options[name] = value
  if config.holds_out_by_hash:
    options |= {'validation_fraction': config.validation_fraction}
  if config.tokenizer.kind == 'bpe':
    options['tokenizer'] |= {
      'vocab_size': config.tokenizer.vocab_size,
      'train_bytes': config.tokenizer.train_bytes,
    }
  elif config.tokenizer.kind == 'file':
    options['tokenizer'] |= {'path': config.tokenizer.path}
  if config.tokenizer.copies:
    names = ('copies', 'dropout')
    options['tokenizer'] |= {n: getattr(config.tokenizer, n) for n in names}
  if config.tokenizer.special_tokens:
    options['tokenizer'] |= {'special_tokens': config.tokenizer.special_tokens}
  return options


def make_manifest(
  config: DataConfig,
  curated: Curated,
  vocabulary: Tokenizer,
  packed: dict[str, list[Packed]],
) -> store_manifest.Manifest:
  """Says what a store holds, of its finished shards."""
  splits = {
    name: _split_manifest(
      held,
      dropped=curated.dropped.get(name, {}),
      source_sha256=curated.source_sha256.get(
        name, curated.source_sha256[TRAIN]
      ),
    )
    for name, held in packed.items()
  }
  options = _options(config)
  fields = dataclasses.fields(store_manifest.TokenizerManifest)
  return store_manifest.Manifest(
    format_version=store_manifest.FORMAT_VERSION,
    fingerprint=store_manifest.fingerprint(options, vocabulary.sha256, splits),
    sequence_length=config.sequence_length,
    options=options,
    tokenizer=store_manifest.TokenizerManifest(
      **{field.name: getattr(vocabulary, field.name) for field in fields}
    ),
    splits=splits,
    versions={'python': platform.python_version()}
    | {name: importlib.metadata.version(name) for name in _LIBRARIES},
    licence=tfds_source.licence(config),
  )


def _split_manifest(
  packed: Sequence[Packed],
  *,
  dropped: dict[str, int],
  source_sha256: str,
) -> store_manifest.SplitManifest:
  counts_V = functools.reduce(np.add, (p.target_counts_V for p in packed))
  share_V = counts_V[counts_V > 0] / counts_V.sum()
  shards = tuple(p.shard for p in packed if p.shard is not None)
  sources = {
    name: store_manifest.SourceManifest(
      **{
        field.name: sum(
          getattr(p.sources[name], field.name)
          for p in packed
          if name in p.sources
        )
        for field in dataclasses.fields(store_manifest.SourceManifest)
      }
    )
    for name in sorted({name for p in packed for name in p.sources})
  }
  return store_manifest.SplitManifest(
    documents=sum(p.documents for p in packed),
    text_bytes=sum(held.text_bytes for held in sources.values()),
    tokens=sum(held.tokens for held in sources.values()),
    rows=sum(shard.rows for shard in shards),
    padding_tokens=sum(p.padding_tokens for p in packed),
    target_tokens=int(counts_V.sum()),
    dropped=dropped,
    unigram_entropy=float(-(share_V * np.log(share_V)).sum()),
    source_sha256=source_sha256,
    sources=sources,
    shards=shards,
  )
