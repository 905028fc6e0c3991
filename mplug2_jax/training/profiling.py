"""A window of steps recorded for TensorBoard's profiler, on request."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax


@dataclasses.dataclass
class ProfileWindow:
    """Records steps `first` to `last` under `directory`; a window of 0, 0 none."""

    first: int
    last: int
    directory: Path
    running: bool = False

    @classmethod
    def parse(cls, window: str, directory: Path) -> "ProfileWindow":
        """Reads "START:STOP", both steps included; "" records nothing.

        Raises:
          ValueError: it is something else.
        """
        if not window:
            return cls(0, 0, directory)
        found = re.fullmatch(r"(\d+):(\d+)", window)
        first, last = map(int, found.groups()) if found else (0, 0)
        if not 1 <= first <= last:
            raise ValueError(
                f"config.profile is {window!r}; expected START:STOP with steps from 1 "
                "on, for example 10:15."
            )
        return cls(first, last, directory)

    def before(self, step: int) -> None:
        """Starts when its first step, or after a resume a later one, is due."""
        if self.first <= step <= self.last and not self.running:
            jax.profiler.start_trace(str(self.directory))
            self.running = True

    def after(self, step: int, results: Any) -> None:
        """Ends when the last step's results are there."""
        if self.running and step >= self.last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes what was recorded."""
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
