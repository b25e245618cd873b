"""Which kernel computes attention, and what is refused."""

import re

import attention_cases
import pytest
from attention_cases import RULES

from model.attention_kernels import KERNELS, resolve_attention
from model.context import balanced_order

REFUSED = [
  ('splash', {'attention_dropout': 0.1}, {},
   r'model\.attention_dropout = 0\.1 \(only 0\.0\)'),
  ('splash', {'visible_prefixes': True}, {}, r'augmentation\.ul2'),
  ('splash', {'head_dim': 12}, {},
   r'model\.head_dim = 12 \(.*multiples of 8: 12 = 1 x 8 \+ 4\)'),
  ('splash', {'head_dim': 512}, {}, r'model\.head_dim = 512 \(up to 256\)'),
  ('splash', {'context_parallelism': 'ring'}, {'context': 2},
   r"'ring' \(only 'all_gather' or 'ulysses'\)"),
  ('splash', {'max_length': 640}, {'context': 2},
   r'sequence_length = 640 \(only multiples of 512 .*640 = 1 x 512 \+ 128\)'),
  ('splash', {'axis_rules': (*RULES[:2], ('heads', ()), RULES[3])},
   {'tensor': 2},
   r'model\.num_heads = 4 over 1 and model\.num_kv_heads = 4 over 2 devices'),
  ('splash', {'context_parallelism': 'ulysses', 'num_kv_heads': 2},
   {'context': 4}, r'num_kv_heads = 2 over 1 devices with .*ulysses'),
  ('cudnn', {'attention_softcap': 2.0}, {},
   r'model\.attention_softcap = 2\.0 \(only None\)'),
  ('cudnn', {'attention_dropout': 0.1}, {}, r'model\.attention_dropout'),
  ('cudnn', {'compute_dtype': 'float32'}, {},
   r"model\.compute_dtype = 'float32' \(only 'bfloat16'\)"),
  ('cudnn', {'head_dim': 256}, {}, r'model\.head_dim = 256 \(up to 128\)'),
  ('cudnn', {'context_parallelism': 'ring'}, {'context': 2}, r"'ring'"),
  ('cudnn', {'max_length': 513}, {}, r'multiples of 2 .*513 = 256 x 2 \+ 1'),
  ('xla', {'context_parallelism': 'ring', 'attention_dropout': 0.1},
   {'context': 2}, r'model\.attention_dropout'),
  ('xla', {'context_parallelism': 'ring', 'max_length': 66}, {'context': 4},
   r'sequence_length = 66 \(only multiples of 8'),
  ('xla', {'context_parallelism': 'ulysses', 'num_kv_heads': 2},
   {'context': 2, 'tensor': 2}, r'num_kv_heads = 2 over 2 devices with'),
]  # fmt: skip


def resolve(name, fields, axes, platform=None):
  config = attention_cases.model(
    1024, **{'compute_dtype': 'bfloat16', 'attention': name} | fields
  )
  return resolve_attention(
    config,
    platform=platform or KERNELS[name].platform or 'cpu',
    mesh_shape=axes,
  )


@pytest.mark.parametrize(('name', 'fields', 'axes', 'message'), REFUSED)
def test_what_a_kernel_lacks_is_refused_by_name(name, fields, axes, message):
  resolved, said = resolve(name, {}, {})
  assert (resolved.attention, said) == (name, name)
  with pytest.raises(
    ValueError, match=f"model.attention = '{name}' does not support .*{message}"
  ):
    resolve(name, fields, axes)


@pytest.mark.parametrize(
  ('name', 'platform'),
  [('splash', 'cpu'), ('splash', 'gpu'), ('cudnn', 'tpu'),
   ('splash_interpreted', 'tpu')],
)  # fmt: skip
def test_a_kernel_of_other_devices_is_refused(name, platform):
  with pytest.raises(ValueError, match=f'devices of this mesh .{platform}'):
    resolve(name, {}, {}, platform)


def test_several_problems_are_named_at_once():
  fields = {'attention_dropout': 0.1, 'attention_softcap': 2.0}
  with pytest.raises(ValueError, match=r'_softcap.*_dropout'):
    resolve('cudnn', fields, {})


@pytest.mark.parametrize(
  ('platform', 'name'), [('tpu', 'splash'), ('gpu', 'cudnn'), ('cpu', 'xla')]
)
def test_auto_takes_the_fused_kernel_of_the_devices(platform, name):
  resolved, said = resolve('auto', {}, {'context': 2}, platform)
  assert (resolved.attention, said) == (name, name)
  balanced = balanced_order(2) if name == 'splash' else None
  assert resolved.row_order == balanced


@pytest.mark.parametrize('case', [c for c in REFUSED if c[0] != 'xla'], ids=str)
def test_auto_says_what_stood_in_the_way_of_the_fused_kernel(case):
  name, fields, axes, message = case
  if fields.get('context_parallelism') == 'ulysses':
    message = 'auto.*xla.*ulysses'
    with pytest.raises(ValueError, match=message):
      resolve('auto', fields, axes, KERNELS[name].platform)
    return
  resolved, said = resolve('auto', fields, axes, KERNELS[name].platform)
  assert resolved.attention == 'xla'
  assert re.search(f'^xla; {name} does not support .*{message}', said)
