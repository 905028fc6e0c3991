"""Boxes with their phrases, drawn onto a picture."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from mplug2_jax.data.examples import Box

# Okabe and Ito's colours that stand out on photographs and bear black letters, told
# apart by colour-blind people too (jfly.uni-koeln.de/color).
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")
SMALLEST = 320  # pixels of the longer side that labels can be read on


def draw_boxes(
    pixels: UInt8[np.ndarray, "H W 3"], boxes: Sequence[Box], labels: Sequence[str]
) -> Image.Image:
    """The picture with each box in a colour of its own, labelled.

    Args:
      pixels: enlarged by a whole number if they are too few to read labels on.
      boxes: x0, y0, x1, y1 as shares of width and height.
    """
    factor = -(-SMALLEST // max(pixels.shape[:2]))
    picture = Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1))
    scale = np.tile(picture.size, 2)
    places = [(np.array(box) * scale).round().astype(int).tolist() for box in boxes]
    colors = [COLORS[number % len(COLORS)] for number in range(len(places))]
    for place, color in zip(places, colors, strict=True):
        _frame(picture, place, color)
    taken: list[Box] = []  # labels lie above all frames, and off each other
    for place, label, color in zip(places, labels, colors, strict=True):
        _label(picture, place, label, color, taken)
    return picture


def _line(picture: Image.Image) -> int:
    return max(2, max(picture.size) // 250)


def _frame(picture: Image.Image, place: Sequence[int], color: str) -> None:
    """A frame of light colour within a dark line."""
    draw, line, (x0, y0, x1, y1) = ImageDraw.Draw(picture), _line(picture), place
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="black", width=line + 2)
    draw.rectangle((x0, y0, x1, y1), outline=color, width=line)


def _label(
    picture: Image.Image, place: Sequence[int], label: str, color: str, taken: list[Box]
) -> None:
    """The box's label where there is room."""
    draw, line = ImageDraw.Draw(picture), _line(picture)
    font = ImageFont.load_default(max(12, max(picture.size) // 40))
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    wide, high = right - left + 2 * line, bottom - top + 2 * line
    x, y = _place(tuple(place), (wide, high), picture.size, taken)  # type: ignore
    taken.append((x, y, x + wide, y + high))
    draw.rectangle((x, y, x + wide, y + high), fill=color)
    draw.text((x + line - left, y + line - top), label, fill="black", font=font)


def _place(
    box: Box, label: tuple[float, float], size: tuple[int, int], taken: Sequence[Box]
) -> tuple[float, float]:
    """The label's corner: above the box, else below or inside, off other labels."""
    (x0, y0, _, y1), (wide, high), (width, height) = box, label, size
    x = max(0, min(x0, width - wide))
    wanted = (y0 - high, y1, y0, y1 - high)
    fits = [y for y in wanted if 0 <= y <= height - high]
    free = [
        y
        for y in fits
        if not any(
            a < x + wide and x < c and b < y + high and y < d for a, b, c, d in taken
        )
    ]
    return x, next(iter([*free, *fits, 0.0]))
