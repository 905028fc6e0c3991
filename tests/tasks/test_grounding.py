"""Grounding: its losses by hand, and a run that learns where things are."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from PIL import Image

from mplug2_jax.boxes import Coordinates, generalised_iou, iou
from mplug2_jax.checkpoint.load import read_metadata
from mplug2_jax.data import shape_tasks, shapes
from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.opening import DataConfig
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.data.targets import targets_of
from mplug2_jax.data.tokenizers import open_tokenizer
from mplug2_jax.grounder import Grounder
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.tasks.grounding import Grounding, GroundingConfig
from mplug2_jax.tasks.parts import split
from mplug2_jax.training.config import RunConfig, default_config
from mplug2_jax.training.loop import train
from mplug2_jax.training.optimizer import OptimizerConfig
from mplug2_jax.types import MultimodalBatch, Tokens

IMAGES, PIXELS = 8, 48
VOCAB = "configs/shapes_words.txt"
SMALL = small.SLIGHT.replace(
    vision={"patch_size": 8, "image_size": 32}, decoder={"num_layers": 1}
)
INPUTS = InputConfig(num_frames=1, question_length=4, num_bins=32, prompt="")
COORDINATES = Coordinates((5, 3, 6, 4))  # not in order, as any vocabulary may have it
BOXES = np.array([[0.1, 0.2, 0.6, 0.9], [0.5, 0.0, 1.0, 0.3], [0, 0, 1, 1]], np.float32)


def drawn(boxes=BOXES, weights=(1, 1, 1), seed=0):
    """Random logits over eight words, and the batch that they are for."""
    rows = np.pad(COORDINATES.tokens(boxes), ((0, 0), (1, 0)), constant_values=1)
    logits = np.random.default_rng(seed).normal(size=(len(boxes), 5, 8))
    return jnp.array(logits, jnp.float32), MultimodalBatch(
        answer=Tokens(jnp.array(rows), jnp.ones_like(jnp.array(rows))),
        answer_weight=jnp.array(weights, jnp.float32),
        box=jnp.array(boxes),
    )


def grounding(l1=1.0, giou=1.0):
    return Grounding(SMALL, COORDINATES, GroundingConfig(l1, giou))


def test_losses_are_those_written_out():
    """Tokens by log-softmax over all words; the box by the mean over coordinates'."""
    logits, batch = drawn()
    x = np.asarray(logits, np.float64)
    token, l1, giou = [], [], []
    for row, truth in zip(x, BOXES.astype(float), strict=True):
        log_p = row - np.log(np.exp(row).sum(-1, keepdims=True))
        steps = np.minimum(truth * 4, 3).astype(int)
        ids = [COORDINATES.ids[step] for step in steps]
        token.append(-sum(log_p[place, id_] for place, id_ in enumerate(ids)))
        weights = np.exp(row[:4][:, COORDINATES.ids])
        weights /= weights.sum(-1, keepdims=True)
        found = weights @ [0.125, 0.375, 0.625, 0.875]
        l1.append(np.abs(found - truth).sum())
        giou.append(1 - generalised_iou(found, truth))
    loss, metrics = jax.jit(grounding(l1=0.5, giou=2.0).loss_of)(logits, batch)
    assert float(metrics["token_loss"]) == pytest.approx(np.mean(token), rel=1e-5)
    assert float(metrics["l1_loss"]) == pytest.approx(np.mean(l1), rel=1e-5)
    assert float(metrics["giou_loss"]) == pytest.approx(np.mean(giou), rel=1e-5)
    expected = np.mean(token) + 0.5 * np.mean(l1) + 2 * np.mean(giou)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["box_loss"]) == float(loss)
    with pytest.raises(ValueError, match="expected weights >= 0"):
        grounding(l1=-1)


def test_the_overlap_s_gradient_leads_to_the_box():
    """From a box of the upper left to one of the lower right that it does not meet."""
    task, truth = grounding(), np.array([[0.55, 0.55, 0.85, 0.85]], np.float32)
    _, batch = drawn(truth, weights=(1,))
    start = np.zeros((1, 5, 8), np.float32)
    start[0, :2, COORDINATES.ids[0]] = start[0, 2:4, COORDINATES.ids[1]] = 3

    def overlap(logits):
        return task.loss_of(logits, batch)[1]["giou_loss"]

    @jax.jit
    def descend(logits):
        step = lambda _, x: x - jax.grad(overlap)(x)  # noqa: E731
        return jax.lax.fori_loop(0, 400, step, logits)

    expected = jax.jit(lambda logits: task.expected(logits[:, :4]))
    before = np.asarray(expected(start))
    after = np.asarray(expected(descend(start)))
    assert iou(before, truth)[0] == 0
    assert iou(after, truth)[0] > 0.8


