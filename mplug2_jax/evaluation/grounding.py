"""Visual grounding: which boxes a model gives to phrases, and how they are scored."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mplug2_jax.batching import Encoded, Shapes
from mplug2_jax.boxes import box_accuracy, iou
from mplug2_jax.data.examples import Box, Example, Region
from mplug2_jax.evaluation.askers import Asker
from mplug2_jax.evaluation.results import Record
from mplug2_jax.grounder import Grounded, Grounder
from mplug2_jax.predictor import Predictor


class BoxAsker(Asker):
    """Boxes of the phrases that the examples' regions name."""

    task, annotated = "grounding", "regions"

    def __init__(self, predictor: Predictor):
        super().__init__(predictor)
        self.grounder = Grounder(predictor)

    def count(self, example: Example) -> int:
        return len(example.regions)

    def ask(
        self, encoded: Encoded, examples: Sequence[Example], shapes: Shapes
    ) -> list[list[Record]]:
        phrases = [[region.phrase for region in e.regions] for e in examples]
        found = self.grounder.ground_encoded(encoded, phrases, shapes)
        return [
            [
                _record(example, region, box)
                for region, box in zip(example.regions, its, strict=True)
            ]
            for example, its in zip(examples, found, strict=True)
        ]

    def score(self, records: Sequence[Record]) -> dict[str, Any]:
        return score_boxes(records)


def score_boxes(records: Sequence[Record]) -> dict[str, Any]:
    """Scores the boxes of one split, in shares of their images.

    Shares of width and height change areas, not their ratios: values are those of boxes
    in pixels.

    Returns:
      accuracy_50: share of the boxes whose IoU with the true one is >= 0.5.
      mean_iou: mean of the IoUs.
      n: phrases.

    Raises:
      ValueError: there are none, or a true box has no area.
    """
    found, true = (
        np.array([getattr(r, name) for r in records]) for name in ("box", "true_box")
    )
    return {
        "accuracy_50": box_accuracy(found, true),
        "mean_iou": float(iou(found, true).mean()),
        "n": len(records),
    }


def _record(example: Example, region: Region, found: Grounded) -> Record:
    return Record(
        id=example.id if region.id is None else region.id,
        prediction=_text(found.box),
        truth=(_text(region.box),),
        score=found.probability,
        question=region.phrase,
        example=example.id,
        box=found.box,
        true_box=region.box,
    )


def _text(box: Box) -> str:
    return " ".join(f"{value:.3f}" for value in box)
