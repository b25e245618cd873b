"""The prepared datasets of a run: one, or several that are mixed."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable

from etils import epath

from input_pipeline.config import TrainingData
from input_pipeline.copies import CopiedRows
from input_pipeline.manifest import store_directories
from input_pipeline.prepare import prepare_all
from input_pipeline.repack import RepackedRows
from input_pipeline.store import Rows, Store, open_store
from input_pipeline.store_manifest import Manifest
from input_pipeline.stream import Stream
from input_pipeline.weights import Schedule

TRAIN, VALIDATION = 'train', 'validation'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stores:
  """Stores with one tokenizer; made by `open_stores`.

  Attributes:
    names: of the datasets; '' where there is only one.
    schedules: of their weights.
    stores: of the datasets.
  """

  names: tuple[str, ...]
  schedules: tuple[Schedule, ...]
  stores: tuple[Store, ...]

  @property
  def first(self) -> Store:
    """Any of them, for what they have in common: tokenizer and row length."""
    return self.stores[0]

  @property
  def manifests(self) -> tuple[Manifest, ...]:
    """Of the datasets."""
    return tuple(store.manifest for store in self.stores)

  @property
  def fingerprint(self) -> str:
    """Equal where names, options, sources, tokenizer and rows are equal."""
    if len(self.stores) == 1 and not self.names[0]:
      return self.first.manifest.fingerprint
    found = [m.fingerprint for m in self.manifests]
    named = list(zip(self.names, found, strict=True))
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()

  def stream(self, *, seed: int, batch_size: int, repack: bool) -> Stream:
    """The training rows, in the order of a run.

    Args:
      seed: of the run.
      batch_size: rows of the global batch.
      repack: documents are packed into rows anew in each epoch.
    """
    rows = []
    for name, store in zip(self.names, self.stores, strict=True):
      copies: list[Rows | RepackedRows] = list(store.training_copies())
      if repack:
        marks = store.manifest.tokenizer
        copies = [
          RepackedRows(copy, seed=seed, tokenizer=marks, name=name)
          for copy in store.training_copies()
        ]
      rows.append(copies[0] if len(copies) == 1 else CopiedRows(copies))
    return Stream(
      rows,
      seed=seed,
      batch_size=batch_size,
      names=self.names,
      schedules=self.schedules,
    )


def prepare_stores(
  data: TrainingData, *, log: Callable[[str], None], check: bool = False
) -> list[epath.Path]:
  """Makes the stores that are missing.

  Args:
    data: what to prepare.
    log: gets a line of progress now and then.
    check: compare every file of every store with its checksum.

  Returns:
    The directories of the stores, in the order of the datasets.

  Raises:
    DataError: with `check`, where a file is not as it was prepared.
  """
  configs = [part.data for part in data.parts]
  directories = prepare_all(configs, data.tokenizer_shares, log=log)
  for directory in directories if check else ():
    begin = time.monotonic()
    size, seconds = open_store(directory).verify(), time.monotonic() - begin
    log(
      f'Checked {directory}: {size / 1e9:.2f} GB are as prepared'
      f' ({size / 1e9 / seconds:.2f} GB/s)'
    )
  return directories


def open_stores(data: TrainingData) -> Stores:
  """Opens prepared stores.

  Raises:
    ValueError: one is missing or incomplete, or their tokenizers differ.
    DataError: one is damaged.
  """
  directories = store_directories(
    [part.data for part in data.parts], data.tokenizer_shares
  )
  stores = tuple(open_store(directory) for directory in directories)
  first = stores[0]
  for store in stores[1:]:
    if store.manifest.tokenizer.sha256 != first.manifest.tokenizer.sha256:
      raise ValueError(
        f'{first.directory} and {store.directory} have different tokenizers,'
        " so their rows cannot be mixed; set data.tokenizer.kind='file' and"
        f" data.tokenizer.path='{first.directory}/tokenizer.json'"
      )
  return Stores(
    names=tuple(part.name for part in data.parts),
    schedules=tuple(part.schedule for part in data.parts),
    stores=stores,
  )
