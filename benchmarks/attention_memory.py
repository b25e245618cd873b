"""Memory of attention against the length of the row, compiled for a TPU v5p.

python benchmarks/attention_memory.py [--lengths 4096 16384 131072]

Nothing is run: libtpu compiles for chips that are not there
(pip install "jax[tpu]"). One layer's attention, forward and backward, with the
heads of Llama 3 8B (32 of queries, 8 of keys and values, 128 wide), bfloat16, a
row of packed documents: temporary memory of a chip in GiB, without the arrays
that go in and come out. On one chip, and with the row split over four.
"""

import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

# Several processes may compile at once, and no metadata server is asked.
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5p-8')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from configs import base
from model.attention_kernels import make_attend, resolve_attention
from model.config import ModelConfig, model_config
from model.mask import Places
from train.config import MESH_AXES

COLUMNS = {
  'XLA': ('xla', 'all_gather', 1),
  'splash': ('splash', 'all_gather', 1),
  'splash, all_gather over 4': ('splash', 'all_gather', 4),
  'splash, ulysses over 4': ('splash', 'ulysses', 4),
  'XLA, ring over 4': ('xla', 'ring', 4),
}


def model(length: int, kernel: str, strategy: str) -> ModelConfig:
  """The heads of Llama 3 8B over rows of a length."""
  c = base.get_config()
  c.sequence_length = length
  c.model.embed_dim, c.model.head_dim = 4_096, 128
  c.model.num_heads, c.model.num_kv_heads = 32, 8
  c.model.attention, c.model.context_parallelism = kernel, strategy
  return model_config(c)


def temporary_bytes(config: ModelConfig, mesh: Mesh) -> int:
  """Temporary memory of a device for attention and its gradients."""
  config, _ = resolve_attention(
    config, platform='tpu', mesh_shape=dict(mesh.shape)
  )
  T, N, K = config.max_length, config.num_heads, config.num_kv_heads

  def array(*shape, dtype=jnp.bfloat16):
    sharding = NamedSharding(mesh, PartitionSpec(None, 'context'))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  def gradients(q, k, v, gradient, places):
    attend = make_attend(config, places)
    out, pullback = jax.vjp(lambda q, k, v: attend(q, k, v, None), q, k, v)
    return out, pullback(gradient)

  place = array(1, T, dtype=jnp.int32)
  places = Places(place, place)
  heads = [array(1, T, n, config.head_dim) for n in (N, K, K, N)]
  with jax.set_mesh(mesh):
    compiled = jax.jit(gradients).lower(*heads, places).compile()
  analysis = compiled.memory_analysis()
  assert analysis is not None
  return analysis.temp_size_in_bytes


def cell(length: int, column: tuple[str, str, int], devices: np.ndarray) -> str:
  """GiB, or that it does not fit."""
  kernel, strategy, parts = column
  shape = tuple(parts if axis == 'context' else 1 for axis in MESH_AXES)
  mesh = Mesh(
    devices[:parts].reshape(shape),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * len(MESH_AXES),
  )
  try:
    used = temporary_bytes(model(length, kernel, strategy), mesh)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return 'does not fit'
  return f'{used / 2**30:.2f}'


def main() -> None:
  """Compiles and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--lengths', type=int, nargs='+', default=[4_096, 16_384, 65_536, 131_072]
  )
  lengths = parser.parse_args().lengths
  topology = topologies.get_topology_desc('v5p:2x2x1', 'tpu')
  devices: np.ndarray = np.array(topology.devices)
  print('|'.join(['', 'tokens', *COLUMNS, '']))
  print('|---' * (len(COLUMNS) + 1) + '|')
  for length in lengths:
    cells = [cell(length, column, devices) for column in COLUMNS.values()]
    print('|'.join(['', f'{length:,}', *cells, '']), flush=True)


if __name__ == '__main__':
  main()
