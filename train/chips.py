"""Peak arithmetic rates of chips, for model FLOPs utilisation (MFU)."""

# Dense bfloat16 operations a second for each JAX device, by `device_kind`.
# TPU: Google Cloud TPU documentation, per chip; a v4 or v5p chip is one
# device, a TPU7x chip two. GPU: NVIDIA data sheets, without sparsity.
_BF16_PEAKS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'TPU7x': 1153.5e12,
  'NVIDIA A100-SXM4-40GB': 312e12,
  'NVIDIA A100-SXM4-80GB': 312e12,
  'NVIDIA H100 80GB HBM3': 989e12,
  'NVIDIA H200': 989e12,
  'NVIDIA B200': 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Peak bfloat16 operations a second of one device; None: not known."""
  return _BF16_PEAKS.get(device_kind)
