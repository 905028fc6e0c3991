"""Where a run's numbers go: the terminal, `metrics.jsonl` and TensorBoard."""

import contextlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

LINES = "metrics.jsonl"


class MetricWriter:
    """Writes scalars under a workdir and prints progress with rate and time left.

    Lines of steps after `start`, which a run that was killed has left, are dropped:
    they are written again.

    Attributes:
      total: steps of the whole run.
      seen: examples so far, by kind, earlier runs of the workdir included.
      peak: FLOP/s of all devices together; None where it is not known.
      active: whether this is the one of several processes that writes.
    """

    def __init__(
        self,
        workdir: Path,
        total: int,
        start: int = 0,
        seen: Mapping[str, int] | None = None,
        peak: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.peak, self._clock = total, peak, clock
        self.active = jax.process_index() == 0
        self.seen = Counter(seen or {})
        self._pending: list[tuple[str, Mapping[str, Any]]] = []
        self._restart(start)
        if self.active:
            _drop_after(workdir / LINES, start)
            self.lines = (workdir / LINES).open("a", buffering=1)
            board, purge = str(workdir / "tensorboard"), start + 1 if start else None
            self.board = SummaryWriter(board, purge_step=purge)

    def add(
        self, kind: str, metrics: Mapping[str, Any], examples: int, flops: float = 0
    ) -> None:
        """Takes a step's metrics, which may still be on their way from the device.

        Args:
          kind: of the batch; "" where a run has only one.
          flops: of the step; 0 where they were not counted.
        """
        self._pending.append((kind, metrics))
        self.seen[kind] += examples
        self._examples += examples
        self._flops += flops

    def progress(self, step: int) -> dict[str, float]:
        """Records the means since the last call, and prints a line; {} of no steps."""
        if not self._pending:
            return {}
        values = means(self._pending)
        steps, seconds = step - self._since[0], self._clock() - self._since[1]
        seconds = max(seconds, 1e-9)
        values["examples_per_second"] = self._examples / seconds
        if self.peak and self._flops:
            values["mfu"] = self._flops / seconds / self.peak
        seen = {f"examples/{kind or 'all'}": n for kind, n in self.seen.items()}
        self.write(step, {f"train/{k}": v for k, v in values.items()} | seen)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        left = duration((self.total - step) * seconds / max(steps, 1))
        self.say(f"step {step}/{self.total}  {shown}  left {left}")
        self._restart(step)
        return values

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Work inside the block is not training: no rate counts its time."""
        begin = self._clock()
        try:
            yield
        finally:
            step, since = self._since
            self._since = step, since + self._clock() - begin

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records scalars without printing."""
        if not self.active:
            return
        values = {name: float(np.asarray(value)) for name, value in values.items()}
        self.lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def say(self, line: str) -> None:
        """Prints, on the process that writes."""
        if self.active:
            print(line, flush=True)

    def close(self) -> None:
        if self.active:
            self.lines.close()
            self.board.close()

    def _restart(self, step: int) -> None:
        self._since = (step, self._clock())
        self._pending.clear()
        self._examples, self._flops = 0, 0.0


def means(steps: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, float]:
    """Means of (kind, metrics) pairs as "KIND/NAME", or "NAME" where the kind is "".

    Steps that were skipped, because their loss was not finite, count in "skipped"
    alone, which is a sum.
    """
    values: dict[str, list[float]] = defaultdict(list)
    skipped = 0.0
    for kind, metrics in steps:
        numbers = {name: float(np.asarray(value)) for name, value in metrics.items()}
        numbers.pop("skipped_in_a_row", None)
        if numbers.pop("skipped", 0.0):
            skipped += 1
            continue
        prefix = f"{kind}/" if kind else ""
        for name, value in numbers.items():
            values[prefix + name].append(value)
    result = {name: float(np.mean(found)) for name, found in values.items()}
    return result | ({"skipped": skipped} if skipped else {})


def duration(seconds: float) -> str:
    """Seconds as "1h 02m", "3m 04s" or "5s"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def _drop_after(path: Path, step: int) -> None:
    """Removes lines of later steps, and a last line that was cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    os.replace(partial, path)
