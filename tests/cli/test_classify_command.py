"""A classifier trained on the synthetic world, chosen on validation data, and used."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mplug2_jax.checkpoint.load import read_metadata
from mplug2_jax.data import shapes
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import BatchConfig
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.models.config import (
    FusionConfig,
    MPlug2Config,
    TextConfig,
    UniversalConfig,
    VisionConfig,
)
from mplug2_jax.training.config import DataConfig, RunConfig
from mplug2_jax.training.loop import train
from mplug2_jax.training.optimizer import OptimizerConfig

COLORS = ("red", "green", "blue", "yellow")
COUNTS = {"train": 48, "validation": 16, "test": 24}
CHANCE = 1 / len(COLORS)


def write_images(folder, split):
    """Still images of one coloured shape each, and their annotations."""
    lines = []
    for number in range(COUNTS[split]):
        rng = shapes.scene_rng(split, 5, number)
        scene = shapes.make_scene(rng)
        color = COLORS[number % len(COLORS)]
        thing = dataclasses.replace(scene.objects[0], color=color)
        pixels = shapes.render(dataclasses.replace(scene, objects=(thing,)), 1, 24)
        name = f"{split}{number}.png"
        Image.fromarray(np.asarray(pixels[0])).save(folder / name)
        lines.append({"image": name, "label": color})
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    for split in COUNTS:
        write_images(folder, split)
    WordPieceTokenizer.from_words(shapes.vocabulary()).save(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def trained(world):
    """The workdir of a run of a few dozen steps."""
    text = TextConfig(32, 2, 64, 2, 40, 32, dropout=0.0, attention_dropout=0.0)
    config = RunConfig(
        "image_classification",
        MPlug2Config(
            vision=VisionConfig(32, 1, 2, 12, 24, 64),
            text=text,
            fusion=FusionConfig(1),
            universal=UniversalConfig(2, 4),
        ),
        DataConfig(str(world / "train.jsonl")),
        DataConfig(str(world / "validation.jsonl")),
        vocab=str(world / "tokenizer"),
        inputs=InputConfig(1, 16, 10, 3, prompt="", text_length=8),
        batch=BatchConfig(batch_size=16, crop_scale=None, flip=False, randaugment=None),
        optimizer=OptimizerConfig(
            3e-3, 3e-3, schedule="constant", clip_norm=1.0, layer_decay=0.9
        ),
        devices=1,
        steps=60,
        log_every=20,
        eval_every=30,
        save_every=60,
    )
    train(config, world / "run")
    return world / "run"


def test_the_best_checkpoint_is_chosen_by_accuracy(trained):
    stored = read_metadata(trained / "best")
    assert tuple(stored.inputs["classes"]) == tuple(sorted(COLORS))
    assert stored.source["score"] >= 3 * CHANCE
    assert "text" not in stored.modules and "classifier" in stored.modules


def test_a_run_on_colours_classifies_new_images(mplug2, trained, world):
    files = [world / f"test{i}.png" for i in range(COUNTS["test"])]
    status, lines, _ = mplug2("classify", *files, "--checkpoint", trained)
    assert status == 0
    said = [line.split("\t") for line in lines]
    assert [file for file, _ in said] == list(map(str, files))
    right = [color == COLORS[i % 4] for i, (_, color) in enumerate(said)]
    assert np.mean(right) >= 3 * CHANCE
    status, lines, _ = mplug2(
        *("evaluate", "--checkpoint", trained, "--task", "classification"),
        *("--annotations", world / "test.jsonl", "--output", world / "out.json"),
        *("--devices", 1),
    )
    assert status == 0
    metrics = json.loads((world / "out.json").read_text())["metrics"]["classification"]
    assert metrics == {"accuracy": pytest.approx(np.mean(right)), "n": COUNTS["test"]}


def test_json_scores_views_and_bad_files(mplug2, trained, world, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    wide = tmp_path / "wide.png"
    Image.open(world / "test0.png").resize((72, 24)).save(wide)
    status, lines, errors = mplug2(
        *("classify", wide, bad, "--checkpoint", trained, "--top-k", 4, "--json"),
        *("--clips", 2, "--crops", 3),
    )
    assert status == 1 and "bad.png" in errors
    (found,) = map(json.loads, lines)
    shares = {its["class"]: its["probability"] for its in found["classes"]}
    assert set(shares) == set(COLORS)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert found["class"] == max(shares, key=lambda name: shares[name])
    _, lines, _ = mplug2(
        "classify", wide, "--checkpoint", trained, "--scores", "--top-k", 2
    )
    assert len(lines) == 2 and len(lines[0].split("\t")) == 3
    single = dict(line.split("\t")[1:] for line in lines)
    # An evaluation averages the same views of two such images.
    shutil.copy(wide, tmp_path / "again.png")
    annotated = ({"image": name, "label": "red"} for name in ("wide.png", "again.png"))
    (tmp_path / "wide.jsonl").write_text("\n".join(map(json.dumps, annotated)))
    status, _, _ = mplug2(
        *("evaluate", "--checkpoint", trained, "--task", "classification"),
        *("--annotations", tmp_path / "wide.jsonl", "--clips", 2, "--crops", 3),
        *("--output", tmp_path / "out.json", "--devices", 1),
    )
    assert status == 0
    records = json.loads((tmp_path / "out.json").read_text())["records"]
    for record in records["classification"]:
        assert record["prediction"] == found["class"]
        assert record["score"] == pytest.approx(found["probability"], abs=1e-5)
        assert record["score"] != pytest.approx(float(single[found["class"]]), abs=1e-3)


def test_errors_are_one_line(mplug2, trained, world):
    image = world / "test0.png"
    given = ("classify", image, "--checkpoint", trained)
    status, _, error = mplug2(*given, "--template", "a {}")
    assert status == 2 and "name them by --classes" in error
    status, _, error = mplug2(*given, "--top-k", 5)
    assert status == 2 and "there are 1 to 4" in error
    status, _, error = mplug2(*given, "--clips", 0)
    assert status == 2 and "expected 1 clip or more" in error
    names = world / "names.txt"
    names.write_text("red\nblue\tdeep blue\n")
    status, _, error = mplug2(*given, "--classes", names)
    assert status == 2 and "text" in error
