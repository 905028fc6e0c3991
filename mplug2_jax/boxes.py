"""Boxes (x0, y0, x1, y1): how much they overlap, how often one is found, as tokens.

`iou` and `generalised_iou` take arrays of NumPy or JAX, row by row or broadcast, in any
one unit, and can be compiled and differentiated.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Boxes = Float[Any, "*B 4"]
_TINY = 1e-12  # what an area is divided by at least


def iou(first: Boxes, second: Boxes) -> Float[Any, "*B"]:
    """Intersection over union in [0, 1]; 0 for two boxes without area.

    A box with x1 < x0 or y1 < y0 has no area. Where a coordinate is nan, so is the
    result.
    """
    shared, union = _areas(first, second)
    return shared / union


def generalised_iou(first: Boxes, second: Boxes) -> Float[Any, "*B"]:
    """Generalised intersection over union in (-1, 1] (arXiv 1902.09630).

    It is `iou` less the share of the smallest enclosing box that neither box covers, so
    that boxes apart have a gradient towards each other.
    """
    xp = first.__array_namespace__()
    shared, union = _areas(first, second)
    low = xp.minimum(first[..., :2], second[..., :2])
    high = xp.maximum(first[..., 2:], second[..., 2:])
    hull = xp.maximum(_area(low, high), _TINY)
    return shared / union - xp.maximum(hull - union, 0.0) / hull


def _areas(first: Boxes, second: Boxes) -> tuple[Any, Any]:
    """Area of the intersection and of the union, the latter above 0."""
    xp = first.__array_namespace__()
    low = xp.maximum(first[..., :2], second[..., :2])
    high = xp.minimum(first[..., 2:], second[..., 2:])
    shared = _area(low, high)
    both = _area(first[..., :2], first[..., 2:]) + _area(
        second[..., :2], second[..., 2:]
    )
    return shared, xp.maximum(both - shared, _TINY)


def _area(low: Any, high: Any) -> Any:
    sides = low.__array_namespace__().maximum(high - low, 0.0)
    return sides[..., 0] * sides[..., 1]


def box_accuracy(
    predictions: Float[np.ndarray, "N 4"],
    truths: Float[np.ndarray, "N 4"],
    threshold: float = 0.5,
) -> float:
    """Returns the share of predictions whose IoU with the truth is >= `threshold`.

    Args:
      predictions: one box per phrase; nan where the model named none: a miss.
      truths: the annotated boxes, in the same unit and order.
      threshold: in (0, 1]; 0.5 is acc@0.5 of RefCOCO, RefCOCO+ and RefCOCOg.

    Raises:
      ValueError: shapes are not both (N, 4) with N >= 1, the threshold is out of range,
        or a truth has no area.
    """
    found, true = (np.asarray(boxes, np.float64) for boxes in (predictions, truths))
    if found.shape != true.shape or found.shape[1:] != (4,) or not len(true):
        raise ValueError(
            f"predicted and true boxes have shapes {found.shape} and {true.shape}; "
            f"both must be (N, 4) with N >= 1"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"the IoU threshold is {threshold}; it must be in (0, 1]")
    bad = ~(np.isfinite(true).all(1) & (true[:, 2:] > true[:, :2]).all(1))
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"{bad.sum()} true boxes have no area; the first is number {first}: "
            f"{true[first].tolist()}, expected x0 < x1 and y0 < y1"
        )
    return float(np.mean(iou(found, true) >= threshold))


@dataclass(frozen=True)
class Coordinates:
    """An image's width and height in steps, each step a token of its own.

    Pix2Seq (arXiv 2109.10852) and OFA (arXiv 2202.03052) write boxes so; here the
    tokens are entries of the vocabulary that no text uses.

    Attributes:
      ids: tokens; coordinate x in [0, 1] belongs to step floor(x * number of them).
    """

    ids: tuple[int, ...]

    def tokens(self, boxes: Float[np.ndarray, "R 4"]) -> Int[np.ndarray, "R 4"]:
        """Tokens of boxes whose coordinates are shares of the image, in [0, 1]."""
        count = len(self.ids)
        steps = np.floor(np.asarray(boxes, np.float64) * count).astype(int)
        return np.asarray(self.ids, np.int32)[np.clip(steps, 0, count - 1)]

    @property
    def middles(self) -> Float[np.ndarray, "N"]:
        """The middle of each step."""
        return (np.arange(len(self.ids)) + 0.5) / len(self.ids)
