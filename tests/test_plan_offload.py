"""What lies in the host's memory is not on the chip: compiled for a TPU."""

import cases
import pytest
from test_plan_budgets import MODEL, libtpu

from train.planning import report, topologies
from train.planning.cache import Cache
from train.planning.plan import plan_tpus

__all__ = ['libtpu']

# Activations of 8 rows a chip are far larger than the state.
LARGE = MODEL | {
  'batch_size': 64, 'model.remat': 'products', 'mesh.fsdp': 8,
}  # fmt: skip
OFFLOAD = {
  'offload.optimizer': True,
  'offload.activations': (
    'layer_input', 'query', 'key', 'value', 'context', 'attention_out',
    'mlp_up', 'mlp_gate', 'mlp_out',
  ),
}  # fmt: skip
# Layers, rows, positions; the widths of what is kept; bfloat16. The backward
# pass has no need of 'mlp_out'.
KEPT = 4 * 8 * 512 * (2 * 512 + 2 * 512 + 2 * 256 + 2 * 1536) * 2


def planned(**overrides):
  """Memory of a chip, by the plan of a run."""
  return plan_tpus(
    cases.tiny_train_config(**LARGE | overrides),
    topologies.parse('v5e:2x4'),
    price=None,
    cache=Cache(None),
  ).memory


@pytest.mark.slow
def test_a_chip_holds_less_where_the_host_holds_it(libtpu):
  plain, found = planned(), planned(**OFFLOAD)
  assert plain.host == 0
  # Counters are left.
  assert found.optimizer < 64
  assert found.host == plain.optimizer - found.optimizer + KEPT
  assert found.temporaries < plain.temporaries - 0.5 * KEPT
  assert found.needed < plain.needed - plain.optimizer - 0.5 * KEPT
  assert 'host memory a device' in report.memory_text(found)
  assert 'host memory a device' not in report.memory_text(plain)
