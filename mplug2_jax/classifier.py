"""Classes of videos and images: trained ones, or any that a text can name.

classifier = Classifier.from_checkpoint("checkpoints/kinetics400")
classifier.classify("clip.mp4", top_k=5).hypotheses
by_prompts = PromptClassifier(Retriever.from_checkpoint("checkpoints/pretrained"),
                              ["cat", "dog"], ["a photo of a {}", "a picture of a {}"])
by_prompts.classify("photo.jpg").text
"""

import abc
import os
import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from mplug2_jax.batching import Encoded, Shapes, stacked
from mplug2_jax.data.files import StoredFile
from mplug2_jax.data.video import Media
from mplug2_jax.data.views import Views, read_views
from mplug2_jax.prediction import Prediction, classified
from mplug2_jax.predictor import Item, Predictor
from mplug2_jax.retriever import Retriever
from mplug2_jax.tasks import retrieval
from mplug2_jax.tasks.classification import log_mean_probabilities, media_scores

TEMPLATES = ("a photo of a {}",)  # CLIP's, arXiv 2103.00020, section 3.1.4
WORDNET_ID = re.compile(r"n\d{8}")  # what ImageNet calls its classes


class WordlessError(ValueError):
    """Classes have names that say nothing."""


class MediaClassifier(abc.ABC):
    """What both kinds of classifiers do: reading views, batching, naming classes.

    Attributes:
      classes: names in the order of the scores; none in regression.
      views: how a file is looked at.
    """

    def __init__(self, predictor: Predictor, classes: Sequence[str], views: Views):
        self.predictor, self.views = predictor, views
        self.classes = tuple(classes)

    def classify(self, medium: Item, top_k: int = 1) -> Prediction:
        """The likeliest classes, best first, with their probabilities.

        Args:
          medium: as for `Predictor.caption`; of frames there is one view.

        Raises:
          ValueError: the medium cannot be used, or there are fewer classes.
          OSError: the file cannot be read.
        """
        path = isinstance(medium, str | os.PathLike)
        its = self.read(medium) if path else self.predictor.medium(medium)
        return self.classify_media([its], self.shapes([1]), top_k)[0]

    def classify_media(
        self, media: Sequence[Media], shapes: Shapes, top_k: int = 1
    ) -> list[Prediction]:
        """Classes of media that `read` returned."""
        placed = {}
        for encoded in self.encode(media, shapes):
            scores = self.scores_encoded(encoded)
            its = classified(scores, self.classes, top_k)
            placed |= zip(encoded.indices, its, strict=True)
        return [placed[index] for index in range(len(media))]

    def read(
        self,
        path: str | os.PathLike | StoredFile,
        start: float | None = None,
        end: float | None = None,
    ) -> Media:
        """Reads all views of a file, or of its segment in seconds."""
        frames = self.predictor.inputs.num_frames
        size = self.predictor.model.config.vision.image_size
        return read_views(path, frames, size, self.views, start, end)

    def shapes(self, counts: Sequence[int]) -> Shapes:
        """See `Predictor.shapes`."""
        return self.predictor.shapes(counts)

    def encode(
        self, media: Sequence[Media], shapes: Shapes, first_number: int = 0
    ) -> list[Encoded]:
        """See `Predictor.encode`."""
        return self.predictor.encode(media, shapes, first_number)

    @abc.abstractmethod
    def scores_encoded(self, encoded: Encoded) -> Float[np.ndarray, "B K"]:
        """Logarithms of the classes' probabilities; in regression the number."""

    @property
    def num_media(self) -> int:
        """How many images it sees together."""
        return 1

    def _check(self, media: int) -> None:
        if media != self.num_media:
            raise ValueError(
                f"A medium has {media} images; the model was trained on "
                f"{self.num_media} together."
            )


