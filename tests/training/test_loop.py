"""A whole run on real files: it learns, resumes, and says what is wrong."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mplug2_jax.checkpoint.load import load_checkpoint
from mplug2_jax.data import shapes
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import BatchConfig
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.training import loop
from mplug2_jax.training.config import DataConfig, RunConfig, default_config
from mplug2_jax.training.loop import train
from mplug2_jax.training.optimizer import OptimizerConfig


@pytest.fixture(scope="module")
def run_config(tmp_path_factory, small_config) -> RunConfig:
    folder = tmp_path_factory.mktemp("world")
    annotations = shapes.write_dataset(folder, "train", 6, num_frames=4, size=24)
    WordPieceTokenizer.from_words(shapes.vocabulary()).save(folder / "tokenizer")
    return RunConfig(
        "caption_and_answer",
        small_config,
        DataConfig(str(annotations)),
        vocab=str(folder / "tokenizer"),
        inputs=InputConfig(2, 16, 10, 3, prompt=""),
        batch=BatchConfig(
            batch_size=3,
            captions_per_video=1,
            questions_per_video=2,
            crop_scale=None,
            keep_clips=True,
        ),
        optimizer=OptimizerConfig(3e-3, 3e-3, schedule="constant"),
        decoding=Decoding("greedy"),
        steps=8,
        log_every=2,
        save_every=4,
    )


def losses(workdir):
    lines = [
        json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    return {line["step"]: line.get("train/answer_loss") for line in lines}


class Killed(Exception):
    """Stands for whatever ends a run between two steps."""


@pytest.mark.slow
def test_resumed_run_equals_a_straight_one(run_config, tmp_path, monkeypatch):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(run_config, straight)
    real = loop.make_step

    def make_dying_step(*args):
        step = real(*args)

        def advance(state, batch, rng):
            if int(state.step) == 6:  # step 4 is saved by then
                raise Killed
            return step(state, batch, rng)

        return advance

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "make_step", make_dying_step)
        train(run_config, stopped)
    train(run_config, stopped)
    assert losses(straight)[8] == losses(stopped)[8]
    first, _ = load_checkpoint(straight / "final")
    second, _ = load_checkpoint(stopped / "final")
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.slow
def test_validation_keeps_the_best(run_config, tmp_path):
    config = dataclasses.replace(
        run_config, validation=run_config.train, eval_every=4, steps=8
    )
    results = train(config, tmp_path / "run")
    assert {"qa/accuracy", "caption/exact_match", "score"} <= set(results)
    _, metadata = load_checkpoint(tmp_path / "run" / "best")
    assert metadata.source["score"] >= results["score"]
    assert metadata.inputs["num_frames"] == 2


def test_another_configuration_in_the_same_workdir_is_named(run_config, tmp_path):
    workdir = tmp_path / "run"
    train(dataclasses.replace(run_config, steps=1), workdir)
    with pytest.raises(ValueError, match=r"config\.optimizer\.eps=1e-08, now it is"):
        optimizer = dataclasses.replace(run_config.optimizer, eps=1e-6)
        train(dataclasses.replace(run_config, steps=1, optimizer=optimizer), workdir)


def test_configuration_errors_name_the_key():
    values = default_config("captioning", "tiny").to_dict()
    with pytest.raises(ValueError, match=r"config\.train\.path is empty"):
        RunConfig.from_dict(values)
    values["train"]["path"] = "x.jsonl"
    with pytest.raises(ValueError, match="captions_per_video is 0; task captioning"):
        RunConfig.from_dict(values)
    values["batch"]["captions_per_video"] = 1
    assert RunConfig.from_dict(values).batch.batch_size == 4
    with pytest.raises(ValueError, match=r"Unknown key config\.optimizer\.lr"):
        RunConfig.from_dict({**values, "optimizer": {"lr": 1.0}})
    with pytest.raises(ValueError, match=r"config\.task is 'captions'"):
        RunConfig.from_dict({**values, "task": "captions"})
    with pytest.raises(
        ValueError, match="4 does not divide into config.accumulation 3"
    ):
        RunConfig.from_dict({**values, "accumulation": 3})


def test_data_without_the_texts_a_task_needs(run_config, tmp_path):
    source = Path(run_config.train.path)
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    only_captions = tmp_path / "captions.jsonl"
    only_captions.write_text(
        "\n".join(json.dumps({k: v for k, v in x.items() if k != "qa"}) for x in lines)
    )
    config = dataclasses.replace(
        run_config, train=DataConfig(str(only_captions), str(source.parent))
    )
    with pytest.raises(ValueError, match="None of the 6 examples has questions"):
        train(config, tmp_path / "run")
