"""Eight emulated devices, set before JAX starts, and shared fixtures."""

import gc
import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_NUM_CPU_DEVICES'] = '8'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
# Every test compiles its own programs: a cached one could hide a change.
os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)

from train.emulation import quick_flags

# Tests compile much and run little.
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {quick_flags()}'

import cases
import numpy as np
import pytest

from input_pipeline import chunks, encode

# Tracing makes many objects that stay; looking for garbage among them takes a
# fifth of the time.
gc.set_threshold(200_000, 50, 100)


@pytest.fixture
def rows_BR() -> np.ndarray:
  """Eight rows of packed documents, as cases.packed_rows makes them."""
  return cases.packed_rows()


@pytest.fixture
def small_chunks(monkeypatch) -> None:
  """Lets a few documents make several chunks and shards."""
  monkeypatch.setattr(chunks, 'CHUNK_BYTES', 300)
  monkeypatch.setattr(encode, 'CHUNKS_PER_SHARD', 3)
  monkeypatch.setattr(encode, '_ROWS_PER_COUNT', 2)