class Classifier(MediaClassifier):
    """A predictor whose model was trained to classify media.

    Raises:
      ValueError: it was not, or classes are missing.
    """

    def __init__(self, predictor: Predictor, views: Views = Views()):
        predictor.require("classification")
        super().__init__(predictor, predictor.inputs.classes, views)

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | os.PathLike,
        *,
        views: Views = Views(),
        vocab: str | os.PathLike | None = None,
        num_frames: int | None = None,
        batch_size: int = 8,
    ) -> Self:
        """Loads a checkpoint of action recognition or image classification.

        Args:
          vocab, num_frames, batch_size: as `Predictor.from_checkpoint` takes them.

        Raises:
          ValueError: no checkpoint, none of a classifier, or another vocabulary.
          OSError: there is no vocabulary.
        """
        predictor = Predictor.from_checkpoint(
            directory,
            task="classification",
            vocab=vocab,
            num_frames=num_frames,
            batch_size=batch_size,
        )
        return cls(predictor, views)

    @property
    def num_media(self) -> int:
        return self.predictor.model.config.classifier.num_media

    def scores_encoded(self, encoded: Encoded) -> Float[np.ndarray, "B K"]:
        """Logarithms of the classes' probabilities; in regression the number.

        Raises:
          ValueError: the model reads another number of images together.
        """
        self._check(encoded.media)
        its = self.predictor
        out = media_scores(its.model, its.params, encoded.vision, views=encoded.views)
        return np.asarray(out)[: len(encoded.indices)]


class PromptClassifier(MediaClassifier):
    """Classes by what texts and media have in common: nothing is trained on them.

    The feature of a class is the mean of those of its prompts, one for each template
    (CLIP, arXiv 2103.00020, section 3.1.4).

    Args:
      classes: names; their underscores are blanks in prompts.
      templates: prompts with {} in place of the name.
      words: what prompts call the classes, if not by their names.

    Raises:
      WordlessError: prompts would call classes by ids of WordNet.
      ValueError: fewer than two classes, a name twice, or a template without {}.
    """

    def __init__(
        self,
        retriever: Retriever,
        classes: Sequence[str],
        templates: Sequence[str] = TEMPLATES,
        views: Views = Views(),
        words: Sequence[str] = (),
    ):
        super().__init__(retriever.predictor, classes, views)
        self.retriever = retriever
        words = words or [name.replace("_", " ") for name in self.classes]
        _check(self.classes, words, templates)
        self.features = self._features(words, templates)  # K E

    def _features(self, words: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        prompts = [each.replace("{}", word) for word in words for each in templates]
        found = self.retriever.encode_texts(prompts).features
        mean = found.reshape(len(words), len(templates), -1).mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def encode(
        self, media: Sequence[Media], shapes: Shapes, first_number: int = 0
    ) -> list[Encoded]:
        """Features of contrast, `B*V E`, in place of embeddings.

        Raises:
          ValueError: a medium is several images.
        """
        its, encoded = self.predictor, []
        for batch, frames, image, views in stacked(media, shapes.media):
            self._check(frames.shape[1] // views if image else 1)
            frames = frames.reshape(len(frames) * views, -1, *frames.shape[2:])
            features, _ = retrieval.encode_media(
                its.model, its.params, frames, is_video=not image
            )
            numbers = tuple(first_number + index for index in batch)
            encoded.append(Encoded(features, tuple(batch), numbers, views=views))
        return encoded

    def scores_encoded(self, encoded: Encoded) -> Float[np.ndarray, "B K"]:
        """Logarithms of the classes' probabilities, at the learned temperature."""
        vision: Any = encoded.vision
        scores = vision @ self.features.T / self.retriever.temperature
        scores = scores.reshape(-1, encoded.views, len(self.classes))
        out = np.asarray(log_mean_probabilities(scores))
        return out[: len(encoded.indices)]


def _check(
    classes: Sequence[str], words: Sequence[str], templates: Sequence[str]
) -> None:
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(
            f"The classes are {list(classes)[:5]}, {len(set(classes))} different ones; "
            "name two or more, each once."
        )
    if ids := list(filter(WORDNET_ID.fullmatch, words)):
        raise WordlessError(
            f"{len(ids)} of {len(words)} classes are called by ids of WordNet, such as "
            f"{ids[0]}, which say nothing to a model; give each its words by --classes "
            "FILE, whose lines are the id, a tab and the words."
        )
    for template in templates:
        if "{}" not in template:
            raise ValueError(
                f"The template {template!r} has no {{}} for the class; write one like "
                f"{TEMPLATES[0]!r}."
            )
