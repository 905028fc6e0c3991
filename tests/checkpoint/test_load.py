"""Checkpoint folders: what is saved is loaded, and errors say what was found."""

import gc
import json
import os

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mplug2_jax.checkpoint.lazy import LazyArray, flatten
from mplug2_jax.checkpoint.load import (
    Metadata,
    lazy_checkpoint,
    load_checkpoint,
    read_metadata,
    save_checkpoint,
)
from mplug2_jax.models.mplug2 import MODULES, abstract_params

CONFIG = goldens.config("proj")


def equal(left, right):
    left, right = flatten(left), flatten(right)
    assert set(left) == set(right)
    for path, leaf in left.items():
        assert leaf.dtype == right[path].dtype
        assert np.array_equal(leaf, right[path]), path


class Tokenizer:
    vocab_size = 120

    def save(self, directory):
        directory.mkdir()
        (directory / "vocab.txt").write_text("[PAD]")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with parameters, a teacher and a tokenizer; not to be changed."""
    folder, params = (
        tmp_path_factory.mktemp("checkpoint") / "model",
        goldens.params("proj"),
    )
    teacher = jax.tree.map(lambda leaf: leaf + 1, params)
    metadata = Metadata(
        *(CONFIG, MODULES, "upstream", {"kind": "test"}, {"num_frames": 4}),
        rerank=9,
        temperatures=(0.03, 0.4),
    )
    save_checkpoint(folder, params, metadata, teacher=teacher, tokenizer=Tokenizer())
    return folder


def test_round_trip(saved):
    params, metadata = load_checkpoint(saved)
    equal(params, goldens.params("proj"))
    teacher, _ = load_checkpoint(saved, tree="teacher")
    equal(teacher, jax.tree.map(lambda leaf: leaf + 1, params))
    assert metadata == Metadata(
        *(CONFIG, MODULES, "upstream", {"kind": "test"}, {"num_frames": 4}),
        rerank=9,
        temperatures=(0.03, 0.4),
    )
    assert (saved / "tokenizer" / "vocab.txt").exists()


def test_only_the_modules_asked_for(saved):
    params, metadata = load_checkpoint(saved, ("universal", "vision"))
    assert metadata.modules == ("vision", "universal")
    expected = abstract_params(CONFIG, metadata.modules)
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    latents = goldens.params("proj")["universal"]["latents"]
    assert np.array_equal(params["universal"]["latents"], latents)


def test_shardings(saved):
    mesh = jax.make_mesh((8,), ("fsdp",))
    spread = jax.NamedSharding(mesh, jax.P())
    params, _ = load_checkpoint(saved, ("vision",), shardings=spread)
    assert params["vision"]["class_embedding"].sharding == spread


def test_parameters_on_the_host_are_on_no_device(saved):
    params, _ = load_checkpoint(saved, ("vision",), on_host=True)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))
    equal(params, goldens.params("proj", ("vision",)))


def test_lazy_leaves_are_read_when_asked(saved):
    params, teacher, metadata = lazy_checkpoint(saved)
    assert metadata.modules == MODULES
    leaf = teacher["vision"]["class_embedding"]
    assert isinstance(leaf, LazyArray)
    expected = goldens.params("proj")["vision"]["class_embedding"] + 1
    assert np.array_equal(leaf.read(), expected)
    equal(jax.tree.map(lambda lazy: lazy.read(), params), goldens.params("proj"))


def small():
    modules = ("vision",)
    params = goldens.params("proj", modules)
    return params, Metadata(CONFIG, modules)


def test_bfloat16_parameters(tmp_path):
    params, _ = small()
    config = CONFIG.replace(numerics={"param_dtype": "bfloat16"})
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    save_checkpoint(tmp_path / "model", params, Metadata(config, ("vision",)))
    equal(load_checkpoint(tmp_path / "model")[0], params)
    assert lazy_checkpoint(tmp_path / "model")[1] is None


def test_existing_folders(tmp_path):
    params, metadata = small()
    save_checkpoint(tmp_path / "model", params, metadata)
    with pytest.raises(ValueError, match="exists already"):
        save_checkpoint(tmp_path / "model", params, metadata)
    other = Metadata(CONFIG, ("vision",), "upstream")
    save_checkpoint(tmp_path / "model", params, other, overwrite=True)
    assert read_metadata(tmp_path / "model").decoding_rule == "upstream"
    assert os.listdir(tmp_path) == ["model"]


def test_nothing_is_left_after_an_error(tmp_path):
    params, metadata = small()

    def broken():
        raise RuntimeError("no values")

    leaf = params["vision"]["class_embedding"]
    lazy = LazyArray(leaf.shape, leaf.dtype, broken)
    params = {"vision": {**params["vision"], "class_embedding": lazy}}
    with pytest.raises(ValueError, match="gs://bucket/model is in a bucket"):
        save_checkpoint("gs://bucket/model", params, metadata)
    for place in ("model", "new/newer/model"):
        with pytest.raises(RuntimeError, match="no values"):
            save_checkpoint(tmp_path / place, params, metadata)
        assert os.listdir(tmp_path) == []


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="There is no checkpoint at"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "weights.pth").write_text("x")
    with pytest.raises(ValueError, match="a file, a checkpoint is a folder; convert"):
        load_checkpoint(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="it holds weights.pth; expected config.json"):
        load_checkpoint(tmp_path)


def test_a_module_that_is_not_there(tmp_path):
    save_checkpoint(tmp_path / "model", *small())
    with pytest.raises(ValueError, match="has no decoder; it has vision"):
        load_checkpoint(tmp_path / "model", ("vision", "decoder"))
    with pytest.raises(ValueError, match="holds no teacher, only params"):
        load_checkpoint(tmp_path / "model", tree="teacher")


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda v: v["model"]["vision"].update(width=64), "do not belong together"),
        (lambda v: v["model"].update(colour=1), "Unknown key model.colour"),
        (lambda v: v.update(format_version=9), "format version 9"),
        (lambda v: v.pop("modules"), r"lacks \['modules'\]"),
    ],
)
def test_config_that_was_changed(tmp_path, change, sentence):
    save_checkpoint(tmp_path / "model", *small())
    path = tmp_path / "model" / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=sentence):
        load_checkpoint(tmp_path / "model")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_files(tmp_path):
    save_checkpoint(tmp_path / "model", *small())
    data = max((tmp_path / "model" / "params").rglob("d/*"), key=os.path.getsize)
    data.unlink()
    with pytest.raises(ValueError, match="is damaged or incomplete"):
        load_checkpoint(tmp_path / "model")
    gc.collect()  # Orbax leaves failed reads behind, which warn when they go
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        load_checkpoint(tmp_path / "model")
