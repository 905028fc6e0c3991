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
from mplug2_jax.training.config import RunConfig, default_config
from mplug2_jax.training.optimizer import make_optimizer

FILES = sorted(Path("configs").glob("*.py"))
FINDING = [path for path in FILES if path.stem.endswith("_retrieval")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_builds_its_model_and_optimizer(path):
    data = "validation" if read_config(str(path), [])["mixture"] else "train"
    values = {f"{data}.path": "x.jsonl", "optimizer.learning_rate": "1e-4"}
    overrides = [f"--config.{name}={value}" for name, value in values.items()]
    config = RunConfig.from_dict(read_config(str(path), overrides))
    assert getattr(config, data).path == "x.jsonl"
    assert config.optimizer.learning_rate == 1e-4
    boxes = {"coordinates": Coordinates((1, 2))} if config.task == "grounding" else {}
    task = TASKS[config.task](config.model, **boxes)
    assert abstract_params(config.model, task.modules)
    config.check_lengths(config.model)
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


@pytest.mark.parametrize("path", FINDING, ids=lambda path: path.stem)
def test_retrieval_validates_as_its_first_lines_say(path):
    config = read_config(str(path), [])
    said = re.findall(r"(?:\bk|--rerank) (\d+)", path.read_text())
    assert len(said) == 2 and {int(k) for k in said} == {config["rerank"]}


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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objectives.mlm=0.0", "objectives.mlm is 0, .*config.mixture.text.weight=0, "),
        (
            "mixture.image.batch.batch_size=1",
            "config.mixture.image.batch.batch_size is 1; config.objectives.vlm takes",
        ),
        (
            "objectives.queue_size=31",
            "image.batch.batch_size 32 does not fit into .*queue_size 31; expected",
        ),
        (
            "batch.batch_size=8",
            "config.batch.batch_size is 8, .* config.mixture.NAME.batch.batch_size of "
            r"the parts \(image, text, video\)",
        ),
        ("train.path=x", "config.train.path is 'x', .* config.mixture.NAME.data.path"),
    ],
)
def test_what_no_step_could_use_is_named(override, message):
    given = [f"--config.{override}"]
    with pytest.raises(ValueError, match=message):
        RunConfig.from_dict(read_config("configs/pretrain_shapes.py", given))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=-5", "config.steps is -5; expected 0 "),
        ("seed=-1", "config.seed is -1; expected a number from 0 "),
        ("max_skipped=-1", "config.max_skipped is -1; expected 0 "),
        ("distillation.ramp_steps=-1", "config.distillation.ramp_steps is -1"),
        ("distillation.momentum=1.5", "config.distillation.momentum is 1.5; .* share"),
        ("distillation.weight=2.0", "config.distillation.weight is 2.0; .* share"),
        (
            "mixture.text.batch.max_bad_share=-1.0",
            "config.mixture.text.batch.max_bad_share is -1.0; expected a share",
        ),
        ("model.vision.num_heads=0", "vision.num_heads is 0; expected at least 1"),
        ("model.vision.patch_size=0", "vision.patch_size is 0; expected at least 1"),
        ("model.text.dropout=1.0", "text.dropout is 1.0; expected a share"),
    ],
)
def test_numbers_that_mean_nothing_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        given = [f"--config.{override}"]
        RunConfig.from_dict(read_config("configs/pretrain_shapes.py", given))


def test_epochs_are_counted_where_no_steps_are_given():
    given = ["--config.train.path=x.jsonl", "--config.epochs=0.0"]
    with pytest.raises(ValueError, match="config.epochs is 0.0; expected"):
        RunConfig.from_dict(read_config("configs/tgif_qa.py", given))
    steps = [*given, "--config.steps=1"]
    assert RunConfig.from_dict(read_config("configs/tgif_qa.py", steps)).steps == 1


@pytest.mark.parametrize("length", [0, 1, 65])
def test_texts_fit_the_positions_of_the_model(length):
    given = [f"--config.inputs.text_length={length}"]
    values = read_config("configs/pretrain_shapes.py", given)
    config = RunConfig.from_dict(values)
    with pytest.raises(ValueError, match=f"text_length is {length}; .* to 64, the mod"):
        config.check_lengths(config.model)
    del values["mixture"]["text"]
    RunConfig.from_dict(values).check_lengths(config.model)  # nobody reads it
    default = default_config("pretraining", "tiny")
    assert default.inputs.text_length == default.model.text.max_positions


def test_retrieval_too_needs_another_pair():
    given = ["--config.batch.batch_size=1"]
    with pytest.raises(ValueError, match="config.batch.batch_size is 1; .*vlm takes"):
        RunConfig.from_dict(read_config("configs/retrieval_shapes.py", given))


@pytest.mark.parametrize(
    "overrides",
    [
        ["objectives.mlm=0.0", "mixture.text.weight=0.0"],
        ["mixture.text.batch.batch_size=1"],
        ["mixture.image.batch.batch_size=1", "objectives.vlm=0.0"],
        ["mixture.image.batch.batch_size=1", "mixture.image.weight=0.0"],
        ["objectives.queue_size=32"],
        ["objectives.queue_size=31", "objectives.negatives=batch"],
        ["objectives.queue_size=31", "objectives.vlc=0.0", "objectives.vlm=0.0"],
    ],
)
def test_what_the_objectives_do_not_ask_is_free(overrides):
    given = [f"--config.{its}" for its in overrides]
    RunConfig.from_dict(read_config("configs/pretrain_shapes.py", given))


def test_validation_of_media_that_no_part_has_is_read_by_the_run_s_batch():
    given = ["--config.batch.batch_size=8"]
    values = read_config("configs/pretrain_shapes.py", given)
    del values["mixture"]["image"]
    with pytest.raises(ValueError, match="config.batch.batch_size is 8, which"):
        RunConfig.from_dict(values)
    values["validation"]["path"] = "stills.jsonl"
    assert RunConfig.from_dict(values).batch.batch_size == 8


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
