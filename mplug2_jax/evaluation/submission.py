"""Predictions as the evaluation servers of VQA, COCO and NoCaps take them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mplug2_jax.evaluation.results import Record

# By task: what names the thing that was asked about, and what was said.
KEYS = {"qa": ("question_id", "answer"), "caption": ("image_id", "caption")}


def submission(task: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """One object for each record, as visualqa.org and cocodataset.org describe them.

    Ids that are whole numbers are written as such.

    Raises:
      ValueError: there is no such format for the task, or an id occurs twice.
    """
    if task not in KEYS:
        raise ValueError(
            f"Predictions of task {task!r} have no official format; choose one of "
            f"{', '.join(KEYS)}."
        )
    counted = Counter(record.id for record in records)
    if twice := [i for i, count in counted.items() if count > 1]:
        raise ValueError(
            f"{len(twice)} ids occur more than once, the first is {twice[0]!r}; give "
            "each question an id of its own."
        )
    name, said = KEYS[task]
    return [{name: _id(record.id), said: record.prediction} for record in records]


def _id(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
