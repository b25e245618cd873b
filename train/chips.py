"""The chips that Meshwork plans for: one table, with its sources.

Figures are of one chip, without sparsity. A JAX device is a chip, but for
TPU7x, where a chip is two devices.

Sources. TPU peaks, HBM and network: the pages of each chip in the Cloud TPU
documentation (docs.cloud.google.com/tpu/docs/v5e, v5p, v6e, tpu7x; read 2026).
Bandwidth of one ICI link in one direction: jax-ml.github.io/scaling-book,
chapter 2; of TPU7x, 1,200 GB/s in both directions over 6 links. What a program
may use of the HBM: the limit in libtpu 0.0.42.1's own message when it refuses a
program. Clocks: the peak divided by the operations of the matrix units in a
cycle. GPUs: NVIDIA's data sheets of A100, H100, H200 and B200 (SXM); their
network is the usual one adapter a GPU (200 Gb/s for A100, 400 Gb/s beyond).

What large bfloat16 products reach (matmul). GPUs: the table of maximum
achievable matmul FLOPS in github.com/stas00/ml-engineering (A100 267.9, H100
and H200 794.5, B200 1,745 TFLOPS). TPU v6e and 7x: by the clock of the device,
8,192 x 8,192 x 8,192 and the mean of twelve up to 16,384 x 16,384 x 18,432
(github.com/yangwhale/gpu-tpu-pedia, tpu/v7_perf, February 2026): 728 TFLOPS,
and 1,099 of each of two devices. Of v4, v5e and v5p no measurement was found:
what libtpu 0.0.42.1 expects of the same product (benchmarks/plan_products.py),
which for v6e and 7x is 0.89 and 0.93 of the peak, and measured 0.79 and 0.95.

Host links, in one direction: TPUs, scaling-book, chapter 2 (15 GB/s a chip,
v6e 32; none is published for 7x, taken as v6e's); GPUs, PCIe 4.0 and 5.0 x16.

Collectives of a TPU run beside the TensorCore. Those of a GPU take
multiprocessors, memory and power from computing (hides): Lee et al. 2025 (arXiv
2507.03114) measure on A100 and H100 that computing takes 1.189 times as long
beside them on average, and that one after the other takes 1.102 times as long
as both at once. So the collectives took 1.102 x 1.189 - 1 = 0.31 of computing,
0.189 of which came back as slower computing: they hide 1 - 0.189 / 0.31 = 0.39.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One kind of chip; bytes, seconds and operations.

  Attributes:
    name: what --topology calls it.
    device_kinds: what JAX calls its devices.
    peaks: operations a second by type: 'bfloat16', and 'int8', 'fp8' where
      the chip is faster with them than it is with bfloat16.
    devices: JAX devices of a chip.
    hbm: memory.
    usable_hbm: what a program and its arrays may fill of it.
    hbm_bandwidth: bytes a second.
    ici_links: links to other chips: of the torus, or one NVLink switch port.
    ici_bandwidth: bytes a second of one link in one direction.
    dcn_bandwidth: bytes a second that leave a chip for other slices or hosts.
    host_bandwidth: bytes a second to the memory of the host, in one direction.
    matmul: bfloat16 operations a second that large products reach.
    matrix_side: of a matrix unit: narrower products leave a part of it idle.
    hides: part of a collective's time that costs computing nothing, if there
      is enough to compute meanwhile.
    clock: cycles a second of the TensorCore; 0 for a GPU.
    dimensions: of the torus; 0 for a GPU.
    wraps_at: sizes of a dimension that is closed to a ring: a multiple of this.
  """

  name: str
  device_kinds: tuple[str, ...]
  peaks: dict[str, float]
  devices: int = 1
  hbm: float
  usable_hbm: float
  hbm_bandwidth: float
  ici_links: int
  ici_bandwidth: float
  dcn_bandwidth: float
  host_bandwidth: float
  matmul: float
  matrix_side: int
  hides: float = 1.0
  clock: float = 0.0
  dimensions: int = 0
  wraps_at: int = 0

  @property
  def is_tpu(self) -> bool:
    """Whether libtpu compiles for it."""
    return self.dimensions > 0

  @property
  def device_peak(self) -> float:
    """Bfloat16 operations a second of one JAX device."""
    return self.peaks['bfloat16'] / self.devices


