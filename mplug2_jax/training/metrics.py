"""Where a run's numbers go: the terminal, `metrics.jsonl` and TensorBoard."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter


class MetricWriter:
    """Writes scalars under a workdir and prints progress with rate and time left.

    Attributes:
      total: steps of the whole run.
      examples_per_step: videos per step, for the rate.
    """

    def __init__(self, workdir: Path, total: int, start: int, examples_per_step: int):
        self.total, self.examples_per_step = total, examples_per_step
        self.board = SummaryWriter(str(workdir / "tensorboard"))
        self.lines = (workdir / "metrics.jsonl").open("a", buffering=1)
        self._last = (start, time.monotonic())

    def progress(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records training metrics of `step` and prints a line."""
        then, since = self._last
        now = time.monotonic()
        self._last = (step, now)
        rate = (step - then) / max(now - since, 1e-9)
        values = {**metrics, "examples_per_second": rate * self.examples_per_step}
        self.write(step, {f"train/{name}": value for name, value in values.items()})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        left = duration((self.total - step) / max(rate, 1e-9))
        print(f"step {step}/{self.total}  {shown}  left {left}", flush=True)

    def pause(self) -> None:
        """Restarts the clock after work that is not training."""
        self._last = (self._last[0], time.monotonic())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records scalars without printing."""
        values = {name: float(np.asarray(value)) for name, value in values.items()}
        self.lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.lines.close()
        self.board.close()


def duration(seconds: float) -> str:
    """Seconds as "1h 02m", "3m 04s" or "5s"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"
