"""Images upright and in RGB; augmentation alike for all frames of a clip."""

import numpy as np
import pytest
from PIL import Image

from mplug2_jax.data.image import (
    OPERATIONS,
    MediaError,
    _operation,
    augment_frames,
    random_box,
    read_image,
    resize,
)

ORIENTATION = 0x0112  # EXIF tag


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 5 * y, 128 + 0 * x], -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.tiff"])
def test_lossless_formats_give_the_pixels(tmp_path, name):
    Image.fromarray(picture()).save(tmp_path / name, lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / name), picture())


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # stored turned; display turns it clockwise
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(picture(), -1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_other_modes_become_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(picture()).convert(mode).save(tmp_path / f"a.{suffix}")
    pixels = read_image(tmp_path / f"a.{suffix}", size=16)
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8


def test_sixteen_bits_of_grey_keep_their_range(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(pixels[..., 0], ramp / 257, atol=1)


def test_damaged_images_are_named(tmp_path):
    whole = tmp_path / "a.png"
    Image.fromarray(picture()).save(whole)
    for name, data in {
        "cut.png": whole.read_bytes()[:-40],
        "text.png": b"this is not an image at all",
        "empty.png": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(MediaError, match="directory"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.png"):
        read_image(tmp_path / "none.png")


def test_resize_averages_and_ignores_the_aspect():
    checks = (np.indices((64, 96)).sum(0) % 2 * 255).astype(np.uint8)
    frames = np.repeat(checks[None, ..., None], 3, axis=-1)
    small = resize(frames, 8)
    assert small.shape == (1, 8, 8, 3)
    np.testing.assert_allclose(small, 127.5, atol=3)
    assert resize(frames, (64, 96)) is frames
    assert resize(frames, (10, 20)).shape == (1, 10, 20, 3)


def test_random_boxes_fit_and_keep_the_share():
    rng = np.random.default_rng(0)
    shares, aspects, corners = [], [], []
    for _ in range(500):
        left, top, right, bottom = random_box(rng, 90, 120, (0.5, 1.0))
        assert 0 <= left < right <= 120 and 0 <= top < bottom <= 90
        shares.append((right - left) * (bottom - top) / (90 * 120))
        aspects.append((right - left) / (bottom - top))
        corners.append((left, top))
    assert 0.48 < min(shares) < 0.55 and max(shares) > 0.9
    assert 0.73 < min(aspects) < 0.85 and 1.2 < max(aspects) < 1.37
    assert len(set(corners)) > 100
    # A strip fits no crop of such an aspect and share: the middle is taken.
    assert random_box(rng, 10, 100, (0.9, 1.0)) == (43, 0, 56, 10)


def clip() -> np.ndarray:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 60, (48, 64, 3))
    return np.repeat((picture(48, 64) // 2 + noise)[None], 4, 0).astype(np.uint8)


def test_all_frames_change_alike():
    for seed in range(40):
        frames = augment_frames(clip(), np.random.default_rng(seed), 32)
        assert frames.shape == (4, 32, 32, 3) and frames.dtype == np.uint8
        assert (frames == frames[:1]).all()


def test_augmentation_follows_its_generator():
    results = [
        augment_frames(clip(), np.random.default_rng(seed), 32).tobytes()
        for seed in (0, 0, 1, 2, 3)
    ]
    assert results[0] == results[1]
    assert len(set(results)) == 4


def test_flip_is_a_choice():
    whole = (1.0, 1.0)
    left = np.zeros((1, 32, 32, 3), np.uint8)
    left[:, :, :8] = 255

    def left_is_bright(seed: int, flip: bool) -> bool:
        rng = np.random.default_rng(seed)
        frame = augment_frames(left, rng, 32, whole, flip, randaugment=None)[0]
        return bool(frame[:, :10].mean() > frame[:, -10:].mean())

    assert all(left_is_bright(seed, flip=False) for seed in range(20))
    assert 4 < sum(left_is_bright(seed, flip=True) for seed in range(20)) < 16


def test_every_operation_but_identity_shows():
    frames = clip()[:, :, :48]
    image = Image.fromarray(frames[0])
    seen = {}
    for name in OPERATIONS:
        for seed in (0, 1, 2):
            rng = np.random.default_rng(seed)
            changed = np.asarray(_operation(name, 0.7, rng, frames, 48)(image))
            assert changed.shape == frames[0].shape
            seen.setdefault(name, []).append((changed != frames[0]).mean())
    assert seen.pop("identity") == [0, 0, 0]
    assert all(min(shares) > 0.1 for shares in seen.values()), seen


def test_the_middle_level_leaves_light_and_sharpness():
    frames = clip()
    for name in ("brightness", "contrast", "sharpness"):
        change = _operation(name, 0.5, np.random.default_rng(0), frames, 64)
        square = Image.fromarray(frames[0]).resize((64, 64))
        difference = np.asarray(change(square), int) - np.asarray(square, int)
        assert np.abs(difference).max() <= 2  # factor 0.1 + 1.8 / 2 = 1
