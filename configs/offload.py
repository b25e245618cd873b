"""Fields of what lies in the memory of the hosts; a part of configs/base.py."""

from ml_collections import ConfigDict


def get_offload() -> ConfigDict:
  """What lies in the host's memory while it is not used, and its defaults."""
  offload = ConfigDict()
  # The parameters and their gradients: each layer's come to the device for it.
  offload.parameters = False
  # Moments and the moving average: they come to the device for the update.
  offload.optimizer = False
  # Activations that the backward pass finds there, in place of recomputing them
  # or keeping them on the device as model.remat says (which is not 'none'):
  # 'layer_input', 'query', 'key', 'value', 'context', 'attention_out',
  # 'mlp_up', 'mlp_gate', 'mlp_out'.
  offload.activations = ()
  return offload
