"""Order, shares of processes, position and worker processes of the batch stream."""

import dataclasses
import time

import numpy as np
import pytest
from PIL import Image

from mplug2_jax.data import shapes
from mplug2_jax.data.batches import Batches, batches_of
from mplug2_jax.data.faults import Faults, TooManyFaultsError
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import BatchConfig, training_batches
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.types import MultimodalBatch, Tokens

INPUTS = InputConfig(2, 18, 9, 3, prompt="")
CONFIG = BatchConfig(4, captions_per_video=1, threads=2)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.from_words(shapes.vocabulary())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    shapes.write_dataset(folder, "train", 10, num_frames=4, size=24)
    return folder


@pytest.fixture(scope="module")
def examples(folder):
    return read_jsonl(folder / "train.jsonl")


def stream(examples, tokenizer, config=CONFIG, **where):
    return training_batches(examples, tokenizer, INPUTS, config, 16, 5, **where)


def take(batches, count):
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def test_processes_share_every_global_batch(examples, tokenizer):
    whole = take(stream(examples, tokenizer), 6)
    for count in (2, 4):
        shares = [
            take(stream(examples, tokenizer, process_index=i, process_count=count), 6)
            for i in range(count)
        ]
        for step, batch in enumerate(whole):
            parts = [share[step] for share in shares]
            frames = np.concatenate([part.frames for part in parts])
            np.testing.assert_array_equal(frames, batch.frames)
            texts = np.concatenate([part.caption.values for part in parts])
            np.testing.assert_array_equal(texts, batch.caption.values)


def test_a_batch_that_processes_cannot_share_is_an_error(examples, tokenizer):
    with pytest.raises(ValueError, match="batch_size 4 does not divide .* 3 processes"):
        stream(examples, tokenizer, process_count=3)


def test_a_position_fits_every_number_of_processes_and_threads(examples, tokenizer):
    batches = stream(examples, tokenizer)
    take(batches, 3)
    state = batches.get_state()
    assert state == {"step": 3}
    expected = take(batches, 2)
    threads = dataclasses.replace(CONFIG, threads=1)
    again = stream(examples, tokenizer, threads, process_index=1, process_count=2)
    again.set_state(state)
    for found, whole in zip(take(again, 2), expected, strict=True):
        np.testing.assert_array_equal(found.frames, whole.frames[2:])


def test_unreadable_and_missing_media_are_replaced(folder, tokenizer, tmp_path, caplog):
    lines = (folder / "train.jsonl").read_text()
    (tmp_path / "train").mkdir()
    for clip in (folder / "train").iterdir():
        (tmp_path / "train" / clip.name).write_bytes(clip.read_bytes())
    (tmp_path / "train.jsonl").write_text(lines)
    (tmp_path / "train" / "00003.mp4").write_bytes(b"no film")
    (tmp_path / "train" / "00007.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 10 media are not in"):
        read_jsonl(tmp_path / "train.jsonl", max_bad_share=0.05)
    examples = read_jsonl(tmp_path / "train.jsonl", max_bad_share=0.2)
    config = dataclasses.replace(CONFIG, max_bad_share=0.2, crop_scale=None)
    batches = stream(examples, tokenizer, config)
    first = take(batches, 8)
    assert sorted(batches.faults["training data"].bad) == [2, 6]
    assert "00003.mp4" in caplog.text and "00007.mp4" in caplog.text
    again = stream(examples, tokenizer, config)
    for one, two in zip(first, take(again, 8), strict=True):
        np.testing.assert_array_equal(one.frames, two.frames)
    strict = dataclasses.replace(config, max_bad_share=0.1)
    with pytest.raises(TooManyFaultsError, match="max_bad_share=0.1"):
        take(stream(examples, tokenizer, strict), 8)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [("still.mp4", "JPEG", "not a video"), ("moving.webp", "WEBP", "animated WebP")],
)
def test_media_of_another_kind_are_replaced(
    examples, tokenizer, tmp_path, caplog, name, kind, message
):
    """Told by what is in the file, whatever it is called."""
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    more = {"save_all": True, "append_images": frames[1:]} if kind == "WEBP" else {}
    frames[0].save(tmp_path / name, kind, **more)
    mixed = list(examples)
    mixed[2] = dataclasses.replace(mixed[2], media=tmp_path / name)
    config = dataclasses.replace(CONFIG, max_bad_share=0.1, crop_scale=None)
    batches = stream(mixed, tokenizer, config)
    found = take(batches, 5)
    assert list(batches.faults["training data"].bad) == [2]
    assert name in caplog.text and message in caplog.text
    again = stream([*mixed[:2], mixed[3], *mixed[3:]], tokenizer, config)
    for one, two in zip(found, take(again, 5), strict=True):
        np.testing.assert_array_equal(one.frames, two.frames)
    strict = dataclasses.replace(config, max_bad_share=0.05)
    with pytest.raises(ValueError, match=f"1 of 10 .*{name}"):
        take(stream(mixed, tokenizer, strict), 5)


@pytest.mark.slow
def test_a_worker_process_gives_the_same_batches(examples, tokenizer):
    workers = dataclasses.replace(CONFIG, processes=1)
    for one, two in zip(
        take(stream(examples, tokenizer), 5),
        take(stream(examples, tokenizer, workers), 5),
        strict=True,
    ):
        np.testing.assert_array_equal(one.frames, two.frames)
        assert one.is_video == two.is_video


@pytest.mark.slow
def test_faults_of_all_worker_processes_count_together(caplog):
    """Items 0 to 39 of which three are bad: one hangs; no worker meets all three."""
    order = [batch.text.values for batch in take(numbers({}), 20)]
    met = [np.concatenate(order[worker::2]).ravel() for worker in range(2)]
    hangs, fails, last = met[0][2], met[1][3], met[1][-1]
    bad = {int(place): place == hangs for place in (hangs, fails, last)}
    with pytest.raises(TooManyFaultsError, match="3 of 40 .*max_bad_share=0.05"):
        take(numbers(bad, 0.05, 2), 20)
    assert "longer than 0.5 s" in caplog.text and f"no item {fails}" in caplog.text


def numbers(bad, share=0.0, processes=0):
    """Batches of numbers as texts; the bad ones fail, or hang where True."""

    def load(item, rng):
        if item in bad:
            time.sleep(60 * bad[item])
            raise OSError(f"no item {item}")
        row = np.array([[item]])
        return MultimodalBatch(text=Tokens(row, row), is_video=False)

    config = BatchConfig(2, timeout=0.5)
    faults = Faults("numbers", 40, share)
    dataset = batches_of(range(40), load, config, 0, faults)
    return Batches(dataset, 1, processes, {"numbers": faults})
