"""Tasks are planned without data, vocabulary and checkpoint, and with those there."""

import dataclasses
from pathlib import Path

import jax
import pytest

from mplug2_jax.checkpoint.load import Metadata
from mplug2_jax.cli.train import read_config
from mplug2_jax.models.config import preset
from mplug2_jax.planning.batches import batches
from mplug2_jax.planning.stand_ins import planned_task
from mplug2_jax.sharding.mesh import MeshConfig, make_mesh
from mplug2_jax.training.config import RunConfig
from mplug2_jax.training.optimizer import make_optimizer
from mplug2_jax.training.step import abstract_state

NAMES = sorted(path.stem for path in Path("configs").glob("*.py"))
CLASSES = {"kinetics700": 700, "ssv2": 174, "imagenet": 1000, "cifar100": 100}
CLASSES |= {"glue_mnli": 3, "glue_sst2": 2, "glue_stsb": 1, "snli_ve": 3, "nlvr2": 2}
CLASSES |= {"motion_shapes": 4, "things_shapes": 20}
ONE = {"num_layers": 1}
STILLS = ("refcoco", "coco_caption", "flickr30k_retrieval", "snli_ve", "imagenet")


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(fsdp=2), jax.devices()[:4])


def read(name: str, **changes) -> RunConfig:
    """A file under configs/, with a small model in place of its own."""
    values = read_config(f"configs/{name}.py", [])
    if not values["mixture"]:
        values["train"]["path"] = values["train"]["path"] or "mine.jsonl"
    config = RunConfig.from_dict(values)
    model = preset("tiny").replace(
        vision=ONE,
        text={**ONE, "max_positions": config.model.text.max_positions},
        universal=ONE,
        fusion=ONE,
        decoder=ONE,
        classifier=config.model.classifier,
    )
    return dataclasses.replace(config, model=model, **changes)


@pytest.mark.parametrize("name", NAMES)
def test_task_of_every_configuration(name, mesh):
    config = read(name)
    task = planned_task(config, mesh)
    if name in CLASSES:
        assert task.config.classifier.num_classes == CLASSES[name]
    if config.task in ("retrieval", "pretraining"):
        assert task.shards == 4
        assert task.objectives.mlm == config.objectives.mlm
    if config.task == "grounding":
        assert len(task.coordinates.ids) == config.inputs.num_bins
    still = [not share.batch.is_video for share in batches(config)]
    assert all(still) or name not in STILLS


ONE_EACH = {read(name).task: name for name in NAMES}.values()


@pytest.mark.parametrize("name", ONE_EACH)
def test_state_of_every_task(name, mesh):
    config = read(name)
    task = planned_task(config, mesh)
    optimizer = make_optimizer(config.optimizer, 10)
    state = abstract_state(task, optimizer, config.distillation, mesh=mesh)
    assert set(state.params) == set(task.modules) - {"local_temporal"}  # in vision


def test_own_data_that_are_not_here_need_classes(mesh):
    own = dataclasses.replace(read("kinetics400").train, path="mine.jsonl")
    with pytest.raises(ValueError, match=r"classes of mine\.jsonl .*inputs\.classes="):
        planned_task(read("kinetics400", train=own), mesh)
    inputs = dataclasses.replace(read("kinetics400").inputs, classes=("a", "b", "c"))
    task = planned_task(read("kinetics400", train=own, inputs=inputs), mesh)
    assert task.config.classifier.num_classes == 3


def test_checkpoint_that_is_here_has_the_shapes(mesh, tmp_path):
    stored = preset("base").replace(text={"vocab_size": 300}, universal=ONE)
    (tmp_path / "config.json").write_text(Metadata(stored, ("vision",)).to_json())
    task = planned_task(read("msrvtt_qa", init_from=str(tmp_path)), mesh)
    assert task.config.vision.width == stored.vision.width
    assert task.config.text.vocab_size == 300
    (tmp_path / "config.json").unlink()
    task = planned_task(read("msrvtt_qa", init_from=str(tmp_path)), mesh)
    assert task.config.vision.width == preset("tiny").vision.width
    assert task.config.text.vocab_size == preset("tiny").text.vocab_size


@pytest.mark.parametrize(
    ("vocab", "words"),
    [("configs/shapes_words.txt", 192), ("none.txt", 128), ("", 30522)],
)
def test_words_are_those_of_the_vocabulary(mesh, vocab, words):
    task = planned_task(read("msrvtt_qa", vocab=vocab), mesh)
    assert task.config.text.vocab_size == words
