"""Later stages of `prepare`: chunks to tokens, tokens to shards of rows.

Both are functions of one task each, run in any process, that write their
result last: what is finished is not done again.
"""

import dataclasses
import functools
import hashlib
import io
import json

import numpy as np
from etils import epath

from input_pipeline import chunks, durable, packing
from input_pipeline.bpe_dropout import DroppedMerges, load_dropped_merges
from input_pipeline.store_manifest import ShardManifest, SourceManifest
from input_pipeline.tokenizer import Tokenizer, load_tokenizer

# About 256 MB of text or 64 M tokens, which are packed together in memory.
CHUNKS_PER_SHARD = 32
_ROWS_PER_COUNT = 1_024


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeTask:
  """One chunk.

  Attributes:
    text_directory: of the chunks.
    directory: where the tokens go.
    name: of the chunk.
    kept_D: mask of the documents to encode.
    tokenizer: path of tokenizer.json.
    encoder: the library to encode with.
    copy: 0 for the tokens that the encoder gives; n for the n-th copy, in which
      merges are left out.
    dropout: probability to leave a merge out of a copy.
  """

  text_directory: epath.Path
  directory: epath.Path
  name: str
  kept_D: np.ndarray
  tokenizer: epath.Path
  encoder: str
  copy: int = 0
  dropout: float = 0.0


