"""Classes of media, by a trained classifier or by prompts, and how they are scored."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mplug2_jax.batching import Encoded, Shapes
from mplug2_jax.classifier import MediaClassifier
from mplug2_jax.data.examples import Example, labels_of
from mplug2_jax.evaluation.askers import Asker
from mplug2_jax.evaluation.labels import pearson, spearman
from mplug2_jax.evaluation.results import Record
from mplug2_jax.evaluation.usable import MAX_BAD_SHARE, unusable


class ClassAsker(Asker):
    """The classes of the examples that have a label of their own.

    Args:
      max_bad_share: of them, whose label may be none of the classes.
    """

    task, annotated = "classification", "labels of media"

    def __init__(
        self, classifier: MediaClassifier, max_bad_share: float = MAX_BAD_SHARE
    ):
        super().__init__(classifier.predictor)
        self.classifier, self.max_bad_share = classifier, max_bad_share

    def count(self, example: Example) -> int:
        return min(1, len(labels_of(example, texts=False)))

    @property
    def texts(self) -> bool:
        return False

    @property
    def num_media(self) -> int:
        return self.classifier.num_media

    def unusable(self, examples: Sequence[Example]) -> dict[str, str]:
        """Also those whose label is outside the set, by id.

        Raises:
          ValueError: they are more than `max_bad_share`.
        """
        labels = {e.id: labels_of(e, texts=False) for e in examples if self.count(e)}
        bad = unusable(labels, self.classifier.classes, self.max_bad_share)
        return super().unusable(examples) | bad

    def ask(
        self, encoded: Encoded, examples: Sequence[Example], shapes: Shapes
    ) -> list[list[Record]]:
        scores = self.classifier.scores_encoded(encoded)
        return [
            [self._record(example, row)] if self.count(example) else []
            for example, row in zip(examples, scores, strict=True)
        ]

    def _record(self, example: Example, scores: np.ndarray) -> Record:
        truth, classes = tuple(labels_of(example, texts=False)), self.classifier.classes
        shared: dict[str, Any] = {"id": example.id, "example": example.id}
        if not classes:
            value = float(scores[0])
            return Record(prediction=str(value), truth=truth, score=value, **shared)
        order = np.argsort(-scores, kind="stable")  # of equal ones the first leads
        names = [classes[i] for i in order]
        place = min(names.index(label) for label in truth if label in classes)
        return Record(
            prediction=names[0],
            truth=truth,
            score=float(np.exp(scores[order[0]])),
            true_score=float(np.exp(scores[order[place]])),
            rank=place,
            **shared,
        )

    def score(self, records: Sequence[Record]) -> dict[str, Any]:
        return score_classes(records, len(self.classifier.classes))


class PromptAsker(ClassAsker):
    """The classes that prompts name."""

    task = "zero_shot_classification"


def score_classes(records: Sequence[Record], classes: int) -> dict[str, Any]:
    """Scores classes of media.

    Args:
      classes: how many there are; 0 in regression.

    Returns:
      accuracy: share of the media whose likeliest class is right (top-1).
      top_5: share of those that have it among the five likeliest; of more than five.
      n: media. In regression pearson and spearman stand in place of the shares.
    """
    if not classes:
        said = [float(record.prediction) for record in records]
        true = [float(record.truth[0]) for record in records]
        scores = {"pearson": pearson(said, true), "spearman": spearman(said, true)}
        return scores | {"n": len(records)}
    ranks = np.array([record.rank for record in records])
    scores = {"accuracy": float(np.mean(ranks == 0))}
    if classes > 5:
        scores["top_5"] = float(np.mean(ranks < 5))
    return scores | {"n": len(records)}
