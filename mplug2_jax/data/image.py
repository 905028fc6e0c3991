"""Reading still images, resizing, and the random augmentation of training clips.

Frames are uint8 RGB arrays `T H W 3`; an image is a clip of one frame. Whatever is
drawn at random is drawn once per clip, so that all its frames change alike.
"""

import math
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from mplug2_jax.data.files import MediaError, StoredFile, as_source, check_file

Frames = UInt8[np.ndarray, "T H W 3"]
Change = Callable[[Image.Image], Image.Image]

GREY = (128, 128, 128)  # fills what an affine change uncovers
OPERATIONS = (
    *("identity", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
)


def read_image(
    path: str | os.PathLike | StoredFile, size: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Reads an image upright (EXIF orientation applied) as RGB.

    Args:
      path: any format Pillow reads; of an animated one, the first frame.
      size: side of the square to resize to, aspect ignored; None keeps the size.

    Raises:
      MediaError: not an image, or a damaged one.
      FileNotFoundError: no such file.
    """
    path = check_file(path)
    try:
        with Image.open(as_source(path)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey
                array = np.asarray(upright, np.float32) / 257
                upright = Image.fromarray(array.clip(0, 255).astype(np.uint8))
            pixels = np.asarray(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, PermissionError):
            raise
        stored = isinstance(path, StoredFile)
        found = type(error).__name__ if stored else str(error).replace(str(path), "it")
        raise MediaError(f"{path} is not a readable image ({found})") from error
    return resize(pixels[None], size)[0]


def resize(frames: Frames, size: int | tuple[int, int] | None) -> Frames:
    """Resizes to `size` (side of a square, or height and width), aspect ignored.

    Pillow's bicubic filter, which averages when it shrinks; None keeps the size.
    """
    if size is None:
        return frames
    height, width = (size, size) if isinstance(size, int) else size
    if frames.shape[1:3] == (height, width):
        return frames
    shrunk = [
        Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        for frame in frames
    ]
    return np.stack([np.asarray(image) for image in shrunk])


def augment_frames(
    frames: Frames,
    rng: np.random.Generator,
    size: int,
    scale: tuple[float, float] = (0.5, 1.0),
    flip: bool = True,
    randaugment: tuple[int, int] | None = (2, 5),
) -> Frames:
    """Training augmentation: random resized crop, flip, then RandAugment.

    Args:
      frames: one clip.
      rng: the only source of chance.
      size: side of the square result, pixels.
      scale: share of the area a crop keeps (videos 0.5..1, images 0.2..1).
      flip: mirror half of the clips. Leave it out where texts say left or right.
      randaugment: number of operations and their level of 10; None for none.
    """
    _, height, width, _ = frames.shape
    changes = [_crop(random_box(rng, height, width, scale), size)]
    if flip and rng.random() < 0.5:
        changes.append(ImageOps.mirror)
    if randaugment is not None:
        number, level = randaugment
        for name in rng.choice(OPERATIONS, number):
            # As in the model's family: each operation drawn acts in half the cases.
            if rng.random() < 0.5:
                changes.append(_operation(str(name), level / 10, rng, frames, size))
    return np.stack([np.asarray(_apply(changes, frame)) for frame in frames])


def random_box(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A random crop (left, top, right, bottom) with aspect between 3:4 and 4:3.

    Where ten draws do not fit, the largest centred crop with such an aspect.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            top = int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _apply(changes: list[Change], frame: np.ndarray) -> Image.Image:
    image = Image.fromarray(frame)
    for change in changes:
        image = change(image)
    return image


def _crop(box: tuple[int, int, int, int], size: int) -> Change:
    return lambda image: image.crop(box).resize((size, size), Image.Resampling.BICUBIC)


def _operation(
    name: str, level: float, rng: np.random.Generator, frames: Frames, size: int
) -> Change:
    """One RandAugment operation; its sign is drawn here, once for all frames.

    Ranges at level 1 (arXiv 1909.13719): enhancement factor 1.9, shear 0.3, rotation 30
    degrees; translation 10 pixels of 224.
    """
    factor = 0.1 + 1.8 * level
    amount = level * (1 if rng.random() < 0.5 else -1)
    shift = amount * 10 / 224 * size
    match name:
        case "identity":
            return lambda image: image
        case "contrast":
            # The clip's mean, not each frame's: no flicker.
            mean = round(float(frames.mean()))
            flat = Image.new("RGB", (size, size), (mean, mean, mean))
            return lambda image: Image.blend(flat, image, factor)
        case "brightness":
            return lambda image: ImageEnhance.Brightness(image).enhance(factor)
        case "sharpness":
            return lambda image: ImageEnhance.Sharpness(image).enhance(factor)
        case "shear_x":
            return _affine((1, 0.3 * amount, 0, 0, 1, 0))
        case "shear_y":
            return _affine((1, 0, 0, 0.3 * amount, 1, 0))
        case "translate_x":
            return _affine((1, 0, shift, 0, 1, 0))
        case "translate_y":
            return _affine((1, 0, 0, 0, 1, shift))
        case "rotate":
            bilinear = Image.Resampling.BILINEAR
            return lambda image: image.rotate(30 * amount, bilinear, fillcolor=GREY)
    raise ValueError(f"unknown operation {name!r}: expected one of {OPERATIONS}")


def _affine(matrix: tuple[float, ...]) -> Change:
    """Output pixel (x, y) reads input (a x + b y + c, d x + e y + f)."""
    return lambda image: image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=GREY,
    )
