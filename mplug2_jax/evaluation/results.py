"""What was measured: predictions beside annotations, and their scores."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

COUNTS = ("n", "median_rank")  # all other numbers are shares


@dataclasses.dataclass(frozen=True)
class Record:
    """One thing that was asked of a model, beside what was annotated.

    Attributes:
      id: of the example; of a question, phrase or text its own, where it has one.
      prediction: as a text.
      truth: all references; of a question its answers, best known first.
      score: see `Hypothesis`; of a class its probability.
      question: what was asked: the question, phrase or text.
      kind: of the question.
      example: id of the example, by which its medium is found.
      votes: answers of several people to a question, each as often as it was given.
      box, true_box: x0, y0, x1, y1 as shares of the image, of a phrase.
      rank: of the true class among all by their scores, from 0.
      true_score: of a class, the true one's probability.
    """

    id: str
    prediction: str
    truth: tuple[str, ...]
    score: float
    question: str | None = None
    kind: str | None = None
    example: str = ""
    votes: tuple[str, ...] = ()
    box: tuple[float, ...] = ()
    true_box: tuple[float, ...] = ()
    rank: int | None = None
    true_score: float | None = None


@dataclasses.dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
      metrics: scores by task.
      records: by task, in the order of the examples.
      skipped: why an example's medium could not be used, by its id; it counts nowhere.
      seconds: wall time, compilation included.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    records: Mapping[str, tuple[Record, ...]]
    skipped: Mapping[str, str]
    seconds: float

    @property
    def captions(self) -> tuple[Record, ...]:
        return self.records.get("caption", ())

    @property
    def answers(self) -> tuple[Record, ...]:
        return self.records.get("qa", ())

    def flat_metrics(self) -> dict[str, float]:
        """All numbers under one-level names: "caption/cider", "qa/motion/accuracy"."""
        flat = {}
        for task, scores in self.metrics.items():
            kinds = scores.get("by_kind", {})
            flat |= {f"{task}/{k}": v for k, v in scores.items() if k != "by_kind"}
            for kind, its in kinds.items():
                flat |= {f"{task}/{kind}/{name}": value for name, value in its.items()}
        return flat

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def to_json(values: Any, indent: int | None = None) -> str:
    """Plain values as JSON, which knows no NaN and no Infinity: null in their place."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def shown(name: str, value: float, digits: int) -> str:
    """A number as tables have it: a count as it is, a share times 100.

    Args:
      name: of the metric, behind those of its task and kind if it has some.
    """
    if name.rsplit("/", 1)[-1] in COUNTS:
        return f"{value:g}"
    return f"{100 * value:.{digits}f}"
