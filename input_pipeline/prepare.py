"""Makes the store: documents -> tokens -> packed rows and a manifest.

Every stage leaves its finished parts in a work directory inside the store, and
the manifest is written last. So a start after a kill goes on where the other
ended, and ends with the same bytes.
"""

import dataclasses
import functools
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from etils import epath

from input_pipeline import (
  chunks,
  durable,
  encode,
  store,
  tfds_source,
  tokenizer,
  workers,
)
from input_pipeline.config import DataConfig
from input_pipeline.progress import Progress
from input_pipeline.sources import TRAIN, VALIDATION

# Text on which the encoders are compared, beside the built-in sample.
_COMPARED_BYTES = 1 << 20
_WORK = 'work'

Log = Callable[[str], None]


def prepare(config: DataConfig, *, log: Log) -> epath.Path:
  """Makes the store of these options, unless it is there already.

  Args:
    config: what to prepare.
    log: gets a line of progress now and then.

  Returns:
    The directory of the store, for `open_store`.

  Raises:
    ValueError: for a source that cannot be read, or holds too little.
  """
  directory = store_directory(config)
  manifest, work = directory / store.MANIFEST, directory / _WORK
  if manifest.exists() and not work.exists():
    return directory
  with durable.locked(directory.parent / f'.{directory.name}.lock', log):
    if not manifest.exists():
      _prepare(config, directory, work, log)
    if work.exists():
      work.rmtree()
  return directory


def store_directory(config: DataConfig) -> epath.Path:
  """Where the store of these options lies, be it prepared or not."""
  options = json.dumps(_options(config), sort_keys=True).encode()
  digest = hashlib.sha256(options).hexdigest()[:8]
  label = config.name if config.source == 'tfds' else config.source
  label = label.replace('/', '_').replace(':', '_')
  return epath.Path(config.directory).expanduser() / f'{label}-{digest}'


def _options(config: DataConfig) -> dict[str, Any]:
  """The options that change the bytes of the store."""
  options: dict[str, Any] = {
    'format_version': store.FORMAT_VERSION,
    'source': config.source,
    'on_bad_document': config.on_bad_document,
    'sequence_length': config.sequence_length,
    'tokenizer': {'kind': config.tokenizer.kind},
  }
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
  if config.holds_out_by_hash:
    options |= {'validation_fraction': config.validation_fraction}
  if config.tokenizer.kind == 'bpe':
    options['tokenizer'] |= {
      'vocab_size': config.tokenizer.vocab_size,
      'train_bytes': config.tokenizer.train_bytes,
    }
  elif config.tokenizer.kind == 'file':
    options['tokenizer'] |= {'path': config.tokenizer.path}
  return options


def _prepare(
  config: DataConfig, directory: epath.Path, work: epath.Path, log: Log
) -> None:
  log(f'Preparing {directory}')
  source = chunks.read(config, work / 'text', log)
  selection = chunks.select(source, config.tokenizer.train_bytes)
  _check_not_empty(config, source, selection)
  path = directory / store.TOKENIZER
  _make_tokenizer(config, path, source, selection, log)
  compared = _compared_texts(source, selection)
  vocabulary = tokenizer.load_tokenizer(path, sample=compared)
  log(
    f'Tokenizer: {vocabulary.vocab_size:,} tokens, encoded by'
    f' {vocabulary.encoder}'
  )
  if config.tokenizer.kind != 'bytes' and vocabulary.encoder != 'tiktoken':
    log(
      'tiktoken does not give the same tokens for this tokenizer and text, so'
      ' tokenizers encodes, which is several times slower'
    )
  processes = config.workers or workers.cores()
  _encode(source, selection, vocabulary, path, processes, log)
  packed = {
    split: _pack(config, split, source, selection, path, processes, log)
    for split in chunks.SPLITS
  }
  manifest = _manifest(config, source, selection, vocabulary, packed)
  durable.remove_unfinished(directory)
  durable.write(directory / store.MANIFEST, manifest.to_json())
  for split, held in manifest.splits.items():
    places = held.rows * config.row_length
    log(
      f'{split}: {held.documents:,} documents, {held.tokens:,} tokens,'
      f' {held.rows:,} rows, {held.padding_tokens / places:.3%} padding,'
      f' dropped {held.dropped}'
    )


def _check_not_empty(
  config: DataConfig, source: chunks.Chunks, selection: chunks.Selection
) -> None:
  kept = {
    s: sum(int(m.sum()) for m in selection.kept[s]) for s in chunks.SPLITS
  }
  for split in chunks.SPLITS:
    if kept[split]:
      continue
    dropped = source.dropped[split] | {'duplicate': selection.duplicates[split]}
    counts = ' + '.join(f'{n} {reason}' for reason, n in dropped.items())
    message = (
      f'{split} holds no document: {sum(dropped.values())} read, of which'
      f' {counts}'
    )
    if config.holds_out_by_hash:
      total = sum(kept.values())
      message += (
        f'; the other split has {total} documents, and'
        f' data.validation_fraction={config.validation_fraction} of them are'
        f' {total * config.validation_fraction:.1f} for validation: change'
        ' it, or name the validation documents (data.validation_files,'
        ' data.validation_split)'
      )
    # Nothing read may outlive the sources that the user is about to change.
    source.directory.rmtree()
    raise ValueError(message)


