"""Media in memory, examples as records, and training from prepared data sets."""

import dataclasses
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mplug2_jax.cli.main import main
from mplug2_jax.data import shapes, video
from mplug2_jax.data.builders.declaration import SHARD_SIZES
from mplug2_jax.data.containers import missing_bytes
from mplug2_jax.data.examples import QA, Example, Label, Region
from mplug2_jax.data.faults import TooManyFaultsError
from mplug2_jax.data.files import MediaError, StoredFile
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.mixture import mixture_batches, parts_of
from mplug2_jax.data.opening import DataConfig, open_examples, open_texts
from mplug2_jax.data.pipeline import (
    BatchConfig,
    all_images,
    epochs_to_steps,
    training_batches,
)
from mplug2_jax.data.records import Records, from_record, to_record
from mplug2_jax.data.targets import targets_of
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.data.video import read_media

INPUTS = InputConfig(2, 18, 12, 18, prompt="", text_length=10)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("shapes", "shapes_images", "shapes_texts"):
        counts = ["--counts", "train=6"]
        assert main(["prepare", name, "--data-dir", str(folder), *counts]) == 0
    return folder / "mplug2_data"


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.from_words(shapes.vocabulary())


def path(prepared, name):
    return str(prepared / name / "1.0.0")


def test_media_in_memory_are_read_like_files(tmp_path):
    clip, still = tmp_path / "clip.mp4", tmp_path / "still.png"
    scene = shapes.make_scene(np.random.default_rng(1))
    clip.write_bytes(shapes.encode_mp4(shapes.render(scene, 5, 32)))
    Image.fromarray(shapes.render(scene, 1, 32)[0]).save(still)
    for file in (clip, still):
        stored = StoredFile(file.name, file.read_bytes())
        expected, found = read_media(file, 3), read_media(stored, 3)
        np.testing.assert_array_equal(found.frames, expected.frames)
        assert found.image == expected.image
    stored = StoredFile("clip.mp4", clip.read_bytes())
    its, own = (video._index_packets(file).times for file in (stored, clip))
    np.testing.assert_array_equal(its, own)


def test_damaged_media_in_memory_are_named(tmp_path):
    clip = shapes.encode_mp4(np.zeros((4, 32, 32, 3), np.uint8))
    assert missing_bytes(StoredFile("a.mp4", clip[:-9])) > 0
    for data in (clip[:-9], b"nothing", b""):
        with pytest.raises(MediaError, match=r"a\.mp4"):
            read_media(StoredFile("a.mp4", data), 2)
    with pytest.raises(MediaError, match=r"a\.png"):
        read_media(StoredFile("a.png", b"nothing"), 1)


def test_a_record_keeps_everything(prepared):
    example = Records(path(prepared, "shapes"), "train")[2]
    questions = (
        QA("what", ("red", "blue"), (0.75, 0.25), "color", "q1"),
        QA("who", ("he",), (1.0,)),
    )
    example = dataclasses.replace(
        example,
        questions=questions,
        start=1.5,
        labels=(Label("red"), Label("yes", "is it red", "l1")),
        regions=(Region("the ball", (0.0, 0.25, 0.5, 1.0), "r1"),),
        others=(StoredFile(f"{example.id}/b.png", b"other"),),
    )
    record = to_record(example, example.media.data, [b"other"])
    tables = {
        name: {column: [row[column] for row in rows] for column in rows[0]}
        for name, rows in record.items()
        if isinstance(rows, list) and isinstance(rows[0], dict)
    }
    assert set(tables) == {"questions", "answers", "labels", "regions", "others"}
    again = from_record(record | tables)
    assert again.others[0].data == b"other"
    assert again == example and again.media.data == example.media.data


def test_prepared_clips_are_what_was_made(prepared):
    examples = open_examples(DataConfig(path(prepared, "shapes")))
    assert len(examples) == 6 and [e.id for e in examples[4:]] == [
        "train/000004",
        "train/000005",
    ]
    scene = shapes.make_scene(shapes.scene_rng("train", 0, 4))
    assert examples[4].captions == (shapes.caption(scene),)
    asked = [q.question for q in shapes.questions(scene)]
    assert [q.question for q in examples[4].questions] == asked
    expected = shapes.encode_mp4(shapes.render(scene, 9, 48))
    assert examples[4].media.data == expected
    with pytest.raises(IndexError):
        examples[6]


def test_kinds_are_kept_apart(prepared):
    assert not all_images(open_examples(DataConfig(path(prepared, "shapes"))))
    assert all_images(open_examples(DataConfig(path(prepared, "shapes_images"))))
    texts = open_texts(DataConfig(path(prepared, "shapes_texts")))
    assert len(texts) == 6 and all("moves" in text for text in texts)
    with pytest.raises(ValueError, match="holds texts"):
        open_examples(DataConfig(path(prepared, "shapes_texts")))
    with pytest.raises(ValueError, match="holds videos; expected texts"):
        open_texts(DataConfig(path(prepared, "shapes")))


