"""Reading frames out of video files with PyAV.

Frames are chosen by their place in presentation order. A first pass reads packets
without decoding them: it finds the number of frames, their times and the keyframes,
whatever the header says. Where those times are reliable, decoding seeks over every gap
worth it; elsewhere (AVI, VP8, broken timestamps) the file is decoded from its start and
frames are counted. Both give the same frames.
"""

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8
from PIL import Image

from mplug2_jax.data.containers import missing_bytes
from mplug2_jax.data.files import (
    MediaError,
    MediaFile,
    StoredFile,
    as_source,
    check_file,
    suffix_of,
)
from mplug2_jax.data.image import Frames, read_image, resize

SEEK_GAP = 48  # frames a seek must skip to pay: it restarts the decoder's threads
BAD_PACKETS = 0.1  # share of undecodable packets beyond which a file is unusable
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")


@dataclass(frozen=True)
class Media:
    """Frames of a file and whether it is a still image (then T = 1).

    Of several images that belong together T is their number; of several views of one
    medium (`data/views.py`) the frames of all stand one after the other.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    image: bool
    views: int = 1


@dataclass(frozen=True)
class _Index:
    """What the packets tell: `pts` in presentation order, and where one can seek."""

    pts: tuple[int, ...]  # empty: only `count` is known, as a first guess
    keys: dict[int, int]  # pts of a keyframe -> its decoding time
    times: Float[np.ndarray, "n"]  # seconds since the first frame

    @property
    def count(self) -> int:
        return len(self.times)

    @property
    def step(self) -> float:
        """Mean seconds per frame; 1 where there is only one."""
        return float(self.times[-1]) / (self.count - 1) if self.count > 1 else 1.0


def sample_indices(
    count: int,
    num_frames: int,
    rng: np.random.Generator | None = None,
    clips: int = 1,
) -> Int[np.ndarray, "C*T"]:
    """Places of `num_frames` frames in a clip of `count`.

    The clip is cut into equal intervals at the integer parts of linspace(0, n, T + 1).
    With `rng` a random frame of each is taken (training), without the middle one; a
    clip of fewer frames gives all of them and repeats the last.

    Args:
      clips: C, without `rng`: so many times T frames, one clip after the other, which
        divide every interval evenly between them.

    Raises:
      ValueError: `count` or `num_frames` is not positive.
    """
    if count < 1 or num_frames < 1:
        raise ValueError(
            f"cannot take {num_frames} frames of {count}: both must be > 0"
        )
    parts = min(count, num_frames)
    bounds = np.linspace(0, count, parts + 1).astype(int)
    low, high = bounds[:-1], bounds[1:]
    if rng is None:  # the middles of the shares; of one clip, of the interval
        odd = 2 * np.arange(clips)[:, None] + 1
        chosen = low + ((high - low) * odd - 1) // (2 * clips)  # C T
    else:
        chosen = rng.integers(low, high)[None]
    return np.pad(chosen, ((0, 0), (0, num_frames - parts)), mode="edge").reshape(-1)


def read_media(
    path: str | os.PathLike | StoredFile,
    num_frames: int | None,
    size: int | None = None,
    rng: np.random.Generator | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Media:
    """Reads a video as `read_video` does, or a still image as one frame."""
    path = check_file(path)
    if is_image(path):
        return Media(read_image(path, size)[None], image=True)
    return Media(read_video(path, num_frames, size, rng, start, end), image=False)


def read_video(
    path: str | os.PathLike | StoredFile,
    num_frames: int | None,
    size: int | None = None,
    rng: np.random.Generator | None = None,
    start: float | None = None,
    end: float | None = None,
    clips: int = 1,
) -> Frames:
    """Reads `num_frames` frames spread over a video or over a segment of it.

    Args:
      path: a file FFmpeg reads.
      num_frames: see `sample_indices`; None: every frame, once.
      size: side of the square to resize to (bicubic, aspect ignored); None keeps the
        video's own size, after rotation by the display matrix.
      rng: chooses random frames (training); None takes the middle of each interval.
      start: beginning of the segment, seconds after the first frame.
      end: end of the segment, exclusive.
      clips: so many times `num_frames` frames, see `sample_indices`.

    Raises:
      MediaError: not a video, damaged, cut off, or the segment lies outside.
      FileNotFoundError: no such file.
    """
    path = check_file(path)
    if (missing := missing_bytes(path)) > 0:
        raise MediaError(f"{path} is cut off ({missing} bytes missing): fetch it again")
    index = _index_packets(path)
    wanted = _choose(path, index, num_frames, rng, start, end, clips)
    frames = _decode_by_time(path, index, wanted) if index.pts else None
    if frames is None:
        frames, count = _decode_by_count(path, wanted)
        if count != index.count:  # the first guess counted packets
            index = _Index((), {}, np.arange(count) * index.step)
            wanted = _choose(path, index, num_frames, rng, start, end, clips)
            frames, _ = _decode_by_count(path, wanted)
    shape = next(iter(frames.values())).shape[:2] if size is None else (size, size)
    resized = {i: resize(frame[None], shape)[0] for i, frame in frames.items()}
    return np.stack([resized[i] for i in wanted.tolist()])


def is_image(path: MediaFile) -> bool:
    """Whether Pillow knows it as an image; GIFs are videos, even of one frame."""
    try:
        with Image.open(as_source(path), formats=IMAGE_FORMATS) as image:
            animated = image.format == "WEBP" and getattr(image, "is_animated", False)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return suffix_of(path) in {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
    if animated:
        raise MediaError(f"{path} is an animated WebP: convert it to GIF or MP4")
    return True


def _choose(
    path: MediaFile,
    index: _Index,
    num_frames: int | None,
    rng: np.random.Generator | None,
    start: float | None,
    end: float | None,
    clips: int = 1,
) -> Int[np.ndarray, "C*T"]:
    """Places, in the whole video, of the frames wanted of a segment."""
    low, high, times = 0, index.count, index.times
    tolerance, seconds = 1e-3 * index.step, times[-1] + index.step
    if start is not None:  # from the frame that is on display then
        if not 0 <= start < seconds:
            raise MediaError(f"{path} lasts {seconds:.2f} s: no segment from {start} s")
        low = int(np.searchsorted(times, start + tolerance, "right")) - 1
    if end is not None:
        if end <= (start or 0.0):
            raise MediaError(f"{path}: segment ends ({end} s) before it starts")
        high = max(low + 1, int(np.searchsorted(times, end - tolerance, "left")))
    if num_frames is None:
        return np.arange(low, high)
    return low + sample_indices(high - low, num_frames, rng, clips)


@contextmanager
def _opened(path: MediaFile) -> Iterator[tuple]:
    """The container and its video stream; FFmpeg's errors become `MediaError`."""
    try:
        with av.open(as_source(path), metadata_errors="ignore") as container:
            if container.format.name == "tty":  # FFmpeg would draw text as a picture
                raise MediaError(f"{path} is a text file, not a video")
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams})
                found = ", ".join(kinds) or "nothing"
                raise MediaError(f"{path} holds no video (only: {found})")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise MediaError(f"{path}: FFmpeg has no decoder for its video")
            yield container, stream
    except av.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise
        what = error.strerror or type(error).__name__
        raise MediaError(
            f"{path} is not a readable video ({what}): fetch it again or convert it"
        ) from error