def _make_tokenizer(
  config: DataConfig,
  path: epath.Path,
  source: chunks.Chunks,
  selection: chunks.Selection,
  log: Log,
) -> None:
  if path.exists():
    return
  if config.tokenizer.kind == 'bytes':
    data = tokenizer.bytes_tokenizer()
  elif config.tokenizer.kind == 'file':
    assert config.tokenizer.path
    data = tokenizer.with_special_tokens(config.tokenizer.path)
  else:
    progress = Progress('Trained the tokenizer on', log)

    def sample():
      names = source.names(TRAIN)
      for name, mask in zip(names, selection.sample, strict=True):
        for text in chunks.texts(source.directory, name, mask):
          progress.add(1, len(text.encode()))
          yield text

    data = tokenizer.train_bpe(sample(), config.tokenizer.vocab_size)
    progress.finish()
  durable.write(path, data)


def _compared_texts(
  source: chunks.Chunks, selection: chunks.Selection
) -> list[str]:
  found, size = list(tokenizer.SAMPLE), 0
  name, kept_D = source.names(TRAIN)[0], selection.kept[TRAIN][0]
  for text in chunks.texts(source.directory, name, kept_D):
    found.append(text[: _COMPARED_BYTES - size])
    size += len(text)
    if size >= _COMPARED_BYTES:
      break
  return found


def _encode(
  source: chunks.Chunks,
  selection: chunks.Selection,
  vocabulary: tokenizer.Tokenizer,
  path: epath.Path,
  processes: int,
  log: Log,
) -> None:
  tasks = [
    encode.EncodeTask(
      text_directory=source.directory,
      directory=source.directory.parent / 'tokens',
      name=name,
      kept_D=kept_D,
      tokenizer=path,
      encoder=vocabulary.encoder,
    )
    for split in chunks.SPLITS
    for name, kept_D in zip(
      source.names(split), selection.kept[split], strict=True
    )
  ]
  progress = Progress('Encoded', log)
  for done in workers.run(encode.encode_chunk, tasks, workers=processes):
    progress.add(*done)
  progress.finish()


def _pack(
  config: DataConfig,
  split: str,
  source: chunks.Chunks,
  selection: chunks.Selection,
  path: epath.Path,
  processes: int,
  log: Log,
) -> list[encode.Packed]:
  names, kept = source.names(split), selection.kept[split]
  size = encode.CHUNKS_PER_SHARD
  starts = range(0, len(names), size)
  tasks = [
    encode.PackTask(
      text_directory=source.directory,
      token_directory=source.directory.parent / 'tokens',
      work_directory=source.directory.parent / 'packed',
      directory=path.parent,
      name=f'{split}-{number:05d}-of-{len(starts):05d}',
      chunk_names=tuple(names[start : start + size]),
      kept=tuple(kept[start : start + size]),
      row_length=config.row_length,
      tokenizer=path,
    )
    for number, start in enumerate(starts)
  ]
  progress = Progress(f'Packed {split}', log)
  packed = []
  for result in workers.run(encode.pack_shard, tasks, workers=processes):
    progress.add(result.documents, result.text_bytes)
    packed.append(result)
  progress.finish()
  return sorted(packed, key=lambda result: result.name)


def _manifest(
  config: DataConfig,
  source: chunks.Chunks,
  selection: chunks.Selection,
  vocabulary: tokenizer.Tokenizer,
  packed: dict[str, list[encode.Packed]],
) -> store.Manifest:
  splits = {
    split: _split_manifest(
      packed[split],
      dropped=source.dropped[split]
      | {'duplicate': selection.duplicates[split]},
      source_sha256=source.source_sha256[split],
    )
    for split in (TRAIN, VALIDATION)
  }
  options = _options(config)
  facts = {
    'options': options,
    'tokenizer': vocabulary.sha256,
    'sources': {s: held.source_sha256 for s, held in splits.items()},
    'rows': {s: [x.sha256 for x in h.shards] for s, h in splits.items()},
  }
  fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  fields = dataclasses.fields(store.TokenizerManifest)
  return store.Manifest(
    format_version=store.FORMAT_VERSION,
    fingerprint=fingerprint.hexdigest(),
    sequence_length=config.sequence_length,
    options=options,
    tokenizer=store.TokenizerManifest(
      **{field.name: getattr(vocabulary, field.name) for field in fields}
    ),
    splits=splits,
    versions={
      'python': platform.python_version(),
      'numpy': np.__version__,
      'tiktoken': tiktoken.__version__,
      'tokenizers': tokenizers.__version__,
    },
    licence=tfds_source.licence(config),
  )


def _split_manifest(
  packed: Sequence[encode.Packed],
  *,
  dropped: dict[str, int],
  source_sha256: str,
) -> store.SplitManifest:
  counts_V = functools.reduce(np.add, (p.target_counts_V for p in packed))
  share_V = counts_V[counts_V > 0] / counts_V.sum()
  shards = tuple(p.shard for p in packed if p.shard is not None)
  return store.SplitManifest(
    documents=sum(p.documents for p in packed),
    text_bytes=sum(p.text_bytes for p in packed),
    tokens=sum(p.tokens for p in packed),
    rows=sum(shard.rows for shard in shards),
    padding_tokens=sum(p.padding_tokens for p in packed),
    target_tokens=int(counts_V.sum()),
    dropped=dropped,
    unigram_entropy=float(-(share_V * np.log(share_V)).sum()),
    source_sha256=source_sha256,
    shards=shards,
  )
