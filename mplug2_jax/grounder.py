"""Phrases find their place in an image: a model as a detector of what it is told.

grounder = Grounder.from_checkpoint("checkpoints/refcoco")
(found,) = grounder.ground("street.jpg", ["the man with the red hat"])
found.pixels, found.probability
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Self

import numpy as np

from mplug2_jax.batching import Encoded, Shapes, as_medium, ask_in_groups
from mplug2_jax.boxes import Coordinates
from mplug2_jax.data.examples import Box
from mplug2_jax.data.image import read_image
from mplug2_jax.data.video import Media
from mplug2_jax.predictor import Item, Predictor
from mplug2_jax.tasks import grounding


@dataclasses.dataclass(frozen=True)
class Grounded:
    """Where a model sees what a phrase names.

    Attributes:
      box: x0, y0, x1, y1 as shares of width and height.
      probability: of this box among all that the model can write, in [0, 1].
      size: width and height of the original image, in pixels.
    """

    phrase: str
    box: Box
    probability: float
    size: tuple[int, int] = (1, 1)

    @property
    def pixels(self) -> Box:
        """The box in pixels of the original image, 0 to width and 0 to height."""
        (width, height), (x0, y0, x1, y1) = self.size, self.box
        return x0 * width, y0 * height, x1 * width, y1 * height


class Grounder:
    """A predictor whose model was trained to write boxes.

    Raises:
      ValueError: it was not.
    """

    def __init__(self, predictor: Predictor):
        predictor.require("grounding")
        self.predictor = predictor

    @classmethod
    def from_checkpoint(
        cls,
        directory: str | os.PathLike,
        *,
        vocab: str | os.PathLike | None = None,
        batch_size: int = 8,
    ) -> Self:
        """Loads what grounding uses of a checkpoint, and nothing else.

        Args:
          vocab, batch_size: as `Predictor.from_checkpoint` takes them.

        Raises:
          ValueError: no checkpoint, none of grounding, or another vocabulary.
          OSError: there is no vocabulary.
        """
        return cls(
            Predictor.from_checkpoint(
                directory, task="grounding", vocab=vocab, batch_size=batch_size
            )
        )

    @functools.cached_property
    def coordinates(self) -> Coordinates:
        """The tokens that write boxes."""
        return self.predictor.inputs.coordinates(self.predictor.tokenizer)

    def ground(self, image: Item, phrases: Sequence[str]) -> list[Grounded]:
        """The box of each phrase; the image is encoded once.

        Args:
          image: a path, or uint8 pixels `H W 3`.

        Raises:
          ValueError: not an image, or a phrase is empty.
          OSError: the file cannot be read.
        """
        medium, size = self._image(image)
        shapes = self.predictor.shapes([len(phrases)])
        (encoded,) = self.predictor.encode([medium], shapes)
        (found,) = self.ground_encoded(encoded, [phrases], shapes)
        return [dataclasses.replace(its, size=size) for its in found]

    def ground_encoded(
        self, encoded: Encoded, phrases: Sequence[Sequence[str]], shapes: Shapes
    ) -> list[list[Grounded]]:
        """Boxes of any number of phrases about each row of `encoded`, in shares.

        Raises:
          ValueError: a phrase is empty, or the media are several images each.
        """
        encoded.require_one()
        if any(not phrase.strip() for its in phrases for phrase in its):
            raise ValueError("A phrase is empty; say what to look for.")
        return ask_in_groups(
            list(map(len, phrases)),
            shapes,
            lambda groups: self._ground(encoded, phrases, groups),
        )

    def _ground(self, encoded, phrases, groups) -> list[Grounded]:
        """One device call: groups of (row of `encoded`, phrase) of one size."""
        its, texts = self.predictor, [phrases[r][i] for g in groups for r, i in g]
        out = grounding.ground(
            its.model,
            self.coordinates,
            its.tokenizer.start_id,
            *(its.params, encoded.vision, np.array([group[0][0] for group in groups])),
            its.inputs.questions(its.tokenizer, texts),
        )
        boxes = self.coordinates.middles[np.asarray(out.steps)]
        chances = np.exp(np.asarray(out.log_probs, np.float64))
        return [
            Grounded(text, tuple(box), chance)
            for text, box, chance in zip(
                texts, boxes.tolist(), chances.tolist(), strict=True
            )
        ]

    def _image(self, item: Item) -> tuple[Media, tuple[int, int]]:
        """The image as the model sees it, and its own width and height."""
        if isinstance(item, str | os.PathLike):
            item = read_image(item)
        frames = item.frames if isinstance(item, Media) else np.asarray(item)
        if frames.ndim != 3 and not (isinstance(item, Media) and item.image):
            raise ValueError(
                f"Frames of shape {frames.shape} are no image; expected H W 3."
            )
        medium = as_medium(item, self.predictor.model.config.vision.image_size)
        return medium, (frames.shape[-2], frames.shape[-3])
