"""Devices that are not there: a TPU slice's, from the compiler that knows them."""

import dataclasses
import math
import os
import re
from typing import Any

from mplug2_jax.planning.chips import CHIPS, Chip

_NAME = re.compile(r"(?:(\d+)x)?([a-z]\w*):(\d+(?:x\d+)*)")


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices by name.

    Attributes:
      shape: chips along each axis of a slice; for GPUs their number.
      slices: slices joined by the data center's network.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """Reads `v5e:16x16`, two slices `2xv5e:16x16`, or GPUs `h100:8`.

        Raises:
          ValueError: it is none of these.
        """
        match = _NAME.fullmatch(name)
        if match is None or match[2] not in CHIPS:
            raise ValueError(
                f"The topology {name!r} is none of ours; expected CHIP:SHAPE such as "
                f"v5e:16x16, v4:4x4x4 or h100:8, with a chip of {', '.join(CHIPS)}."
            )
        chip = CHIPS[match[2]]
        shape = tuple(map(int, match[3].split("x")))
        axes = 1 if not chip.is_tpu else 3 if chip.name in ("v4", "v5p") else 2
        if len(shape) != axes or not all(shape) or match[1] == "0":
            example = {1: "8", 2: "4x8", 3: "4x4x4"}[axes]
            raise ValueError(
                f"The topology {name!r} has the shape {match[3]}; {chip.name} has "
                f"{axes} {'axes' if axes > 1 else 'axis'}, for example "
                f"{chip.name}:{example}."
            )
        return cls(chip, shape, int(match[1] or 1))

    @property
    def size(self) -> int:
        """Devices in all."""
        return self.slices * math.prod(self.shape)

    @property
    def slice_size(self) -> int:
        """Devices that are joined by fast links: of a slice, or of a GPU host."""
        chips = math.prod(self.shape)
        return min(chips, self.chip.hosted) if self.chip.hosted else chips

    def prepare(self) -> None:
        """Sets the environment; to be called before JAX is imported.

        Nothing here looks for a TPU or its metadata: the compiler is told.
        """
        os.environ["JAX_PLATFORMS"] = "cpu"
        if self.chip.is_tpu:
            cores = 2 if len(self.shape) == 3 else 1  # v4-16 has 8 chips
            os.environ |= {
                "TPU_SKIP_MDS_QUERY": "1",
                "TPU_ACCELERATOR_TYPE": f"{self.chip.name}-{self.size * cores}",
                "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_WORKER_ID": "0",
                # Several plans at a time: none of them opens a device.
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
                "TPU_STDERR_LOG_LEVEL": "3",
                "TPU_MIN_LOG_LEVEL": "3",
            }
        else:
            devices = f" --xla_force_host_platform_device_count={self.size}"
            os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + devices

    def devices(self) -> list[Any]:
        """Device descriptions to build a mesh of; GPUs are played by CPU devices.

        Raises:
          ValueError: the compiler is not installed, or has no such topology.
        """
        import jax
        from jax.experimental import topologies

        if not self.chip.is_tpu:
            found = jax.devices("cpu")
            if len(found) < self.size:
                raise ValueError(
                    f"{self.chip.name}:{self.size} is planned on as many simulated CPU "
                    f"devices, of which this process has {len(found)}; start it with "
                    f"--xla_force_host_platform_device_count={self.size} in XLA_FLAGS."
                )
            return found[: self.size]
        shape = "x".join(map(str, self.shape))
        options: dict[str, Any] = {}
        if self.chip.name == "v4":  # a chip's two cores are one device
            options["chip_config_name"] = "megacore"
        if math.prod(self.shape) < 4:
            options["chips_per_host_bounds"] = [*self.shape, 1][:3]
        if self.slices > 1:
            options["num_slices"] = self.slices
        try:
            described = topologies.get_topology_desc(
                f"{self.chip.name}:{shape}", platform="tpu", **options
            )
        except (RuntimeError, ImportError, ModuleNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"The TPU compiler cannot describe {self.chip.name}:{shape}: {reason}; "
                "choose a shape that is offered, and have libtpu installed "
                "(pip install -e '.[plan]')."
            ) from error
        return list(described.devices)