def test_phrases_of_padding_do_not_count():
    logits, batch = drawn(weights=(1, 0, 1))
    keep = np.array([0, 2])
    shorter = jax.tree.map(lambda a: np.asarray(a)[keep], batch)
    loss = jax.jit(lambda x, batch: grounding().loss_of(x, batch)[0])
    alone = loss(np.asarray(logits)[keep], shorter)
    assert float(loss(logits, batch)) == pytest.approx(float(alone), rel=1e-6)
    slopes = np.asarray(jax.jit(jax.grad(loss))(logits, batch))
    assert not slopes[1].any() and slopes[0].any() and slopes[2].any()
    nothing = dataclasses.replace(batch, answer_weight=jnp.zeros(3))
    assert float(loss(logits, nothing)) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images of one or two shapes, annotated as anybody would: boxes in pixels."""
    folder, lines, number = tmp_path_factory.mktemp("world"), [], 0
    while len(lines) < IMAGES:
        scene = shapes.make_scene(shapes.scene_rng("train", 0, number))
        number += 1
        if len(scene.objects) > 2:
            continue
        name = f"{len(lines)}.png"
        Image.fromarray(shapes.render(scene, 1, PIXELS)[0]).save(folder / name)
        regions = [
            {
                "phrase": f"{thing.color} {thing.shape}",
                "box": [PIXELS * share for share in shape_tasks.box(thing)],
            }
            for thing in scene.objects
        ]
        line = {"image": name, "size": [PIXELS, PIXELS], "regions": regions}
        lines.append(json.dumps(line))
    (folder / "boxes.jsonl").write_text("\n".join(lines))
    return folder / "boxes.jsonl"


def test_rows_are_phrases_with_their_boxes(world):
    tokenizer, examples = open_tokenizer(VOCAB), read_jsonl(world)
    single = next(e for e in examples if len(e.regions) == 1)
    config = BatchConfig(texts_per_medium=2, crop_scale=None)
    (boxes,) = targets_of("grounding", tokenizer, INPUTS, config)
    fields = boxes(single, np.random.default_rng(0))
    assert fields["answer_weight"].tolist() == [1, 0]
    np.testing.assert_allclose(fields["box"][0], single.regions[0].box)
    start, *ids = fields["answer"].values[0].tolist()
    assert start == tokenizer.start_id
    coordinates = INPUTS.coordinates(tokenizer)
    found = coordinates.middles[[coordinates.ids.index(id_) for id_ in ids]]
    np.testing.assert_allclose(found, single.regions[0].box, atol=0.5 / 32)
    assert not fields["question"].mask[1].any()
    with pytest.raises(ValueError, match="has no region"):
        boxes(dataclasses.replace(single, regions=()), np.random.default_rng(0))


def test_the_parts_of_a_batch_add_up_to_the_whole():
    """Two images of two phrases; the parts differ in how many are padding."""
    boxes = np.concatenate([BOXES, BOXES[:1]])
    logits, batch = drawn(boxes, weights=(1, 1, 1, 0))
    batch = dataclasses.replace(batch, frames=jnp.zeros((2, 1, 8, 8, 3), jnp.uint8))
    task = grounding()

    @jax.jit
    def run(logits, batch):
        pieces, totals = split(batch, 2, 2), task.normalizers(batch)
        parts = [
            task.loss_of(
                logits[2 * i : 2 * i + 2],
                jax.tree.map(lambda a: a[i], pieces),  # noqa: B023
                normalizers=totals,
            )
            for i in range(2)
        ]
        return task.loss_of(logits, batch), parts, pieces.box

    (whole, metrics), ((first, one), (second, two)), rows = run(logits, batch)
    np.testing.assert_array_equal(rows.reshape(4, 4), boxes)
    assert float(first + second) == pytest.approx(float(whole), rel=1e-5)
    for name, value in metrics.items():
        total = float(one[name]) + float(two[name])
        assert total == pytest.approx(float(value), rel=1e-5)
    assert float(second) < float(first)  # of it one phrase counts


def test_a_run_on_own_data_learns_where_things_are(world, tmp_path):
    data = DataConfig(
        str(world)
    )  # validated on itself: only whether it learns is asked
    config = RunConfig(
        "grounding",
        SMALL,
        data,
        data,
        vocab=VOCAB,
        inputs=INPUTS,
        batch=BatchConfig(
            IMAGES,
            texts_per_medium=2,
            crop_scale=None,
            flip=False,
            randaugment=None,
            keep_clips=True,
        ),
        optimizer=OptimizerConfig(4e-3, 4e-3, schedule="constant", clip_norm=1.0),
        devices=1,
        steps=90,
        log_every=30,
    )
    metrics = train(config, tmp_path / "run")
    assert metrics["grounding/accuracy_50"] >= 0.8
    assert metrics["grounding/mean_iou"] >= 0.6
    assert metrics["score"] == metrics["grounding/accuracy_50"]
    assert metrics["grounding/n"] == sum(len(e.regions) for e in read_jsonl(world))
    best = tmp_path / "run" / "best"
    modules = COMPOSITION["grounding"].modules
    assert set(read_metadata(best).modules) == set(modules)
    _two_shapes_have_two_boxes(Grounder.from_checkpoint(best, batch_size=IMAGES), world)


def _two_shapes_have_two_boxes(grounder, world):
    """The phrase decides; boxes are in pixels of the files, which are larger."""
    example = next(e for e in read_jsonl(world) if len(e.regions) == 2)
    found = grounder.ground(example.media, [r.phrase for r in example.regions])
    true = PIXELS * np.array([r.box for r in example.regions])
    overlaps = iou(np.array([f.pixels for f in found])[:, None], true[None])
    assert overlaps.argmax(1).tolist() == [0, 1]


def test_test_splits_choose_no_checkpoint():
    values = default_config("grounding", "tiny").to_dict()
    values["train"]["path"] = values["validation"]["path"] = "data/refcoco/1.0.0"
    values["batch"] |= {"crop_scale": None, "flip": False, "randaugment": None}
    values["inputs"]["num_bins"] = 336
    for split_name in ("testA", "testB", "test"):
        values["validation"]["split"] = split_name
        with pytest.raises(ValueError, match="by its name test data"):
            RunConfig.from_dict(values)
    values["validation"]["split"] = "validation"
    assert RunConfig.from_dict(values).inputs.num_bins == 336
