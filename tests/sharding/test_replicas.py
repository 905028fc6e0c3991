"""Rows divided over devices get what one device would give them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import PartitionSpec

from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.models.mplug2 import MODULES, MPlug2, abstract_params
from mplug2_jax.predictor import Predictor
from mplug2_jax.sharding.mesh import MeshConfig, make_mesh
from mplug2_jax.sharding.partition import batch_sharding
from mplug2_jax.sharding.replicas import by_rows, replicated
from mplug2_jax.tasks.classification import media_scores, text_scores
from mplug2_jax.training.validation import on_own_devices

COUNT, ATOL = 2, 1e-5


def on_devices(predictor: Predictor) -> Predictor:
    where = replicated(jax.local_devices()[:COUNT], predictor.batch_size)
    return predictor.replace_params(jax.device_put(predictor.params, where))


@pytest.fixture(scope="module")
def alone():
    """A model that draws its texts at random, so that every row has its own."""
    config = small.SLIGHT.replace(
        vision={"image_size": 24},
        text={"vocab_size": small.tokenizer().vocab_size, "num_layers": 1},
        decoder={"num_layers": 1},
        classifier={"num_classes": 3},
    )
    model = MPlug2(config, (*MODULES, "classifier"))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype),
        abstract_params(config, model.modules),
    )
    params = jax.device_put(params, jax.local_devices()[0])
    classes = {"classes": ("a", "b", "c"), "text_length": 6}
    inputs = dataclasses.replace(small.INPUTS, num_frames=2, **classes)
    return Predictor(
        model, params, small.tokenizer(), inputs, Decoding("sample", seed=1), 4
    )


@pytest.fixture(scope="module")
def clips(alone):
    size = alone.model.config.vision.image_size
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (4, 2, size, size, 3), np.uint8))


@pytest.mark.parametrize(
    ("rows", "used"), [(8, 8), (12, 6), (7, 7), (11, 1), (3, 3), (1, 1)]
)
def test_as_many_devices_are_used_as_divide_a_batch(rows, used):
    assert len(replicated(jax.local_devices(), rows).device_set) == used
    assert replicated(None, rows).device_set == {jax.local_devices()[0]}


def test_rows_are_divided_and_the_rest_is_whole():
    @functools.partial(by_rows, static_argnames=("power",), shared=("table",))
    def look_up(power, params, table, places, texts):
        return {"found": params * table[places] ** power, "texts": texts + len(places)}

    params = jax.device_put(jnp.float32(3), replicated(jax.local_devices()[:4], 4))
    table, texts = jnp.arange(10.0), np.zeros(16, np.int32)
    for rows, spec in ((8, PartitionSpec("rows")), (6, PartitionSpec())):
        places = np.arange(rows)[::-1] + 1
        out = look_up(2, params, table, places, texts)
        assert out["found"].sharding.spec == spec
        np.testing.assert_array_equal(out["found"], 3 * places**2)
        assert set(out["texts"].tolist()) == {rows // 4 if spec else rows}


def test_weights_of_a_mesh_are_whole_on_each_device():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    weights = np.arange(16.0)
    spread = jax.device_put(weights, batch_sharding(mesh))
    own = on_own_devices([spread])[0]
    assert own.is_fully_replicated and len(own.sharding.device_set) == 8
    np.testing.assert_array_equal(own, weights)
    alone = jax.device_put(weights, jax.local_devices()[1])
    assert on_own_devices([alone])[0] is alone


def test_texts_are_those_of_one_device(alone, clips):
    several, shapes = on_devices(alone), alone.shapes([1] * 4)
    (encoded,) = several.encode(list(map(alone.medium, clips)), shapes)
    assert encoded.vision.sharding.spec == PartitionSpec("rows")
    assert len(encoded.vision.sharding.device_set) == COUNT
    said = [caption.text for caption in alone.caption(clips)]
    assert len(set(said)) == 4
    assert [caption.text for caption in several.caption(clips)] == said
    asked = [small.QUESTIONS[:1]] * 4  # about media on other devices, too
    (own,) = alone.encode(list(map(alone.medium, clips)), shapes)
    answers = alone.answer_encoded(own, asked, shapes)
    assert len({answer.text for (answer,) in answers}) == 4
    others = several.answer_encoded(encoded, asked, shapes)
    for (one,), (other,) in zip(answers, others, strict=True):
        assert one.text == other.text
        assert one.score == pytest.approx(other.score, abs=ATOL)


def test_classes_are_those_of_one_device(alone, clips):
    """Of media and of texts; features are compared in tests/cli/test_processes.py."""
    found, pairs = [], [(question, "") for question in (*small.QUESTIONS, "w5")]
    for its in (alone, on_devices(alone)):
        (encoded,) = its.encode(list(map(its.medium, clips)), its.shapes([1] * 4))
        texts = its.inputs.text_pairs(its.tokenizer, pairs)
        of_media = media_scores(its.model, its.params, encoded.vision)
        found.append((of_media, text_scores(its.model, its.params, texts)))
    for one, several in zip(*found, strict=True):
        assert np.ptp(one, axis=0).max() > 100 * ATOL
        np.testing.assert_allclose(one, several, atol=ATOL)
