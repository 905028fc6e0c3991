"""Frames of a training example: decoding, random frames, augmentation."""

import functools

import numpy as np
from jaxtyping import UInt8

from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.examples import Example
from mplug2_jax.data.files import MediaError, MediaFile
from mplug2_jax.data.image import augment_frames
from mplug2_jax.data.video import is_image, read_media, sample_indices


class ClipReader:
    """Reads one example's frames; all chance comes from `rng`.

    Args:
      num_frames: frames per video; a still image has one.
      size: side of the model's frames.
      config: how clips are cropped and changed, and whether they are kept.
      is_video: what the media must be; still images and videos do not share batches.
    """

    def __init__(self, num_frames: int, size: int, config: BatchConfig, is_video: bool):
        self.num_frames, self.size, self.config = num_frames, size, config
        self.is_video, self.kept = is_video, config.keep_clips

    def __getstate__(self):  # a worker process keeps clips of its own
        return self.num_frames, self.size, self.config, self.is_video

    def __setstate__(self, state):
        self.__init__(*state)

    def __call__(
        self, example: Example, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """The frames; several images are as many.

        Raises:
          MediaError: the file is of the other kind, or cannot be read.
        """
        if not example.others:
            return self._read(example.media, example.start, example.end, rng)
        if self.is_video:
            raise MediaError(f"{example.id} is several images, not a video")
        files = (example.media, *example.others)
        return np.concatenate([self._read(file, None, None, rng) for file in files])

    def _read(
        self,
        file: MediaFile,
        start: float | None,
        end: float | None,
        rng: np.random.Generator,
    ) -> UInt8[np.ndarray, "T H W 3"]:
        if is_image(file) == self.is_video:
            wanted = "a video" if self.is_video else "a still image"
            raise MediaError(f"{file} is not {wanted}, as the others are")
        config, count = self.config, self.num_frames if self.is_video else 1
        where = file, start, end
        if self.kept:
            frames = self._whole(*where)
            frames = frames[sample_indices(len(frames), count, rng)]
        else:
            frames = read_media(file, count, self._read_size, rng, start, end).frames
        if config.crop_scale is not None:
            scale, changes = config.crop_scale, config.randaugment
            frames = augment_frames(frames, rng, self.size, scale, config.flip, changes)
        return frames

    @property
    def _read_size(self) -> int | None:
        """The model's size, unless crops are taken later."""
        return self.size if self.config.crop_scale is None else None

    @functools.cached_property
    def _whole(self):
        return functools.cache(self._read_whole)

    def _read_whole(self, media: MediaFile, start: float | None, end: float | None):
        """All frames of a clip."""
        return read_media(media, None, self._read_size, None, start, end).frames