def _index_packets(path: MediaFile) -> _Index:
    """Reads all packets of the video stream, decoding none."""
    with _opened(path) as (container, stream):
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        if not packets:
            raise MediaError(f"{path} holds no video frames: fetch it again")
        times = [packet.pts for packet in packets]
        reliable = (
            None not in times
            and len(set(times)) == len(times)
            # AVI has no presentation times; VP8 has packets that show nothing.
            and container.format.name != "avi"
            and stream.codec_context.name != "vp8"
        )
        if not reliable:
            rate = stream.average_rate or stream.guessed_rate or 25
            return _Index((), {}, np.arange(len(packets)) / float(rate))
        keys = {p.pts: p.dts for p in packets if p.is_keyframe and p.dts is not None}
        pts = sorted(times)
        seconds = (np.array(pts) - pts[0]) * float(stream.time_base)
        return _Index(tuple(pts), keys, seconds)


def _runs(
    index: _Index, wanted: Int[np.ndarray, "T"]
) -> list[tuple[int | None, list[int]]]:
    """Places to decode in one go each, and the decoding time to seek to before."""
    places = {pts: place for place, pts in enumerate(index.pts)}
    keys = np.array(sorted(places[pts] for pts in index.keys), dtype=int)
    runs: list[tuple[int | None, list[int]]] = [(None, [])]
    at = 0
    for place in np.unique(wanted).tolist():
        before = keys[keys <= place]
        if before.size and before[-1] - at >= SEEK_GAP:
            runs.append((index.keys[index.pts[before[-1]]], []))
        runs[-1][1].append(place)
        at = place + 1
    return [run for run in runs if run[1]]


