"""Memory of MaxText's own training step, by the compiler: what plan is held to.

It needs Python 3.12 and an environment of its own:

    python3.12 -m venv ~/maxtext
    ~/maxtext/bin/pip install 'maxtext[tpu]==0.2.4' flax==0.12.8 \
      jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
    ~/maxtext/bin/python benchmarks/maxtext_memory.py [--only=TEXT]

Prints the bytes of a device for each row: arguments, temporaries and program.
Weights and moments are float32, products bfloat16, attention is fused, and
compiler options are the defaults, as MaxText has them. No TPU is needed; a row
takes a minute or two, that of the 405B ten.
"""

import argparse
import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# What keeps a compiler without a TPU from looking for one.
_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of the table of docs/planning.md.

  Attributes:
    model: MaxText's name.
    topology: likewise; v5p and v4 count cores, two in a chip.
    rows: of a chip.
    length: tokens of a row.
    remat: MaxText's policy.
    others: further fields of its configuration.
  """

  model: str
  topology: str
  rows: int
  length: int
  remat: str = 'full'
  others: tuple[str, ...] = ()


ROWS = (
  Row('llama2-7b', 'v5p-64', 4, 4096),
  Row('llama2-7b', 'v5p-64', 4, 4096, 'minimal'),
  Row('llama3-8b', 'v6e-64', 2, 8192),
  Row('llama3.1-70b', 'v5p-512', 2, 8192),
  Row('llama3.1-405b', 'v5p-1024', 1, 8192),
  # As published: tpu-recipes, training/v5p/Llama3.1-405B-MaxText.
  Row(
    'llama3.1-405b',
    'v5p-1024',
    2,
    8192,
    'custom',
    ('context=offload', 'mlpwo=offload', 'num_vocab_tiling=4'),
  ),
  Row('mixtral-8x7b', 'v5p-256', 4, 4096),
  # As published: docs/reference/models/tiering.md.
  Row('mixtral-8x7b', 'v5p-256', 36, 4096),
)


def measure(row: Row) -> int | None:
  """Bytes of a device; None where the step does not compile."""
  spec = importlib.util.find_spec('maxtext')
  if spec is None or spec.origin is None:
    sys.exit('maxtext is not installed here; the docstring says how.')
  base = pathlib.Path(spec.origin).parent / 'configs' / 'base.yml'
  with tempfile.TemporaryDirectory() as folder:
    command = [
      *(sys.executable, '-m', 'maxtext.trainers.pre_train.train_compile'),
      str(base),
      f'model_name={row.model}',
      f'compile_topology={row.topology}',
      'compile_topology_num_slices=1',
      f'per_device_batch_size={row.rows}',
      f'max_target_length={row.length}',
      f'remat_policy={row.remat}',
      'attention=flash',
      'dataset_type=synthetic',
      'enable_checkpointing=false',
      f'base_output_directory={folder}',
      'run_name=memory',
      *row.others,
    ]
    found = subprocess.run(
      command,
      env=os.environ | _ENVIRONMENT,
      capture_output=True,
      text=True,
      check=False,
    )
  sizes = {
    name: int(size)
    for name, size in re.findall(
      r'\b(argument|temp|generated_code)_size_in_bytes=(\d+)', found.stdout
    )
  }
  if len(sizes) < 3:
    print(found.stderr[-2000:], file=sys.stderr)
    return None
  return sum(sizes.values())


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default='', help='rows with this text')
  only = parser.parse_args().only
  for row in ROWS:
    name = (
      f'{row.model}, {row.topology}, {row.rows} x {row.length}, {row.remat}'
    )
    if row.others:
      name += f' ({" ".join(row.others)})'
    if only in name:
      size = measure(row)
      print(
        f'{name}: ' + ('failed' if size is None else f'{size / 1e9:.1f} GB'),
        flush=True,
      )


if __name__ == '__main__':
  main()
