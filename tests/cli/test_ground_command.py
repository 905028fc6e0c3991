"""`mplug2 ground` on a real image, and `mplug2 evaluate` on boxes in pixels."""

import dataclasses
import json

import goldens
import numpy as np
import pytest
import small
from PIL import Image

from mplug2_jax.boxes import iou
from mplug2_jax.checkpoint.load import save_checkpoint
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.grounder import Grounder
from mplug2_jax.tasks.base import COMPOSITION

PHRASES = ("w1 w2", "w44")
BINS, WIDTH, HEIGHT = 32, 560, 420
MODULES = COMPOSITION["grounding"].modules


@pytest.fixture(scope="module")
def able(tmp_path_factory):
    """A checkpoint whose vocabulary has words to spare for coordinates."""
    pieces = [f"w{index}" for index in range(120)]
    pieces[0], pieces[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces[60 : 60 + BINS] = [f"[unused{index}]" for index in range(BINS)]
    folder = tmp_path_factory.mktemp("able") / "checkpoint"
    save_checkpoint(
        folder,
        goldens.params("base", MODULES),
        dataclasses.replace(small.metadata(MODULES, num_bins=BINS)),
        tokenizer=WordPieceTokenizer.from_vocab(pieces),
    )
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "picture.png"
    Image.fromarray(small.clip(0)[1]).resize((WIDTH, HEIGHT)).save(path)
    return path


def test_boxes_are_printed_in_pixels_and_drawn(mplug2, able, image, tmp_path):
    grounder = Grounder.from_checkpoint(able, batch_size=2)
    assert set(grounder.predictor.params) == set(MODULES)
    expected = grounder.ground(image, PHRASES)
    drawn = tmp_path / "new" / "marked.png"
    model = ("--checkpoint", able, "--batch-size", 2)
    status, lines, _ = mplug2("ground", image, *PHRASES, *model, "--output", drawn)
    assert status == 0
    for line, found in zip(lines, expected, strict=True):
        corners, phrase = line.split("\t")
        assert phrase == found.phrase
        ends = np.array(corners.split(), float)
        np.testing.assert_allclose(ends, found.pixels, atol=0.5)
        assert (ends[2:] > ends[:2]).all()
    with Image.open(drawn) as marked, Image.open(image) as plain:
        assert marked.size == plain.size == (WIDTH, HEIGHT)
        assert (np.asarray(marked) != np.asarray(plain.convert("RGB"))).any()
    status, lines, _ = mplug2("ground", image, *PHRASES, *model, "--json")
    first = json.loads(lines[0])
    assert first["box"] == pytest.approx(expected[0].pixels)
    assert first["size"] == [WIDTH, HEIGHT] and 0 < first["probability"] < 1


def test_own_boxes_in_pixels_are_scored(mplug2, able, image, tmp_path):
    found = Grounder.from_checkpoint(able).ground(image, PHRASES)
    x0, y0, x1, y1 = found[0].pixels
    boxes = [[x0, y0, x1, y1], [0, 0, 30, 21]]
    regions = [
        {"phrase": phrase, "box": box, "id": str(number)}
        for number, (phrase, box) in enumerate(zip(PHRASES, boxes, strict=True))
    ]
    line = {"image": str(image), "size": [WIDTH, HEIGHT], "regions": regions}
    data, output = tmp_path / "mine.jsonl", tmp_path / "results.json"
    data.write_text(json.dumps(line))
    model = ("--checkpoint", able, "--annotations", data, "--batch-size", 2)
    model += ("--devices", 1)
    status, lines, _ = mplug2("evaluate", *model, "--output", output)
    missed = iou(np.array(boxes[1]), np.array(found[1].pixels))
    assert status == 0 and missed < 0.5
    values = dict(line.split() for line in lines)
    assert values["grounding/accuracy_50"] == "50.00"
    assert float(values["grounding/mean_iou"]) == pytest.approx(
        50 * (1 + missed), abs=0.01
    )
    records = json.loads(output.read_text())["records"]["grounding"]
    assert [r["id"] for r in records] == ["0", "1"]
    assert records[0]["box"] == pytest.approx(records[0]["true_box"])


def test_what_cannot_be_done_is_one_line(
    mplug2, able, checkpoint, image, clips, tmp_path
):
    def error(*arguments):
        status, lines, said = mplug2(*arguments)
        assert status == 2 and not lines and said.count("\n") == 1
        return said

    model = ("--checkpoint", able)
    assert "A phrase is empty" in error("ground", image, " ", *model)
    assert "not a readable image" in error("ground", clips[0], "w1", *model)
    assert "gone.png" in error("ground", tmp_path / "gone.png", "w1", *model)
    assert "ends in one of .png" in error(
        "ground", image, "w1", *model, "--output", "marked.txt"
    )
    unable = ("--checkpoint", checkpoint)
    assert "knows no boxes" in error("ground", image, "w1", *unable)
    outside = {"image": str(image), "phrase": "w1", "box": [0, 0, 600, 9]}
    data = tmp_path / "bad.jsonl"
    data.write_text(json.dumps({**outside, "size": [WIDTH, HEIGHT]}))
    annotated = ("--annotations", data, "--task", "grounding")
    assert "bad.jsonl, line 1: the box" in error("evaluate", *model, *annotated)