def _decode_by_time(
    path: MediaFile, index: _Index, wanted: Int[np.ndarray, "T"]
) -> dict[int, np.ndarray] | None:
    """Frames by place, seeking over gaps; None if they do not keep their times."""
    found: dict[int, np.ndarray] = {}
    runs = _runs(index, wanted)
    with _opened(path) as (container, stream):
        convert = _converter(_set_threads(stream))
        for seek_to, places in runs:
            if seek_to is not None:
                container.seek(seek_to, stream=stream)
            pending = {index.pts[place]: place for place in places}
            last = -math.inf
            try:
                for frame in container.decode(stream):
                    if frame.pts is None or frame.pts <= last:
                        return None
                    last = frame.pts
                    if last in pending:
                        found[pending.pop(last)] = convert(frame)
                    if not pending:
                        break
            except av.FFmpegError:
                return None  # the counting decoder forgives single packets
            if pending:
                return None
    return found


def _decode_by_count(
    path: MediaFile, wanted: Int[np.ndarray, "T"]
) -> tuple[dict[int, np.ndarray], int]:
    """Frames by place, and how many the whole file gives; single bad packets pass."""
    chosen = set(wanted.tolist())
    found: dict[int, np.ndarray] = {}
    count = packets = bad = 0
    with _opened(path) as (container, stream):
        convert = _converter(_set_threads(stream))
        for packet in container.demux(stream):
            packets += 1
            try:
                frames = packet.decode()
            except av.FFmpegError:
                bad += 1
                continue
            for frame in frames:
                if count in chosen:
                    found[count] = convert(frame)
                count += 1
    if not count or bad > BAD_PACKETS * packets:
        raise MediaError(
            f"{path} is damaged ({bad} of {packets} packets do not decode): "
            "fetch it again or convert it"
        )
    return found, count


def _converter(
    threads: int,
) -> Callable[[av.VideoFrame], UInt8[np.ndarray, "H W 3"]]:
    """RGB and upright; one reformatter for all frames, as each costs a set-up."""
    reformatter = VideoReformatter()

    def convert(frame: av.VideoFrame) -> np.ndarray:
        turns = round(frame.rotation / 90)  # counter-clockwise, as in rot90
        frame = reformatter.reformat(frame, format="rgb24", threads=threads)
        array = frame.to_ndarray()
        return np.ascontiguousarray(np.rot90(array, turns)) if turns else array

    return convert


def _set_threads(stream: av.VideoStream) -> int:
    """One thread for small frames and in worker processes, all cores (0) otherwise."""
    small = stream.width * stream.height <= 256 * 256
    alone = small or multiprocessing.parent_process() is not None
    if alone:
        stream.codec_context.thread_count = 1
    else:
        stream.thread_type = "AUTO"
    return int(alone)
