"""Makes the store: documents -> curation -> tokens -> packed rows, a manifest.

Every stage leaves its finished parts in a work directory inside the store, and
the manifest is written last. So a start after a kill goes on where the other
ended, and ends with the same bytes.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from input_pipeline import (
  chunks,
  durable,
  encode,
  lock,
  manifest,
  store,
  tokenizer,
  workers,
)
from input_pipeline.beam_engine import BeamEngine
from input_pipeline.config import DataConfig, TokenizerConfig
from input_pipeline.curate import Curated, curate
from input_pipeline.curation.checks import check
from input_pipeline.data_card import write_card
from input_pipeline.documents import TRAIN
from input_pipeline.engine import Engine, LocalEngine
from input_pipeline.progress import Progress
from input_pipeline.read import read
from input_pipeline.selection import ChunkTask, sample

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
  return prepare_all([config], [1.0], log=log)[0]


def prepare_all(
  configs: Sequence[DataConfig], shares: Sequence[float], *, log: Log
) -> list[epath.Path]:
  """Makes the stores of a mixture, which have one tokenizer.

  A vocabulary that is trained is trained on all of them together.

  Args:
    configs: what to prepare; the tokenizers are alike.
    shares: of the tokenizer's training text, which sum to 1.
    log: gets a line of progress now and then.

  Returns:
    The directories of the stores, in the order of the configs.

  Raises:
    ValueError: for a source that cannot be read, or holds too little.
  """
  directories = manifest.store_directories(configs, shares)
  if all(_is_finished(directory) for directory in directories):
    return directories
  for config in configs:
    check(config.curation)
  with contextlib.ExitStack() as locks:
    # Always in the same order, so that no two programs wait for each other.
    for directory in sorted(set(directories)):
      path = directory.parent / f'.{directory.name}.lock'
      locks.enter_context(lock.locked(path, log))
    curated = {
      directory: _curated(config, directory, log)
      for config, directory in zip(configs, directories, strict=True)
      if not (directory / store.MANIFEST).exists()
    }
    texts = [
      (curated[directory], share)
      for directory, share in zip(directories, shares, strict=True)
      if directory in curated
    ]
    _make_tokenizers(configs[0].tokenizer, directories, texts, log)
    for config, directory in zip(configs, directories, strict=True):
      if not (directory / store.MANIFEST).exists():
        _finish(config, curated[directory], directory, log)
      if (directory / _WORK).exists():
        (directory / _WORK).rmtree()
  return directories


def _is_finished(directory: epath.Path) -> bool:
  return (directory / store.MANIFEST).exists() and not (
    directory / _WORK
  ).exists()


def make_engine(config: DataConfig) -> Engine:
  """The engine that `data.engine` names."""
  if config.engine.name == 'beam':
    return BeamEngine(config.engine.runner, config.engine.options)
  return LocalEngine(config.workers or workers.cores())


def _curated(config: DataConfig, directory: epath.Path, log: Log) -> Curated:
  """Reads and cleans; what is finished of that is not done again."""
  log(f'Preparing {directory}')
  engine, work = make_engine(config), directory / _WORK
  try:
    found = read(config, work / 'text', engine, Progress('Read', log))
    curated = curate(config, found, work, engine, log)
    _check_not_empty(config, curated)
  except ValueError:
    # Nothing read may outlive the sources that the user is about to change.
    if work.exists():
      work.rmtree()
    raise
  return curated


def _finish(
  config: DataConfig, curated: Curated, directory: epath.Path, log: Log
) -> None:
  """Encodes and packs what was curated, and says what it is."""
  engine, work = make_engine(config), directory / _WORK
  path = directory / store.TOKENIZER
  vocabulary = tokenizer.load_tokenizer(path, sample=_compared_texts(curated))
  log(
    f'Tokenizer: {vocabulary.vocab_size:,} tokens, encoded by'
    f' {vocabulary.encoder}'
  )
  if config.tokenizer.kind != 'bytes' and vocabulary.encoder != 'tiktoken':
    log(
      'tiktoken does not give the same tokens for this tokenizer and text, so'
      ' tokenizers encodes, which is several times slower'
    )
  packed = {}
  for split, name, copy in _kinds(config):
    tasks = curated.tasks_of(split)
    tokens = work / f'tokens-{copy}'
    _encode(config, copy, tasks, vocabulary, tokens, path, engine, log)
    packed[name] = _pack(config, name, tasks, tokens, path, engine, log)
  made = manifest.make_manifest(config, curated, vocabulary, packed)
  write_card(config, curated, made, directory)
  durable.remove_unfinished(directory)
  durable.write(directory / store.MANIFEST, made.to_json())
  for split, held in made.splits.items():
    places = held.rows * config.row_length
    log(
      f'{split}: {held.documents:,} documents, {held.tokens:,} tokens,'
      f' {held.rows:,} rows, {held.padding_tokens / places:.3%} padding'
    )


def _check_not_empty(config: DataConfig, curated: Curated) -> None:
  kept = {
    split: sum(int(task.kept_D.sum()) for task in curated.tasks_of(split))
    for split in chunks.SPLITS
  }
  for split in chunks.SPLITS:
    if kept[split]:
      continue
    dropped = curated.dropped[split]
    removed = {reason: n for reason, n in dropped.items() if n}
    message = f'{split} holds no document: {sum(dropped.values())} read'
    if removed:
      counts = ' + '.join(f'{n} {reason}' for reason, n in removed.items())
      message += f', of which {counts}'
    total = sum(kept.values())
    if not total:
      message += '; neither does the other split'
    elif config.holds_out_by_hash:
      message += (
        f'; the other split has {total} documents, and'
        f' data.validation_fraction={config.validation_fraction} of them are'
        f' {total * config.validation_fraction:.1f} for validation: change'
        ' it, or name the validation documents (data.validation_files,'
        ' data.validation_split)'
      )
    raise ValueError(message)


def _make_tokenizers(
  config: TokenizerConfig,
  directories: Sequence[epath.Path],
  texts: Sequence[tuple[Curated, float]],
  log: Log,
) -> None:
  """Leaves the same tokenizer in every directory.

  Args:
    config: of the tokenizer.
    directories: of the stores.
    texts: documents, and which share of the training text they give.
    log: gets a line of progress now and then.
  """
  paths = [directory / store.TOKENIZER for directory in directories]
  there = [path for path in paths if path.exists()]
  if there:
    data = there[0].read_bytes()
  elif config.kind == 'bytes':
    data = tokenizer.bytes_tokenizer(config.special_tokens)
  elif config.kind == 'file':
    assert config.path
    data = tokenizer.with_special_tokens(config.path, config.special_tokens)
  else:
    progress = Progress('Trained the tokenizer on', log)
    data = tokenizer.train_bpe(
      (
        text
        for curated, share in texts
        for text in _sampled(curated, int(share * config.train_bytes), progress)
      ),
      config.vocab_size,
      config.special_tokens,
    )
    progress.finish()
  for path in paths:
    if not path.exists():
      durable.write(path, data)


def _sampled(curated: Curated, size: int, progress: Progress) -> Iterator[str]:
  tasks = curated.tasks_of(TRAIN)
  for task, mask in zip(tasks, sample(tasks, size), strict=True):
    for text in chunks.texts(task.directory, task.name, mask):
      progress.add(1, len(text.encode()))
      yield text


def _compared_texts(curated: Curated) -> list[str]:
  found, size = list(tokenizer.SAMPLE), 0
  for task in curated.tasks_of(TRAIN):
    for text in chunks.texts(task.directory, task.name, task.kept_D):
      found.append(text[: _COMPARED_BYTES - size])
      size += len(text)
      if size >= _COMPARED_BYTES:
        return found
  return found


def _kinds(config: DataConfig) -> list[tuple[str, str, int]]:
  """What is encoded: split, the name of its rows, and which copy it is."""
  copies = range(1, config.tokenizer.copies + 1)
  return [
    *((split, split, 0) for split in chunks.SPLITS),
    *((TRAIN, store.copy_name(copy), copy) for copy in copies),
  ]


def _encode(
  config: DataConfig,
  copy: int,
  held: Sequence[ChunkTask],
  vocabulary: tokenizer.Tokenizer,
  tokens: epath.Path,
  path: epath.Path,
  engine: Engine,
  log: Log,
) -> None:
  tasks = [
    encode.EncodeTask(
      text_directory=task.directory,
      directory=tokens,
      name=task.name,
      kept_D=task.kept_D,
      tokenizer=path,
      encoder=vocabulary.encoder,
      copy=copy,
      dropout=config.tokenizer.dropout,
    )
    for task in held
  ]
  progress = Progress('Encoded', log)
  for done in engine.map(encode.encode_chunk, tasks):
    progress.add(*done)
  progress.finish()


def _pack(
  config: DataConfig,
  rows: str,
  held: Sequence[ChunkTask],
  tokens: epath.Path,
  path: epath.Path,
  engine: Engine,
  log: Log,
) -> list[encode.Packed]:
  starts = range(0, len(held), encode.CHUNKS_PER_SHARD)
  tasks = []
  for number, start in enumerate(starts):
    together = held[start : start + encode.CHUNKS_PER_SHARD]
    tasks.append(
      encode.PackTask(
        text_directory=together[0].directory,
        token_directory=tokens,
        work_directory=tokens.parent / 'packed',
        directory=path.parent,
        name=f'{rows}-{number:05d}-of-{len(starts):05d}',
        chunk_names=tuple(task.name for task in together),
        kept=tuple(task.kept_D for task in together),
        row_length=config.row_length,
        tokenizer=path,
      )
    )
  progress = Progress(f'Packed {rows}', log)
  packed = []
  for result in engine.map(encode.pack_shard, tasks):
    size = sum(held.text_bytes for held in result.sources.values())
    progress.add(result.documents, size)
    packed.append(result)
  progress.finish()
  return sorted(packed, key=lambda result: result.name)
