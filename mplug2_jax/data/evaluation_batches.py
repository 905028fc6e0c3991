"""Every example evaluated once, on any number of processes, keyed by its id."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True)
class Window:
    """Rows of one evaluation step of one process.

    Attributes:
      indices: places of the examples, as many as the step has rows; the places of
        padding repeat an example.
      mask: which rows are examples.
    """

    indices: tuple[int, ...]
    mask: Bool[np.ndarray, "B"]

    @property
    def examples(self) -> tuple[int, ...]:
        """The places without those of padding."""
        return tuple(i for i, real in zip(self.indices, self.mask, strict=True) if real)


def windows(
    count: int, size: int, process_index: int = 0, process_count: int = 1
) -> list[Window]:
    """The steps of one process over `count` examples, `size` rows each.

    Every process has as many steps, so that each step may be one program on all of
    them; each example is in one row of one process.

    Raises:
      ValueError: sizes that are not positive, or an index outside.
    """
    if count < 1 or size < 1 or not 0 <= process_index < process_count:
        raise ValueError(
            f"cannot cut {count} examples into steps of {size} rows for process "
            f"{process_index} of {process_count}; expected positive numbers"
        )
    steps = -(-count // (size * process_count))
    rows = np.arange(steps * process_count * size)
    rows = rows.reshape(steps, process_count, size)[:, process_index]
    return [Window(tuple(np.minimum(r, count - 1).tolist()), r < count) for r in rows]


def gather_by_id(mine: Mapping[str, Any]) -> dict[str, Any]:
    """The results of all processes by id, the same on each.

    Args:
      mine: this process's; values that JSON can hold.

    Raises:
      ValueError: two processes have the same id.
    """
    import jax

    if jax.process_count() == 1:
        return dict(mine)
    return merged(_exchange(json.dumps(dict(mine)).encode()))


def of_first(mine: np.ndarray) -> np.ndarray:
    """Process 0's array, on each: others may have computed it with other roundings."""
    import jax
    from jax.experimental import multihost_utils

    from mplug2_jax.sharding.distributed import meet

    if jax.process_count() == 1:
        return mine
    meet("of the first")
    return np.asarray(multihost_utils.broadcast_one_to_all(mine))


def merged(parts: Sequence[bytes]) -> dict[str, Any]:
    """JSON objects as one.

    Raises:
      ValueError: two have the same key.
    """
    everything: dict[str, Any] = {}
    for part in map(json.loads, parts):
        if twice := everything.keys() & part.keys():
            raise ValueError(
                f"Two processes evaluated {min(twice)!r}; each example must be in the "
                "windows of one."
            )
        everything |= part
    return everything


def _exchange(data: bytes) -> list[bytes]:
    """The bytes of every process, on every process."""
    from jax.experimental import multihost_utils

    from mplug2_jax.sharding.distributed import meet

    # Shares take unequally long, and an exchange on CPUs waits for half a minute only.
    meet("exchange")
    lengths = multihost_utils.process_allgather(np.array([len(data)], np.int32))
    lengths = np.ravel(lengths)
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        row[:length].tobytes()
        for row, length in zip(rows.reshape(len(lengths), -1), lengths, strict=True)
    ]
