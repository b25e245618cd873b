"""The fused kernels of this accelerator: are they right, and how fast?

python benchmarks/kernels.py [--batch=8] [--length=2048]

Attention, forward and backward, in bfloat16: the fused kernel of the device
('cudnn' on GPUs, 'splash' on TPUs) and the reference written out for the
compiler ('xla'), each with the largest error of its result and gradients
against the reference in float32, beside PyTorch's where it is installed. A
fused kernel is right if its error is at most twice that of the reference in
bfloat16. Then the products of a mixture of experts beside dense products of as
many operations. Needs no TensorFlow; on a processor it compares the reference
with itself.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import describe_machine, matmul_flops, median_seconds
from benchmarks.train_step import random_rows
from configs import base
from configs.check import to_dict
from model.attention_kernels import make_attend, resolve_attention
from model.config import ModelConfig
from model.grouped import Groups, grouped_product
from model.grouped_kernels import resolve_grouped
from model.mask import Places
from train.config import train_config
from train.rows import unpack_rows
from train.tuning.synthetic import MARKS

HEADS = 16
# Name -> fields of the model.
CASES: dict[str, dict[str, Any]] = {
  'one text': {},
  'documents': {'isolate_documents': True},
  'window 512': {'sliding_window': 512},
  'documents and 4 kv heads': {'isolate_documents': True, 'num_kv_heads': 4},
}
# Of a result that is rounded to bfloat16, by the largest one.
ROUNDING = 1e-2


def model_of(length: int, **fields: Any) -> ModelConfig:
  """Sixteen heads of 128."""
  c = base.get_config()
  c.sequence_length = length
  c.loss.chunk = length
  c.model.embed_dim = 128 * HEADS
  c.model.num_heads = c.model.num_kv_heads = HEADS
  model = train_config(to_dict(c)).model
  return dataclasses.replace(model, **{'isolate_documents': False} | fields)


def places_of(config: ModelConfig, batch: int) -> Places:
  """Of documents of 300 tokens, on average, or of one text a row."""
  isolated = config.isolate_documents
  rows = random_rows(batch, config.max_length, 256, isolated)
  inputs = unpack_rows(
    jnp.asarray(rows), marks=MARKS, isolate_documents=isolated
  )
  return Places(inputs.segments_BT, inputs.positions_BT)


def attention(config: ModelConfig, places: Places):
  """A function of q, k and v."""
  config, _ = resolve_attention(
    config, platform=jax.default_backend(), mesh_shape={}
  )
  return lambda q, k, v: make_attend(config, places)(q, k, v, None)


def gradients(function):
  """A compiled function of arrays, and of a gradient of its result."""

  def run(*given):
    *arrays, gradient = given
    out, pullback = jax.vjp(function, *arrays)
    return out, *pullback(gradient.astype(out.dtype))

  return jax.jit(run)


def worst(found, wanted) -> float:
  """Largest error of an array, by its largest value."""
  errors = (
    jnp.abs(a.astype(jnp.float32) - b).max() / jnp.abs(b).max()
    for a, b in zip(found, wanted, strict=True)
  )
  return max(map(float, errors))


def compare_attention(batch: int, length: int, cases: Iterable[str]) -> bool:
  """Prints a line for each case and kernel; True if all are right."""
  right = True
  for case in cases:
    config = model_of(length, **CASES[case])
    auto, _ = resolve_attention(
      config, platform=jax.default_backend(), mesh_shape={}
    )
    fused = auto.attention
    keys = jax.random.split(jax.random.key(0), 4)
    kv = config.num_kv_heads
    q, k, v, gradient = (
      jax.random.normal(key, (batch, length, heads, config.head_dim))
      for key, heads in zip(keys, (HEADS, kv, kv, HEADS), strict=True)
    )
    places = places_of(config, batch)
    # Rounded first, so that all compute with the same numbers.
    low = tuple(x.astype(jnp.bfloat16) for x in (q, k, v, gradient))
    high = tuple(x.astype(jnp.float32) for x in low)
    with jax.default_matmul_precision('highest'):
      plain = dataclasses.replace(
        config, attention='xla', compute_dtype='float32'
      )
      wanted = gradients(attention(plain, places))(*high)
    errors = {}
    for name in dict.fromkeys(('xla', fused)):
      named = dataclasses.replace(config, attention=name)
      run = gradients(attention(named, places))
      errors[name] = worst(run(*low), wanted)
      seconds = median_seconds(run, *low)
      print(f'{case:24} {name:7} {1e3 * seconds:8.2f} ms  '
            f'error {errors[name]:.1e}', flush=True)  # fmt: skip
    if not errors[fused] <= 2 * errors['xla']:
      print(f'{case}: {fused} is WRONG')
      right = False
    if case == 'one text':
      torch_attention(low)
  return right


def torch_attention(arrays) -> None:
  """Prints the time of PyTorch's attention; it is causal, of one text."""
  try:
    import torch
  except ModuleNotFoundError:
    return
  if not torch.cuda.is_available():
    return
  q, k, v, gradient = (
    torch.tensor(np.asarray(x, np.float32), dtype=torch.bfloat16, device='cuda')
    .transpose(1, 2)
    .contiguous()
    .requires_grad_()
    for x in arrays
  )
  begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
  times = []
  for _ in range(8):
    begin.record()
    out = torch.nn.functional.scaled_dot_product_attention(
      q, k, v, is_causal=True
    )
    torch.autograd.grad(out, (q, k, v), gradient)
    end.record()
    torch.cuda.synchronize()
    times.append(begin.elapsed_time(end))
  print(f'{"one text":24} torch   {sorted(times)[len(times) // 2]:8.2f} ms')


