"""Captioning by instruction: learnt, stored, and used by Python and the commands."""

import json

import numpy as np
import pytest

from mplug2_jax.checkpoint.load import read_metadata
from mplug2_jax.cli.main import main
from mplug2_jax.data import shapes
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import BatchConfig
from mplug2_jax.data.text import clean_caption
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.predictor import Predictor
from mplug2_jax.training.config import DataConfig, RunConfig
from mplug2_jax.training.loop import train
from mplug2_jax.training.optimizer import OptimizerConfig

INSTRUCTION = "what happens?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four clips, each with its first caption alone."""
    folder = tmp_path_factory.mktemp("world")
    path = shapes.write_dataset(folder, "train", 4, num_frames=4, size=24)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{"video": x["video"], "captions": x["captions"][:1]} for x in lines]
    path.write_text("".join(json.dumps(x) + "\n" for x in kept))
    words = (*shapes.vocabulary(), "what", "happens")
    WordPieceTokenizer.from_words(words).save(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def workdir(folder, small_config):
    """Of a run of a few dozen steps."""
    config = RunConfig(
        "captioning_by_instruction",
        small_config,
        DataConfig(str(folder / "train.jsonl")),
        vocab=str(folder / "tokenizer"),
        inputs=InputConfig(2, 20, 6, 3, prompt="", instruction=INSTRUCTION),
        batch=BatchConfig(
            batch_size=4,
            captions_per_video=1,
            crop_scale=None,
            flip=False,
            randaugment=None,
            keep_clips=True,
        ),
        optimizer=OptimizerConfig(6e-3, 6e-3, schedule="constant", warmup_steps=5),
        decoding=Decoding("greedy"),
        devices=1,
        steps=60,
        log_every=20,
        save_every=60,
    )
    config.check()
    train(config, folder / "run")
    return folder / "run"


def truths(folder):
    lines = (folder / "train.jsonl").read_text().splitlines()
    return {x["video"]: x["captions"][0] for x in map(json.loads, lines)}


def test_captions_are_memorised_and_kept_with_their_instruction(folder, workdir):
    predictor = Predictor.from_checkpoint(workdir, decoding=Decoding("greedy"))
    assert predictor.inputs.instruction == INSTRUCTION
    metadata = read_metadata(workdir / "final")
    assert metadata.inputs["instruction"] == INSTRUCTION
    assert {"text", "fusion", "decoder"} <= set(metadata.modules)
    said = predictor.caption([str(folder / name) for name in truths(folder)])
    learnt = map(clean_caption, truths(folder).values())
    right = [c.text == text for c, text in zip(said, learnt, strict=True)]
    assert np.mean(right) >= 0.75
    assert len({caption.text for caption in said}) > 2


def test_a_caption_is_the_answer_to_the_instruction(folder, workdir):
    """With the lengths of captions."""
    predictor = Predictor.from_checkpoint(workdir, decoding=Decoding("greedy"))
    clip = str(folder / next(iter(truths(folder))))
    inputs = predictor.inputs.__class__(2, 20, 6, 20, prompt="", instruction="")
    asking = Predictor(
        *(predictor.model, predictor.params, predictor.tokenizer, inputs),
        predictor.decoding,
    )
    caption, answer = predictor.caption(clip), asking.answer(clip, INSTRUCTION)
    assert caption.hypotheses[0].ids == answer.hypotheses[0].ids
    assert len(caption.hypotheses[0].ids) > 5


def test_the_commands_ask_by_instruction(folder, workdir, capsys):
    arguments = ["--checkpoint", str(workdir), "--method", "greedy"]
    clip = str(folder / next(iter(truths(folder))))
    predictor = Predictor.from_checkpoint(workdir, decoding=Decoding("greedy"))
    assert main(["caption", clip, *arguments]) == 0
    said = capsys.readouterr().out.strip()
    assert said == f"{clip}\t{predictor.caption(clip).text}"
    arguments += ["--annotations", str(folder / "train.jsonl"), "--no-meteor"]
    arguments += ["--devices", "1"]
    assert main(["evaluate", *arguments]) == 0
    table = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert table["caption/n"] == "4"
    assert float(table["caption/exact_match"]) >= 75
