"""Batches that are planned for against batches that the data pipeline makes."""

import dataclasses
import json

import jax
import pytest
from PIL import Image

from mplug2_jax.data import shapes
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.mixture import PartConfig
from mplug2_jax.data.opening import DataConfig
from mplug2_jax.data.pipeline import BatchConfig
from mplug2_jax.data.tokenizers import open_tokenizer
from mplug2_jax.models.config import preset
from mplug2_jax.planning.batches import batches
from mplug2_jax.planning.stand_ins import planned_task
from mplug2_jax.sharding.mesh import make_mesh
from mplug2_jax.tasks import TASKS
from mplug2_jax.training.config import INSTRUCTED, RunConfig
from mplug2_jax.training.start import Source, make_task

INPUTS = InputConfig(2, 9, 6, 4, prompt="", text_length=12, classes=("red", "blue"))
BATCH = BatchConfig(
    *(3, 1, 2, 2, 2), crop_scale=None, flip=False, randaugment=None, threads=1
)
IMAGES = ("grounding", "image_classification", "pair_classification")
VOCAB = "configs/shapes_words.txt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos, images, pairs of images and texts, annotated for every task."""
    folder = tmp_path_factory.mktemp("world")
    shapes.write_dataset(folder, "train", 3, num_frames=2, size=24)
    videos = [json.loads(x) for x in (folder / "train.jsonl").read_text().splitlines()]
    files = {"videos": [], "images": [], "pairs": [], "texts": []}
    for number, video in enumerate(videos):
        Image.new("RGB", (24, 24)).save(folder / f"{number}.png")
        about = {"labels": [{"label": ("red", "blue")[number % 2]}]}
        text = {"text": "two red", "label": "red"}
        places = {"regions": [{"phrase": "blue", "box": [0, 0, 0.5, 0.5]}]}
        files["videos"].append(video | about)
        files["images"].append({"image": f"{number}.png", **about, **places})
        both = [f"{number}.png", f"{(number + 1) % 3}.png"]
        files["pairs"].append({"images": both, "labels": [text]})
        files["texts"].append(text)
    for name, lines in files.items():
        content = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(content)
    return folder


def config_of(task: str, folder) -> RunConfig:
    inputs, model, data = INPUTS, preset("tiny"), "videos"
    if task == INSTRUCTED:
        inputs = dataclasses.replace(inputs, instruction="describe the video.")
    if task == "grounding":
        inputs = dataclasses.replace(inputs, num_bins=8)
    if task in IMAGES:
        data = "pairs" if task == "pair_classification" else "images"
    if task == "pair_classification":
        model = model.replace(classifier={"num_media": 2})
    if task == "text_classification":
        data = "texts"
    source = DataConfig(str(folder / f"{data}.jsonl"))
    its: dict = {"train": source}
    if task == "pretraining":
        its = {"mixture": (PartConfig("clips", data=source, batch=BATCH),), "steps": 1}
    return RunConfig(task, model, vocab=VOCAB, inputs=inputs, batch=BATCH, **its)


@pytest.mark.parametrize("task", TASKS)
def test_planned_task_and_batches_are_training_s(task, folder):
    config = config_of(task, folder)
    tokenizer, mesh = open_tokenizer(VOCAB), make_mesh()
    trained = make_task(config, tokenizer, mesh)
    assert planned_task(config, mesh) == trained
    source = Source(config, trained, tokenizer, mesh)
    _, made = next(iter(source))
    source.batches.close()
    (share,) = batches(config)
    planned = share.batch
    assert planned.is_video == made.is_video and share.rows == 3
    shapes_of = [
        {
            jax.tree_util.keystr(path): (leaf.shape, leaf.dtype)
            for path, leaf in jax.tree_util.tree_leaves_with_path(its)
        }
        for its in (planned, made)
    ]
    assert shapes_of[0] == shapes_of[1]
