"""Every file under `configs/` loads, takes overrides, and names what it refuses."""

import itertools
import re
from pathlib import Path

import pytest

from mplug2_jax.boxes import Coordinates
from mplug2_jax.cli.train import read_config
from mplug2_jax.data import shapes
from mplug2_jax.data.builders import DATASETS
from mplug2_jax.data.templates import KINDS, instruct
from mplug2_jax.data.tokenizers import open_tokenizer
from mplug2_jax.models.mplug2 import abstract_params
from mplug2_jax.tasks import TASKS
from mplug2_jax.training.config import RunConfig
from mplug2_jax.training.optimizer import make_optimizer

FILES = sorted(Path("configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_builds_its_model_and_optimizer(path):
    overrides = ["--config.train.path=x.jsonl", "--config.optimizer.learning_rate=1e-4"]
    config = RunConfig.from_dict(read_config(str(path), overrides))
    assert config.train.path == "x.jsonl"
    assert config.optimizer.learning_rate == 1e-4
    boxes = {"coordinates": Coordinates((1, 2))} if config.task == "grounding" else {}
    task = TASKS[config.task](config.model, **boxes)
    assert abstract_params(config.model, task.modules)
    make_optimizer(config.optimizer, 10)
    if config.task == "pretraining":
        assert {part.kind for part in config.mixture} == {"video", "image", "text"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_prepared_sets_are_there_to_prepare(path):
    """In its values and in the commands of its first lines."""
    config = read_config(str(path), [])
    parts = config["mixture"].values() if config["mixture"] else [config]
    data = [part.get("data") or part["train"] for part in parts]
    named = " ".join([path.read_text(), *(its["path"] or "" for its in data)])
    assert set(re.findall(r"mplug2_data/(\w+)/", named)) <= DATASETS.keys()
    assert set(re.findall(r"mplug2 prepare (\w+) ", named)) <= DATASETS.keys()


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("configs/none.py", [], "configs/none.py"),
        ("configs/tgif_qa.py", ["--config.optimizer.lr=1"], "lr"),
        ("configs/tgif_qa.py", ["--config.steps=many"], "many"),
        ("configs/tgif_qa.py", ["--steps=3"], "steps"),
    ],
)
def test_what_cannot_be_read_is_named(path, overrides, message):
    with pytest.raises(ValueError, match=message):
        read_config(path, overrides)


def test_the_shapes_vocabulary_has_every_word_as_one_token():
    """Of captions, questions and answers, and of the instructions around them."""
    tokenizer = open_tokenizer("configs/shapes_words.txt")
    words = {*shapes.vocabulary(), "yes", "no"}
    for number, kind in itertools.product(range(3), KINDS):
        for is_video in (True, False):
            given = {"caption": "red up", "question": "blue", "answer": "two"}
            text = " ".join(instruct(kind, number=number, is_video=is_video, **given))
            words.update(re.findall(r"\w+|[^\w\s]", text))
    assert {"describe", "image", ":"} < words
    assert [w for w in sorted(words) if len(tokenizer.encode(w)) != 2] == []
    assert len(tokenizer.spare_ids) == 64
