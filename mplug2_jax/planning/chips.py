"""What accelerators can do at most: memory, matrix units, bandwidths.

TPU figures: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, tables "Key specifications",
read in November 2026. GPU figures: NVIDIA's data sheets of the SXM boards, without
sparsity. Links are counted in one direction, all links of a chip together: half of
the "bidirectional" bandwidth of the tables.
"""

import dataclasses
from typing import Any

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one device.

    Attributes:
      kind: how JAX's `device_kind` begins.
      hbm_bytes: memory.
      flops: dense bfloat16 FLOP/s.
      hbm_bandwidth: bytes/s between memory and chip.
      link_bandwidth: bytes/s that leave the chip for others of its slice or host.
      network_bandwidth: bytes/s to other slices or hosts, a chip's share.
      hosted: devices of a host; 0 for a TPU, whose topology says it.
    """

    name: str
    kind: str
    hbm_bytes: float
    flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    hosted: int = 0

    @property
    def is_tpu(self) -> bool:
        return not self.hosted


# Network of TPUs: 6.4 and 25.6 Tbit/s per pod of 256 v5e and v6e, 50 Gbit/s per v5p;
# v4's is taken like v5e's. Of GPUs: one 200 or 400 Gbit/s adapter each.
_ALL = (
    Chip("v4", "TPU v4", 32 * GIB, 275e12, 1.228e12, 300e9, 3.1e9),
    Chip("v5e", "TPU v5 lite", 16 * GIB, 197e12, 0.819e12, 200e9, 3.1e9),
    Chip("v5p", "TPU v5", 95 * GIB, 459e12, 2.765e12, 600e9, 6.25e9),
    Chip("v6e", "TPU v6 lite", 32 * GIB, 918e12, 1.638e12, 400e9, 12.5e9),
    Chip("a100", "NVIDIA A100", 80e9, 312e12, 2.039e12, 300e9, 25e9, 8),
    Chip("h100", "NVIDIA H100", 80e9, 989.4e12, 3.35e12, 450e9, 50e9, 8),
    Chip("h100pcie", "NVIDIA H100 PCIe", 80e9, 756e12, 2.0e12, 64e9, 50e9, 8),
    Chip("h200", "NVIDIA H200", 141e9, 989.4e12, 4.8e12, 450e9, 50e9, 8),
)
CHIPS = {chip.name: chip for chip in _ALL}


def of_device(device: Any) -> Chip | None:
    """The chip that a `jax.Device` is, for its peaks; None for one not in the table."""
    kind = device.device_kind
    matching = [chip for chip in _ALL if kind.startswith(chip.kind)]
    return max(matching, key=lambda chip: len(chip.kind), default=None)
