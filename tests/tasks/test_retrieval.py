"""Fine-tuning of retrieval: what belongs together, and a run that learns to find."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mplug2_jax.checkpoint.load import Metadata, read_metadata, save_checkpoint
from mplug2_jax.data import shapes
from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.examples import Example
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.opening import DataConfig
from mplug2_jax.data.pipeline import media_id, training_batches
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.data.targets import targets_of
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.losses import negative_weights
from mplug2_jax.models.heads import Features
from mplug2_jax.models.mplug2 import HEADS, MODULES, abstract_params
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.tasks.objectives import NOBODY, belonging, contrast, enqueue
from mplug2_jax.tasks.pretraining import ObjectivesConfig, Pretraining
from mplug2_jax.tasks.retrieval import Retrieval
from mplug2_jax.training.config import RunConfig, default_config
from mplug2_jax.training.loop import train
from mplug2_jax.training.optimizer import OptimizerConfig
from mplug2_jax.training.step import DistillationConfig
from mplug2_jax.training.validation import score_of
from mplug2_jax.types import MultimodalBatch, Tokens

CLIPS = 8
SMALL = small.SLIGHT.replace(
    vision={"patch_size": 8, "image_size": 24}, contrastive={"width": 16}
)
INPUTS = InputConfig(num_frames=2, caption_length=16, prompt="")


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return jnp.array(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


def rows(texts, ids):
    values = jnp.array(texts)[:, None]
    return MultimodalBatch(
        caption=Tokens(values, jnp.ones_like(values)), media_id=jnp.array(ids)
    )


def test_a_mediums_rows_share_the_target_in_batch_and_queue():
    """By hand: rows 0 and 1 are of one medium, 1 and 2 read alike."""
    rng, batch = np.random.default_rng(0), rows([5, 6, 6], [70, 70, 90])
    queue = {"vision": unit(rng, 4, 8), "text": unit(rng, 4, 8)}
    queue["media_id"] = jnp.array([NOBODY, 90, 70, 70])
    same = np.array(
        [[1, 1, 0, 0, 0, 1, 1], [1, 1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 1, 0, 0]]
    )
    found = belonging(batch, queue)
    np.testing.assert_array_equal(found, same)
    own, teacher = (Features(unit(rng, 3, 8), unit(rng, 3, 8)) for _ in range(2))
    given = contrast(own, teacher, jnp.float32(0.1), 0.3, found, queue)
    losses = []
    for one, other in (("vision", "text"), ("text", "vision")):
        keys = np.concatenate([getattr(teacher, other), queue[other]])
        hard = same / same.sum(1, keepdims=True)
        soft = jax.nn.softmax(getattr(teacher, one) @ keys.T / 0.1)
        log_p = jax.nn.log_softmax(getattr(own, one) @ keys.T / 0.1)
        losses.append(-((0.7 * hard + 0.3 * soft) * log_p).sum(1).mean())
    assert float(given["loss_vlc"]) == pytest.approx(float(sum(losses) / 2), rel=1e-5)
    weights = negative_weights(own.vision @ own.text.T, found[:, :3])
    assert (np.array(weights) > 0).tolist() == (same[:, :3] == 0).tolist()


def test_a_queue_remembers_media():
    queue = Retrieval(SMALL, dataclasses.replace(Retrieval.objectives, queue_size=5))
    queue = queue.init_queue()
    assert queue["media_id"].tolist() == [NOBODY] * 5
    features = Features(jnp.ones((3, 16)), jnp.ones((3, 16)))
    for ids in ([1, 2, 3], [4, 5, 6]):
        queue = enqueue(queue, features, jnp.array(ids))
    assert queue["media_id"].tolist() == [6, 2, 3, 4, 5]
    assert not belonging(rows([5], [0]), queue)[:, 1:].any()


def test_ids_follow_from_the_name_and_the_segment():
    example = Example("a", Path("a.mp4"))
    again = Example("other", Path("a.mp4"), ("caption",))
    assert media_id(example) == media_id(again) >= 0
    cut = dataclasses.replace(example, start=2.0)
    names = [cut, dataclasses.replace(cut, end=3.0), Example("a", Path("b.mp4"))]
    assert len({int(media_id(e)[0]) for e in [example, *names]}) == 4


def drawn(abstract):
    """Weights as they are initialised, but for LayerNorms' biases; nothing compiled."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        start = 1.0 if "scale" in name else 0.07 if "temperature" in name else 0.0
        noise = 0.0 if start else 0.05 * rng.normal(size=leaf.shape)
        return jnp.array(start + noise + np.zeros(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    path = shapes.write_dataset(folder, "train", CLIPS, num_frames=4, size=24)
    tokenizer = WordPieceTokenizer.from_words(shapes.vocabulary())
    model = SMALL.replace(text={"vocab_size": tokenizer.vocab_size})
    task = Pretraining(model, ObjectivesConfig(ilm=0.0))
    params = drawn(abstract_params(model, task.modules))
    metadata = Metadata(model, task.modules)
    save_checkpoint(folder / "pretrained", params, metadata, tokenizer=tokenizer)
    return path, folder / "pretrained", tokenizer, model


def test_a_batch_with_media_is_processed_in_parts(world):
    task = Retrieval(world[-1], dataclasses.replace(Retrieval.objectives, queue_size=9))
    tokens = Tokens(*(np.ones((4, 6), np.int32),) * 2)
    frames, ids = np.zeros((4, 2, 24, 24, 3), np.uint8), np.arange(4, dtype=np.int32)
    batch = MultimodalBatch(frames, caption=tokens, media_id=ids)
    batch = jax.tree.map(jnp.asarray, batch)
    (_, out), grads = jax.eval_shape(
        lambda p: task.gradients(p, batch, queue=task.init_queue(), parts=2),
        abstract_params(task.config, task.modules),
    )
    assert {"loss_vlc", "loss_vlm"} < out.metrics.keys()
    assert set(grads) == set(task.modules) - {"local_temporal"}
    assert out.queue["media_id"].shape == (9,)


@pytest.fixture(scope="module")
def config(world):
    path, checkpoint, _, model = world
    return RunConfig(
        "retrieval",
        model,
        DataConfig(str(path)),
        DataConfig(str(path)),  # only whether it learns is asked
        init_from=str(checkpoint),
        inputs=INPUTS,
        batch=BatchConfig(
            CLIPS, captions_per_video=1, crop_scale=None, flip=False, keep_clips=True
        ),
        objectives=dataclasses.replace(
            Retrieval.objectives, queue_size=16, max_temperature=0.4
        ),
        distillation=DistillationConfig(momentum=0.8),
        optimizer=OptimizerConfig(5e-3, 5e-3, schedule="constant", clip_norm=1.0),
        devices=1,
        steps=80,
        log_every=20,
        rerank=0,
        best_by="text_to_video/recall_1",
    )


def test_rows_are_plain_captions_with_their_media(world):
    path, _, tokenizer, _ = world
    examples = read_jsonl(path)
    settings = BatchConfig(CLIPS, captions_per_video=1, crop_scale=None)
    targets = targets_of("retrieval", tokenizer, INPUTS, settings)
    read = functools.partial(training_batches, targets=targets)
    every = read(examples, tokenizer, INPUTS, settings, 24, 0)
    shares = [
        read(examples, tokenizer, INPUTS, settings, 24, 0, i, 2) for i in range(2)
    ]
    known = {int(media_id(e)[0]): e.captions for e in examples}
    for _ in range(2):  # epochs
        batch = next(every)
        assert set(batch.media_id.tolist()) == set(known)
        for number, text in zip(batch.media_id, batch.caption.values, strict=True):
            encoded = INPUTS.plain_captions(tokenizer, list(known[int(number)]))
            assert text.tolist() in encoded.values.tolist()
        parts = np.stack([next(share).media_id for share in shares])
        assert set(parts.reshape(-1).tolist()) == set(known)
    every.close()
    [share.close() for share in shares]


def test_a_run_starts_from_pretraining_and_learns_to_find(config, tmp_path, capsys):
    metrics = train(config, tmp_path / "run")
    assert capsys.readouterr().out.startswith(
        f"from {config.init_from}: vision, local_temporal, universal, text, fusion, "
        "contrastive, matching; left there: mlm\n"
    )
    chance = 1 / CLIPS
    assert metrics["text_to_video/recall_1"] >= 6 * chance
    assert metrics["video_to_text/recall_1"] >= 6 * chance
    assert metrics["text_to_video/median_rank"] == 1
    assert metrics["score"] == metrics["text_to_video/recall_1"]
    stored = read_metadata(tmp_path / "run" / "best")
    assert stored.rerank == config.rerank == 0
    assert stored.temperatures == (0.001, 0.4)
    assert stored.modules == tuple(
        name for name in (*MODULES, *HEADS) if name in COMPOSITION["retrieval"].modules
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = set().union(*map(json.loads, lines))
    assert any("loss_vlm" in name for name in logged)
    assert not any("mlm" in name or "ilm" in name for name in logged)


def test_what_does_not_fit_is_named(config):
    values = default_config("retrieval", "tiny").to_dict()
    values["train"]["path"] = "x.jsonl"
    assert values["objectives"]["mlm"] == values["objectives"]["ilm"] == 0
    values["batch"]["captions_per_video"] = 1
    assert RunConfig.from_dict(values).objectives == Retrieval.objectives
    for message, change in {
        "captions_per_video is 2; task retrieval takes one": {
            "batch": {"captions_per_video": 2}
        },
        "captions_per_video is 0; task retrieval needs": {
            "batch": {"captions_per_video": 0}
        },
        "task retrieval knows vlc and vlm alone": {"objectives": {"mlm": 1.0}},
        "config.rerank is -1": {"rerank": -1},
    }.items():
        with pytest.raises(ValueError, match=message):
            RunConfig.from_dict({**values, **change})


def test_the_best_is_found_first():
    found = {"text_to_video/recall_1": 0.5, "video_to_text/recall_1": 0.3}
    assert score_of(found) == pytest.approx(0.4)
    ranks = {"text_to_video/median_rank": 3.0}
    assert score_of(ranks, "text_to_video/median_rank") == -3
