"""What lies in the host's memory is not on the chip: compiled for a TPU."""

import cases
import pytest
from test_plan_budgets import MODEL, libtpu

from train.planning import report, topologies
from train.planning.cache import Cache
from train.planning.plan import plan_tpus

__all__ = ['libtpu']

# Activations of 16 rows a chip are far larger than the state.
LARGE = MODEL | {
  'batch_size': 128, 'model.remat': 'projections', 'mesh.fsdp': 8,
}  # fmt: skip
KEPT = (
  'layer_input', 'query', 'key', 'value', 'context', 'attention_out', 'mlp_up',
  'mlp_gate', 'mlp_out',
)  # fmt: skip


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
  plain = planned()
  found = planned(**{'offload.optimizer': True, 'offload.activations': KEPT})
  assert plain.host == 0
  # Counters are left.
  assert found.optimizer < 64
  # Layers, rows, positions; the widths of KEPT; bfloat16.
  kept = 4 * 16 * 512 * (3 * 512 + 2 * 512 + 2 * 256 + 2 * 1536) * 2
  assert found.host >= plain.optimizer + kept
  assert found.temporaries < plain.temporaries - 0.8 * kept
  assert found.needed < plain.needed - plain.optimizer - 0.8 * kept
  assert 'host memory a device' in report.memory_text(found)
  assert 'host memory a device' not in report.memory_text(plain)
