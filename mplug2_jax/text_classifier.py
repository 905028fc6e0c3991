"""Classes of texts, and of texts about media: entailment, similarity, sentiment.

classifier = TextClassifier.from_checkpoint("checkpoints/rte")
classifier.classify("a man runs", "someone moves").text
about = PairClassifier.from_checkpoint("checkpoints/snli_ve")
about.classify("photo.jpg", ["a dog sleeps"])[0].text
judge = PairClassifier.from_checkpoint("checkpoints/nlvr2")
judge.classify(["left.png", "right.png"], ["both show a dog"])
"""

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float

from mplug2_jax.batching import Encoded, Shapes, ask_in_groups, joined, padded
from mplug2_jax.data.prefetch import batched
from mplug2_jax.data.video import Media
from mplug2_jax.prediction import Prediction, classified
from mplug2_jax.predictor import Item, Predictor
from mplug2_jax.tasks.classification import pair_scores, text_scores
from mplug2_jax.tasks.generation import TaskName
from mplug2_jax.types import Tokens

Pair = tuple[str, str]  # a text and the second one, or ""


class _Classifier:
    """A predictor whose model classifies texts."""

    task: ClassVar[TaskName]

    def __init__(self, predictor: Predictor):
        """Raises ValueError if the model lacks modules, or positions for its texts."""
        predictor.require(self.task)
        config, inputs = predictor.model.config, predictor.inputs
        if inputs.text_length > config.text.max_positions:
            raise ValueError(
                f"Texts of up to {inputs.text_length} tokens do not fit the model's "
                f"{config.text.max_positions} positions; shorten inputs.text_length."
            )
        self.predictor = predictor

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | os.PathLike,
        *,
        vocab: str | os.PathLike | None = None,
        num_frames: int | None = None,
        batch_size: int = 8,
    ) -> Self:
        """Loads what the task uses of a checkpoint, and nothing else.

        Args:
          vocab, num_frames, batch_size: as `Predictor.from_checkpoint` takes them.

        Raises:
          ValueError: no checkpoint, modules missing, or another vocabulary.
          OSError: there is no vocabulary.
        """
        return cls(
            Predictor.from_checkpoint(
                directory,
                task=cls.task,
                vocab=vocab,
                num_frames=num_frames,
                batch_size=batch_size,
            )
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the scores; none in regression."""
        return self.predictor.inputs.classes

    def _tokens(self, pairs: Sequence[Pair]) -> Tokens:
        if any(not text.strip() for text, _ in pairs):
            raise ValueError("A text is empty; say what to classify.")
        its = self.predictor
        return its.inputs.text_pairs(its.tokenizer, list(pairs))


class TextClassifier(_Classifier):
    """Classes, or numbers, of one text or of two together."""

    task = "text_classification"

    def scores(self, pairs: Sequence[Pair]) -> Float[np.ndarray, "N K"]:
        """Scores of the classes before their softmax; in regression the number.

        Raises:
          ValueError: a first text is empty.
        """
        its, found = self.predictor, []
        for batch in batched(pairs, its.batch_size):
            tokens = self._tokens(padded(batch, its.batch_size))
            out = text_scores(its.model, its.params, tokens)
            found.append(np.asarray(out)[: len(batch)])
        return np.concatenate(found)

    def classify(self, text: str, second: str = "", top_k: int = 1) -> Prediction:
        """The likeliest classes, best first, with their probabilities.

        Raises:
          ValueError: the text is empty, or there are fewer than `top_k` classes.
        """
        return classified(self.scores([(text, second)]), self.classes, top_k)[0]


class PairClassifier(_Classifier):
    """Classes of texts about a medium, or about several images together."""

    task = "pairs"

    @property
    def num_media(self) -> int:
        """How many images it sees together."""
        return self.predictor.model.config.classifier.num_media

    def classify(
        self, media: Item | Sequence[Item], texts: Sequence[str], top_k: int = 1
    ) -> list[Prediction]:
        """The likeliest classes of each text; the medium is encoded once.

        Args:
          media: as for `Predictor.caption`; a list is images that belong together, as
            many as the model was trained on.

        Raises:
          ValueError: a medium cannot be used, or a text is empty.
          OSError: a file cannot be read.
        """
        shapes = self.predictor.shapes([len(texts)])
        (encoded,) = self.predictor.encode([self._medium(media)], shapes)
        (scores,) = self.scores_encoded(encoded, [texts], shapes)
        return classified(np.array(scores), self.classes, top_k)

    def scores_encoded(
        self, encoded: Encoded, texts: Sequence[Sequence[str]], shapes: Shapes
    ) -> list[list[Float[np.ndarray, "K"]]]:
        """Scores of any number of texts about each medium of `encoded`.

        Raises:
          ValueError: a text is empty, or the model reads another number of images.
        """
        if encoded.media != self.num_media:
            raise ValueError(
                f"The texts are about {encoded.media} media together; the model was "
                f"trained on {self.num_media}."
            )
        return ask_in_groups(
            list(map(len, texts)),
            shapes,
            lambda groups: self._scores(encoded, texts, groups),
        )

    def _scores(self, encoded: Encoded, texts, groups) -> Sequence[Any]:
        """One device call: groups of (medium, text) of one size."""
        its = self.predictor
        pairs = [(texts[row][index], "") for group in groups for row, index in group]
        rows = np.array([group[0][0] for group in groups])
        shared = its.params, encoded.vision, rows, self._tokens(pairs)
        return list(np.asarray(pair_scores(its.model, *shared, media=encoded.media)))

    def _medium(self, item: Item | Sequence[Item]) -> Media:
        items: list[Any] = list(item) if isinstance(item, list | tuple) else [item]
        return joined(list(map(self.predictor.medium, items)))