def compare_experts(rows: int, experts: int, width: int, hidden: int) -> bool:
  """Prints a line for each way to multiply rows in groups; True if right."""
  shapes = ((rows, width), (experts, width, hidden), (rows, hidden))
  x, weight, gradient = (
    jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)
    for seed, shape in enumerate(shapes)
  )
  shares = np.random.default_rng(0).dirichlet(np.full(experts, 10.0))
  sizes = np.floor(shares * rows).astype(np.int32)
  sizes[0] += rows - sizes.sum()

  def grouped(kernel: str, dtype: str):
    groups = Groups(dtype, kernel=kernel)
    return gradients(
      lambda x, weight: grouped_product(x, weight, jnp.asarray(sizes), groups)
    )

  print(f'{rows:,} rows, {experts} matrices {width} x {hidden}, and gradients')
  operations = 3 * 2 * rows * width * hidden

  def show(name: str, seconds: float, error: str) -> None:
    print(
      f'{"":24} {name:7} {1e3 * seconds:8.2f} ms  error {error:7}  '
      f'{operations / seconds / 1e12:.3g} TFLOP/s',
      flush=True,
    )

  dense = gradients(lambda x, matrix: x @ matrix)
  show('dense', median_seconds(dense, x, weight[0], gradient), '')
  with jax.default_matmul_precision('highest'):
    wanted = grouped('xla', 'float32')(
      *(a.astype(jnp.float32) for a in (x, weight, gradient))
    )
  model = model_of(width, embed_dim=width)
  moe = dataclasses.replace(model.moe, num_experts=experts, expert_dim=hidden)
  best = resolve_grouped(
    dataclasses.replace(model, moe=moe),
    device_kind=jax.devices()[0].device_kind,
    mesh_shape={},
  ).moe.kernel
  right = True
  for kernel in dict.fromkeys(('xla', best)):
    run = grouped(kernel, 'bfloat16')
    error = worst(run(x, weight, gradient), wanted)
    seconds = median_seconds(run, x, weight, gradient)
    show(kernel, seconds, f'{error:.1e}')
    right &= error < ROUNDING
  return right


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--batch', type=int, default=8)
  parser.add_argument('--length', type=int, default=2_048)
  parser.add_argument('--cases', default=','.join(CASES))
  parser.add_argument('--rows', type=int, default=32_768)
  parser.add_argument('--width', type=int, default=2_048)
  arguments = parser.parse_args()
  print(describe_machine(), f'device {jax.devices()[0].device_kind}', sep=', ')
  ceiling = matmul_flops('bfloat16') / 1e12
  print(f'large bfloat16 products reach {ceiling:,.3g} TFLOP/s')
  right = compare_experts(
    arguments.rows, 8, arguments.width, 2 * arguments.width
  )
  right &= compare_attention(
    arguments.batch, arguments.length, arguments.cases.split(',')
  )
  if not right:
    sys.exit(1)


if __name__ == '__main__':
  main()