_TPUS = (
  Chip(
    name='v4',
    device_kinds=('TPU v4',),
    peaks={'bfloat16': 275e12},
    hbm=32 * GIB,
    usable_hbm=30.75 * GIB,
    hbm_bandwidth=1228e9,
    ici_links=6,
    ici_bandwidth=45e9,
    # Not published; taken as that of v5p.
    dcn_bandwidth=6.25e9,
    host_bandwidth=15e9,
    matmul=255e12,
    matrix_side=128,
    clock=1.05e9,
    dimensions=3,
    wraps_at=4,
  ),
  Chip(
    name='v5e',
    device_kinds=('TPU v5 lite', 'TPU v5e'),
    peaks={'bfloat16': 197e12, 'int8': 394e12},
    hbm=16 * GIB,
    usable_hbm=15.75 * GIB,
    hbm_bandwidth=819e9,
    ici_links=4,
    ici_bandwidth=45e9,
    dcn_bandwidth=3.125e9,
    host_bandwidth=15e9,
    matmul=192e12,
    matrix_side=128,
    clock=1.5e9,
    dimensions=2,
    wraps_at=16,
  ),
  Chip(
    name='v5p',
    device_kinds=('TPU v5', 'TPU v5p'),
    peaks={'bfloat16': 459e12, 'int8': 918e12},
    hbm=95.74 * GIB,
    usable_hbm=95.73 * GIB,
    hbm_bandwidth=2765e9,
    ici_links=6,
    ici_bandwidth=90e9,
    dcn_bandwidth=6.25e9,
    host_bandwidth=15e9,
    matmul=448e12,
    matrix_side=128,
    clock=1.75e9,
    dimensions=3,
    wraps_at=4,
  ),
  Chip(
    name='v6e',
    device_kinds=('TPU v6 lite', 'TPU v6e'),
    peaks={'bfloat16': 918e12, 'int8': 1836e12},
    hbm=32 * GIB,
    usable_hbm=31.24 * GIB,
    hbm_bandwidth=1638e9,
    ici_links=4,
    ici_bandwidth=90e9,
    dcn_bandwidth=12.5e9,
    host_bandwidth=32e9,
    matmul=728e12,
    matrix_side=256,
    clock=1.75e9,
    dimensions=2,
    wraps_at=16,
  ),
  Chip(
    name='tpu7x',
    device_kinds=('TPU7x',),
    peaks={'bfloat16': 2307e12, 'fp8': 4614e12},
    devices=2,
    hbm=192 * GIB,
    usable_hbm=2 * 94.74 * GIB,
    hbm_bandwidth=7380e9,
    ici_links=6,
    ici_bandwidth=100e9,
    dcn_bandwidth=12.5e9,
    host_bandwidth=32e9,
    matmul=2 * 1099e12,
    matrix_side=256,
    clock=2.2e9,
    dimensions=3,
    wraps_at=4,
  ),
)


def _gpu(
  name: str,
  kinds: tuple[str, ...],
  peak: float,
  hbm: float,
  hbm_bandwidth: float,
  nvlink: float,
  network: float,
  host: float,
  matmul: float,
  **other_peaks: float,
) -> Chip:
  """A GPU: NVLink in one direction, and a tenth of the memory kept free.

  The tenth is what the allocator, cuDNN and NCCL take beside the program.
  """
  return Chip(
    name=name,
    device_kinds=kinds,
    peaks={'bfloat16': peak, **other_peaks},
    hbm=hbm,
    usable_hbm=0.9 * hbm,
    hbm_bandwidth=hbm_bandwidth,
    ici_links=1,
    ici_bandwidth=nvlink,
    dcn_bandwidth=network,
    host_bandwidth=host,
    matmul=matmul,
    # A warp group of Hopper multiplies at least 64 wide; no head is narrower.
    matrix_side=64,
    hides=0.39,
  )


_GPUS = (
  _gpu(
    'a100',
    ('NVIDIA A100-SXM4-80GB', 'NVIDIA A100-SXM4-40GB'),
    312e12, 80 * GIB, 2039e9, 300e9, 25e9, 32e9, 267.9e12, int8=624e12,
  ),
  _gpu(
    'h100',
    ('NVIDIA H100 80GB HBM3',),
    989e12, 79.6 * GIB, 3350e9, 450e9, 50e9, 64e9, 794.5e12,
    int8=1979e12, fp8=1979e12,
  ),
  _gpu(
    'h200',
    ('NVIDIA H200',),
    989e12, 140.4 * GIB, 4800e9, 450e9, 50e9, 64e9, 794.5e12,
    int8=1979e12, fp8=1979e12,
  ),
  _gpu(
    'b200',
    ('NVIDIA B200',),
    2250e12, 179 * GIB, 8000e9, 900e9, 50e9, 64e9, 1745e12,
    int8=4500e12, fp8=4500e12,
  ),
)  # fmt: skip

CHIPS = {chip.name: chip for chip in (*_TPUS, *_GPUS)}
_BY_KIND = {kind: chip for chip in CHIPS.values() for kind in chip.device_kinds}


def chip_of(device_kind: str) -> Chip | None:
  """The chip that a JAX device belongs to; None: not in the table."""
  return _BY_KIND.get(device_kind)


def peak_flops(device_kind: str) -> float | None:
  """Peak bfloat16 operations a second of one device; None: not known."""
  chip = chip_of(device_kind)
  return None if chip is None else chip.device_peak
