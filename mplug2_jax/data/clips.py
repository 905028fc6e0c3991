"""Frames of a training example: decoding, random frames, augmentation."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.examples import Example
from mplug2_jax.data.files import MediaError, MediaFile
from mplug2_jax.data.image import augment_frames
from mplug2_jax.data.video import frame_times, is_image, read_media, sample_indices


class ClipReader:
    """Reads one example's frames; all chance comes from `rng`.

    Args:
      num_frames: frames per video; a still image has one.
      size: side of the model's frames.
      config: how clips are cropped and changed, and whether they are kept.
    """

    def __init__(self, num_frames: int, size: int, config: BatchConfig):
        self.num_frames, self.size, self.config = num_frames, size, config
        self.kept = config.keep_clips

    def __getstate__(self):  # a worker process keeps clips of its own
        return self.num_frames, self.size, self.config

    def __setstate__(self, state):
        self.__init__(*state)

    def __call__(
        self, example: Example, rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "T H W 3"], bool]:
        """The frames, and whether they are a video's; several images are as many."""
        if example.others:
            return self._read_images((example.media, *example.others), rng), False
        return self._read(example.media, example.start, example.end, rng)

    def _read_images(
        self, files: Sequence[MediaFile], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "M H W 3"]:
        """Images that belong together.

        Raises:
          MediaError: one is a video.
        """
        found = []
        for file in files:
            frames, video = self._read(file, None, None, rng)
            if video:
                raise MediaError(f"{file} is a video; only images are read together")
            found.append(frames)
        return np.concatenate(found)

    def _read(
        self,
        file: MediaFile,
        start: float | None,
        end: float | None,
        rng: np.random.Generator,
    ) -> tuple[UInt8[np.ndarray, "T H W 3"], bool]:
        config, video = self.config, not is_image(file)
        count = self.num_frames if video else 1
        where = file, start, end
        if self.kept:
            frames = self._whole(*where)
            frames = frames[sample_indices(len(frames), count, rng)]
        else:
            frames = read_media(file, count, self._read_size, rng, start, end).frames
        if config.crop_scale is not None:
            scale, changes = config.crop_scale, config.randaugment
            frames = augment_frames(frames, rng, self.size, scale, config.flip, changes)
        return frames, video

    @property
    def _read_size(self) -> int | None:
        """The model's size, unless crops are taken later."""
        return self.size if self.config.crop_scale is None else None

    @functools.cached_property
    def _whole(self):
        return functools.cache(self._read_whole)

    def _read_whole(self, media: MediaFile, start: float | None, end: float | None):
        """All frames of a clip."""
        times = frame_times(media)
        inside = (times >= (start or 0.0)) & (times < (end or np.inf))
        count = max(int(inside.sum()), 1)
        return read_media(media, count, self._read_size, None, start, end).frames
