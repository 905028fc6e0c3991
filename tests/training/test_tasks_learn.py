"""Tasks about media are learnt by a small model in seconds, each far above chance.

Only whether they are learnt is asked, so each is scored on what it was trained on.
"""

import dataclasses
import json

import numpy as np
import pytest
import small
from PIL import Image

from mplug2_jax.data import shape_tasks, shapes
from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.training.config import DataConfig, RunConfig
from mplug2_jax.training.loop import train
from mplug2_jax.training.optimizer import OptimizerConfig

pytestmark = pytest.mark.slow
MODEL = small.SLIGHT.replace(vision={"image_size": 24})
WORDS = ("first", "second", "yes", "no", "true", "false")
COLORS = ("red", "green")


def still(folder, number, color):
    """A picture of one shape of this colour; its name."""
    scene = shapes.make_scene(shapes.scene_rng("train", 3, number))
    thing = dataclasses.replace(scene.objects[0], color=color)
    pixels = shapes.render(dataclasses.replace(scene, objects=(thing,)), 1, 24)
    Image.fromarray(np.asarray(pixels[0])).save(folder / f"{number}.png")
    return f"{number}.png"


def learnt(folder, task, lines, inputs, batch, model=MODEL, steps=140):
    """The metrics of a run on these annotations."""
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = (*shapes.vocabulary(), *WORDS)
    WordPieceTokenizer.from_words(dict.fromkeys(words)).save(folder / "tokenizer")
    data = DataConfig(str(path))
    config = RunConfig(
        task,
        model,
        data,
        data,
        vocab=str(folder / "tokenizer"),
        inputs=inputs,
        batch=BatchConfig(
            crop_scale=None, flip=False, randaugment=None, keep_clips=True, **batch
        ),
        optimizer=OptimizerConfig(4e-3, 4e-3, schedule="constant", clip_norm=1.0),
        decoding=Decoding("greedy", min_answer_length=1),
        devices=1,
        steps=steps,
        log_every=steps,
    )
    config.check()
    return train(config, folder / "run")


def test_statements_about_an_image(tmp_path):
    lines = [
        {
            "image": still(tmp_path, number, COLORS[number % 2]),
            "labels": [
                {"text": color, "label": "true" if number % 2 == place else "false"}
                for place, color in enumerate(COLORS)
            ],
        }
        for number in range(8)
    ]
    inputs = InputConfig(1, text_length=4)
    batch = {"batch_size": 8, "texts_per_medium": 2}
    found = learnt(tmp_path, "pair_classification", lines, inputs, batch)
    assert found["pairs/n"] == 16
    assert found["pairs/accuracy"] >= 0.85  # chance, and words or images alone: 0.5


def test_statements_about_two_images(tmp_path):
    """Each says which of the two is red: neither image alone, nor the text, tells."""
    files = {color: still(tmp_path, n, color) for n, color in enumerate(COLORS)}
    lines = [
        {
            "images": [files[first], files[second]],
            "id": f"{first} {second}",
            "labels": [
                {"text": f"{place} red", "label": str(color == "red").lower()}
                for place, color in (("first", first), ("second", second))
            ],
        }
        for first in COLORS
        for second in COLORS
    ]
    model = MODEL.replace(classifier={"num_media": 2})
    inputs = InputConfig(1, text_length=4)
    batch = {"batch_size": 4, "texts_per_medium": 2}
    found = learnt(tmp_path, "pair_classification", lines, inputs, batch, model)
    assert found["pairs/n"] == 8 and found["pairs/accuracy"] >= 7 / 8  # chance: 0.5


def test_actions_in_videos(tmp_path):
    """Which way a shape moves, which no single frame shows."""
    directions = ("left", "right")
    lines = []
    for number in range(8):
        scene = shapes.make_scene(shapes.scene_rng("train", 3, number))
        thing = scene.objects[0]
        moved = dataclasses.replace(thing, motion=(directions[number % 2],))
        one = dataclasses.replace(scene, objects=(moved,))
        clip = shapes.encode_mp4(shapes.render(one, 4, 24))
        (tmp_path / f"{number}.mp4").write_bytes(clip)
        lines.append({"video": f"{number}.mp4", "label": directions[number % 2]})
    batch = {"batch_size": 8}
    found = learnt(tmp_path, "action_classification", lines, InputConfig(4), batch)
    assert found["classification/n"] == 8
    assert found["classification/accuracy"] >= 7 / 8  # chance: 0.5


def test_questions_with_votes(tmp_path):
    """Of ten people up to three err; soft accuracy counts what three or more said."""
    lines, most = [], []
    for number in range(8):
        scene = shapes.make_scene(shapes.scene_rng("train", 3, number))
        pixels = shapes.render(scene, 1, 24)
        Image.fromarray(np.asarray(pixels[0])).save(tmp_path / f"{number}.png")
        rng = np.random.default_rng(number)
        asked = shape_tasks.voted_questions(scene, rng)[-2:]
        qa = [{"question": q.question, "answer": q.votes} for q in asked]
        most += [q.answers[0] for q in asked]
        lines.append({"image": f"{number}.png", "qa": qa})
    assert sorted(set(most)) == ["no", "yes"] and most.count("yes") == 8
    inputs = InputConfig(1, question_length=8, answer_length=3, prompt="")
    batch = {"batch_size": 8, "questions_per_video": 2, "answers_per_question": 2}
    found = learnt(tmp_path, "question_answering", lines, inputs, batch)
    assert found["vqa/n"] == 16 and found["vqa/accuracy"] >= 0.9
    assert found["qa/accuracy"] >= 0.85  # whoever always says yes: 0.5