def test_training_reads_records(prepared, tokenizer):
    examples = open_examples(DataConfig(path(prepared, "shapes")))
    config = BatchConfig(2, captions_per_video=1, questions_per_video=2, threads=1)
    batches = training_batches(examples, tokenizer, INPUTS, config, 16, seed=0)
    batch = next(batches)
    batches.close()
    assert batch.frames.shape == (2, 2, 16, 16, 3) and batch.is_video
    assert batch.question.values.shape[0] == 4
    captions = BatchConfig(2, captions_per_video=1)
    targets = targets_of("captioning", tokenizer, INPUTS, captions)
    assert epochs_to_steps(3, examples, 2, targets) == 9
    images = open_examples(DataConfig(path(prepared, "shapes_images")))
    with pytest.raises(ValueError, match="None of the 6 examples has questions"):
        training_batches(images, tokenizer, INPUTS, config, 16, seed=0)


def test_a_mixture_of_prepared_sets(prepared, tokenizer):
    batch = {"batch_size": 2, "threads": 2}
    names = {"video": "shapes", "image": "shapes_images", "text": "shapes_texts"}
    values = {
        kind: {"kind": kind, "data": {"path": path(prepared, name)}, "batch": batch}
        for kind, name in names.items()
    }
    batches = mixture_batches(parts_of(values), tokenizer, INPUTS, 16, seed=1)
    found = dict(next(batches) for _ in range(12))
    batches.close()
    assert set(found) == set(names) == set(batches.faults)
    assert not any(its.bad for its in batches.faults.values())
    assert found["text"].text.values.shape == (2, 10)
    assert found["image"].frames.shape[1] == 1


def test_damaged_shards_are_faults_of_their_records(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setitem(SHARD_SIZES, "text", 2)
    options = ["--data-dir", str(tmp_path), "--counts", "train=6"]
    assert main(["prepare", "shapes_texts", *options]) == 0
    folder = path(tmp_path / "mplug2_data", "shapes_texts")
    first, second, _ = sorted(Path(folder).glob("*.array_record*"))
    first.write_bytes(first.read_bytes()[:-9])
    second.unlink()
    values = {"kind": "text", "data": {"path": folder}}
    for share in (0.7, 0.5):
        batch = {"batch_size": 1, "threads": 1, "max_bad_share": share}
        parts = parts_of({"texts": {**values, "batch": batch}})
        batches = mixture_batches(parts, tokenizer, INPUTS, 16, seed=0)
        if share > 4 / 6:
            assert {name for name, _ in itertools.islice(batches, 12)} == {"texts"}
            bad = batches.faults["texts"].bad
            assert sorted(bad) == list(range(4)) and "record 3 of" in bad[3]
        else:
            with pytest.raises(TooManyFaultsError, match="4 of 6 items of texts"):
                list(itertools.islice(batches, 12))
        batches.close()


def test_records_travel_to_worker_processes(prepared):
    records = Records(path(prepared, "shapes"), "train")
    again = pickle.loads(pickle.dumps(records))
    assert again[1] == records[1] and again.kind == "video"


def test_texts_of_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("one two\n\n three \n")
    assert open_texts(DataConfig(str(tmp_path / "a.txt"))) == ["one two", "three"]
    (tmp_path / "b.txt").write_text("\n")
    with pytest.raises(ValueError, match="holds no text"):
        open_texts(DataConfig(str(tmp_path / "b.txt")))
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="not UTF-8"):
        open_texts(DataConfig(str(tmp_path / "c.txt")))


def test_questions_alone_are_pairs_too(tmp_path, tokenizer):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "still.png")
    line = '{"image": "still", "question": "what color is it", "answer": "red"}\n'
    (tmp_path / "qa.jsonl").write_text(line)
    part = {"kind": "image", "data": {"path": str(tmp_path / "qa.jsonl")}}
    parts = parts_of({"vqa": {**part, "batch": {"batch_size": 1, "threads": 1}}})
    batches = mixture_batches(parts, tokenizer, INPUTS, 16, seed=0)
    _, batch = next(batches)
    batches.close()
    row = batch.answer.values[0]
    assert tokenizer.decode(row[row > 0]) == "red"
    row = batch.caption.values[0]
    assert tokenizer.decode(row[row > 0]).endswith("color is it red")


def test_an_example_is_what_it_was(prepared):
    """Media compare by name: the clips that a reader keeps must not be confused."""
    one, two = Records(path(prepared, "shapes"), "train")[:2]
    assert one.media != two.media and hash(one.media) != hash(two.media)
    assert isinstance(one, Example)
