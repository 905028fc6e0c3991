"""What a suite has measured, and the rows of its table."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mplug2_jax.data.examples import Example
from mplug2_jax.data.records import is_prepared
from mplug2_jax.evaluation.results import Results, shown

HEADS = ("data", "split", "task", "n", "numbers, shares times 100", "how")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured on one data set.

    Attributes:
      data: its path.
      examples: to show media of; none of texts.
      how: of tasks, in words: what their numbers depend on beside model and data.
    """

    data: str
    split: str
    examples: Sequence[Example]
    results: Results
    how: Mapping[str, str]

    @property
    def name(self) -> str:
        """A data set's name: of a prepared one without its version."""
        place = Path(self.data)
        return place.parent.name if is_prepared(self.data) else place.name


def rows(measured: Sequence[Measured]) -> Iterator[tuple[str, ...]]:
    """Cells of the table, in the order of `HEADS`; kinds follow their task."""
    for its in measured:
        for task, metrics in its.results.metrics.items():
            how, records = its.how.get(task, ""), its.results.records.get(task, ())
            kinds = metrics.get("by_kind", {}).items()
            parts = {task: metrics} | {f"{task}/{kind}": own for kind, own in kinds}
            for name, own in parts.items():
                n = own.get("n", len(records))
                yield (its.name, its.split, name, f"{n:g}", _numbers(own), how)


def _numbers(metrics: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {shown(name, value, 1)}"
        for name, value in metrics.items()
        if isinstance(value, int | float) and name != "n"
    )


def left_out(measured: Sequence[Measured]) -> dict[str, str]:
    """What could not be used, and why, each once, by data set and id."""
    return {
        f"{its.name}: {id_}": reason
        for its in measured
        for id_, reason in its.results.skipped.items()
    }
