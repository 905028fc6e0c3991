"""Several views of one medium: clips at shifted times, crops along the longer side.

Recognition is tested so: what a model says of all views is averaged (three crops: arXiv
1711.07971, section 5.1).
"""

import dataclasses
import os

import numpy as np

from mplug2_jax.data.files import StoredFile, check_file
from mplug2_jax.data.image import Frames, read_image, resize
from mplug2_jax.data.video import Media, is_image, read_media, read_video

CROPS = (1, 3)


@dataclasses.dataclass(frozen=True)
class Views:
    """How often and where a medium is looked at.

    Attributes:
      clips: of a video; each takes another frame of every interval, at even distances.
        An image has one.
      crops: 1 is the whole frame, squeezed into a square; 3 are squares at the left,
        centre and right, or top, centre and bottom, of frames whose shorter side has
        the model's size.

    Raises:
      ValueError: other numbers.
    """

    clips: int = 1
    crops: int = 1

    def __post_init__(self):
        if self.clips < 1 or self.crops not in CROPS:
            raise ValueError(
                f"{self.clips} clips and {self.crops} crops were asked for; expected 1 "
                "clip or more, and 1 or 3 crops."
            )

    @property
    def single(self) -> bool:
        return self == Views()


def read_views(
    path: str | os.PathLike | StoredFile,
    num_frames: int,
    size: int,
    views: Views,
    start: float | None = None,
    end: float | None = None,
) -> Media:
    """Reads a medium as `read_media` does, all its views one after the other.

    Raises: as `read_media`.
    """
    if views.single:
        return read_media(path, num_frames, size, None, start, end)
    path = check_file(path)
    whole = size if views.crops == 1 else None
    image, clips = is_image(path), views.clips
    if image:
        frames, clips = read_image(path, whole)[None], 1
    else:
        frames = read_video(path, num_frames, whole, None, start, end, clips)
    if views.crops > 1:
        frames = three_crops(frames, size)
    return Media(frames, image, clips * views.crops)


def three_crops(frames: Frames, size: int) -> Frames:
    """The squares of `size` at both ends and the centre of the longer side, in turn."""
    height, width = frames.shape[1:3]
    short = min(height, width)
    shape = (round(height * size / short), round(width * size / short))
    frames = resize(frames, shape)
    axis = 1 if height > width else 2
    spare = frames.shape[axis] - size
    return np.concatenate(
        [
            np.take(frames, np.arange(start, start + size), axis)
            for start in (0, spare // 2, spare)
        ]
    )