def encode_chunk(task: EncodeTask) -> tuple[int, int]:
  """Writes the tokens of a chunk's documents and their numbers.

  Returns:
    Documents and bytes of text encoded; zeros if it was finished before.
  """
  lengths = task.directory / f'{task.name}.lengths.npy'
  if lengths.exists():
    return 0, 0
  tokenizer = _tokenizer(task.tokenizer, task.encoder)
  texts = chunks.texts(task.text_directory, task.name, task.kept_D)
  if task.copy:
    index = chunks.load_index(task.text_directory, task.name)
    ids = [index.ids[i] for i in np.flatnonzero(task.kept_D)]
    dropped = _dropped_merges(task.tokenizer, task.dropout, task.copy)
    encoded = [
      dropped.encode(text, identifier)
      for text, identifier in zip(texts, ids, strict=True)
    ]
  else:
    encoded = [tokenizer.encode(text) for text in texts]
  tokens = np.concatenate([np.empty(0, tokenizer.dtype), *encoded])
  durable.write(task.directory / f'{task.name}.tokens', tokens)
  durable.write(
    lengths, chunks.npy(np.array([len(e) for e in encoded], np.int64))
  )
  table_D = chunks.load_table(task.text_directory, task.name)
  return int(task.kept_D.sum()), int(table_D['bytes'][task.kept_D].sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackTask:
  """One shard.

  Attributes:
    text_directory: of the chunks.
    token_directory: of their tokens.
    work_directory: where the result is noted.
    directory: of the store.
    name: of the shard.
    chunk_names: whose documents it holds.
    kept: mask of the documents of each chunk.
    row_length: R.
    tokenizer: path of tokenizer.json.
  """

  text_directory: epath.Path
  token_directory: epath.Path
  work_directory: epath.Path
  directory: epath.Path
  name: str
  chunk_names: tuple[str, ...]
  kept: tuple[np.ndarray, ...]
  row_length: int
  tokenizer: epath.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
  """A finished shard.

  Attributes:
    name: of the shard.
    shard: None if there was no document.
    documents: in it.
    sources: documents, bytes of text and tokens of each source.
    padding_tokens: places without a token.
    target_counts_V: how often each token is to be predicted, int64.
  """

  name: str
  shard: ShardManifest | None
  documents: int
  sources: dict[str, SourceManifest]
  padding_tokens: int
  target_counts_V: np.ndarray


def pack_shard(task: PackTask) -> Packed:
  """Packs the documents of some chunks into rows, and writes the shard."""
  finished = task.work_directory / f'{task.name}.json'
  counts = task.work_directory / f'{task.name}.npy'
  if not finished.exists():
    _pack(task, counts, finished)
  fields = json.loads(finished.read_text())
  if fields['shard'] is not None:
    fields['shard'] = ShardManifest(**fields['shard'])
  fields['sources'] = {
    name: SourceManifest(**held) for name, held in fields['sources'].items()
  }
  return Packed(
    **fields, target_counts_V=np.load(io.BytesIO(counts.read_bytes()))
  )


def _pack(task: PackTask, counts: epath.Path, finished: epath.Path) -> None:
  tokenizer = _tokenizer(task.tokenizer, 'tokenizers')
  origins, documents = _documents(task, tokenizer.dtype)
  lengths_D = np.array([len(tokens) for tokens in documents], np.int64)
  pieces_P4, num_rows = packing.pack(lengths_D, task.row_length)
  rows_NR = packing.fill_rows(
    pieces_P4,
    documents,
    num_rows=num_rows,
    row_length=task.row_length,
    dtype=tokenizer.dtype,
    pad_id=tokenizer.pad_id,
    bos_id=tokenizer.bos_id,
    continue_id=tokenizer.continue_id,
    eos_id=tokenizer.eos_id,
  )
  targets_V = _count_targets(rows_NR, tokenizer)
  shard = None
  if documents:
    lines = ''.join(json.dumps(origin) + '\n' for origin in origins).encode()
    pieces = chunks.npy(pieces_P4.astype(np.uint32))
    durable.write(task.directory / f'{task.name}.documents.jsonl', lines)
    durable.write(task.directory / f'{task.name}.pieces.npy', pieces)
    durable.write(task.directory / f'{task.name}.rows', rows_NR)
    shard = {
      'name': task.name,
      'rows': num_rows,
      'bytes': rows_NR.nbytes,
      'sha256': hashlib.sha256(rows_NR.data).hexdigest(),
      'pieces_sha256': hashlib.sha256(pieces).hexdigest(),
      'documents_sha256': hashlib.sha256(lines).hexdigest(),
      'pieces_bytes': len(pieces),
      'documents_bytes': len(lines),
    }
  durable.write(counts, chunks.npy(targets_V))
  result = {
    'name': task.name,
    'shard': shard,
    'documents': len(documents),
    'sources': _by_source(origins),
    'padding_tokens': rows_NR.size - int(pieces_P4[:, packing.LENGTH].sum()),
  }
  durable.write(finished, json.dumps(result).encode())


def _by_source(origins: list[dict]) -> dict[str, dict[str, int]]:
  found: dict[str, dict[str, int]] = {}
  for origin in origins:
    held = found.setdefault(
      origin['source'], {'documents': 0, 'text_bytes': 0, 'tokens': 0}
    )
    held['documents'] += 1
    held['text_bytes'] += origin['bytes']
    held['tokens'] += origin['tokens']
  return found


def _count_targets(rows_NR: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
  """How often the model is asked for each token, int64 [vocab_size]."""
  targets_V = np.zeros(tokenizer.vocab_size, np.int64)
  # bincount makes a copy four times as large as the rows: by blocks, then.
  for start in range(0, len(rows_NR), _ROWS_PER_COUNT):
    block = rows_NR[start : start + _ROWS_PER_COUNT, 1:]
    targets_V += np.bincount(block.reshape(-1), minlength=targets_V.size)
  unpredicted = [tokenizer.pad_id, tokenizer.bos_id, tokenizer.continue_id]
  targets_V[unpredicted] = 0
  return targets_V


def _documents(
  task: PackTask, dtype: np.dtype
) -> tuple[list[dict], list[np.ndarray]]:
  """The origin and the tokens of every document of a shard."""
  origins, documents = [], []
  for name, kept_D in zip(task.chunk_names, task.kept, strict=True):
    index = chunks.load_index(task.text_directory, name)
    path = task.token_directory / f'{name}.lengths.npy'
    lengths = np.load(io.BytesIO(path.read_bytes()))
    data = (task.token_directory / f'{name}.tokens').read_bytes()
    tokens = np.frombuffer(data, dtype)
    documents += np.split(tokens, np.cumsum(lengths)[:-1])[: lengths.size]
    for i, length in zip(np.flatnonzero(kept_D), lengths, strict=True):
      origins.append(
        {
          'id': index.ids[i],
          'source': index.sources[i],
          'bytes': int(index.table_D['bytes'][i]),
          'tokens': int(length),
        }
      )
  return origins, documents


@functools.lru_cache(maxsize=2)
def _tokenizer(path: epath.Path, encoder: str) -> Tokenizer:
  return load_tokenizer(path, encoder=encoder)


@functools.lru_cache(maxsize=1)
def _dropped_merges(path: epath.Path, rate: float, copy: int) -> DroppedMerges:
  return load_dropped_merges(path, rate=rate, seed=copy)
