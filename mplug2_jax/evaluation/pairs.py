"""Texts about media: their classes by a model, beside the annotated ones."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mplug2_jax.batching import Encoded, Shapes
from mplug2_jax.data.examples import Example, Label
from mplug2_jax.evaluation.askers import Asker
from mplug2_jax.evaluation.results import Record
from mplug2_jax.evaluation.texts import class_record, score_texts
from mplug2_jax.evaluation.usable import MAX_BAD_SHARE, unusable, usable
from mplug2_jax.predictor import Predictor
from mplug2_jax.text_classifier import PairClassifier

# Of NLVR2: split, set of images, pair, sentence (nlvr2/README.md of lil-lab/nlvr).
NLVR2_ID = re.compile(r"([a-z0-9]+-\d+)-\d+-(\d+)")


class PairAsker(Asker):
    """Classes of the texts that the examples' labels are about.

    Args:
      max_bad_share: of the labels, which may be none of the classes; such a text is
        left out, and with all its texts a medium.
    """

    task, annotated = "pairs", "texts with labels"

    def __init__(self, predictor: Predictor, max_bad_share: float = MAX_BAD_SHARE):
        super().__init__(predictor)
        self.classifier, self.max_bad_share = PairClassifier(predictor), max_bad_share

    def count(self, example: Example) -> int:
        return len(_labels(example))

    @property
    def num_media(self) -> int:
        return self.classifier.num_media

    def unusable(self, examples: Sequence[Example]) -> dict[str, str]:
        """Also texts whose label is outside the set, by example and text.

        Raises:
          ValueError: they are more than `max_bad_share`.
        """
        labels = {_name(e, its): [its.label] for e in examples for its in _labels(e)}
        bad = super().unusable(examples)
        bad |= unusable(labels, self.classifier.classes, self.max_bad_share)
        empty = (e for e in examples if self.count(e) and not self._usable(e))
        return bad | {e.id: "no text about it has a label of the set" for e in empty}

    def _usable(self, example: Example) -> list[Label]:
        classes = self.classifier.classes
        return [its for its in _labels(example) if usable(its.label, classes)]

    def ask(
        self, encoded: Encoded, examples: Sequence[Example], shapes: Shapes
    ) -> list[list[Record]]:
        texts = [[its.text for its in self._usable(example)] for example in examples]
        found = self.classifier.scores_encoded(encoded, texts, shapes)
        return [
            [
                self._record(example, label, scores)
                for label, scores in zip(self._usable(example), its, strict=True)
            ]
            for example, its in zip(examples, found, strict=True)
        ]

    def _record(self, example: Example, label: Label, scores) -> Record:
        return class_record(
            label.label,
            scores,
            self.classifier.classes,
            id=example.id if label.id is None else label.id,
            question=label.text,
            example=example.id,
        )

    def score(self, records: Sequence[Record]) -> dict[str, Any]:
        classes = self.classifier.classes
        return score_pairs(records) if classes else score_texts(records, classes)


def _labels(example: Example) -> list[Label]:
    return [label for label in example.labels if label.text]


def _name(example: Example, label: Label) -> str:
    return f"{example.id}: {label.text}"


def score_pairs(records: Sequence[Record]) -> dict[str, Any]:
    """Scores classes of texts about media.

    Returns:
      accuracy: share of the texts whose class is right.
      consistency: of NLVR2, known by its ids: share of the sentences that are right
        about every pair of images they were written for (eval/metrics.py there).
      n: texts.
    """
    right = [record.prediction == record.truth[0] for record in records]
    scores = {"accuracy": float(np.mean(right)), "n": len(records)}
    sentences: dict[tuple, list[bool]] = defaultdict(list)
    for record, its in zip(records, right, strict=True):
        if match := NLVR2_ID.fullmatch(record.id):
            sentences[match.groups()].append(its)
    if sum(map(len, sentences.values())) == len(records):
        scores["consistency"] = float(np.mean(list(map(all, sentences.values()))))
    return scores
