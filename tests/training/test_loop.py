"""A whole run on real files: it learns, goes on elsewhere, says what is wrong."""

import dataclasses
import json
import os
import signal
import threading
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.sharding import NamedSharding, PartitionSpec
from tensorboardX.proto.event_pb2 import Event

from mplug2_jax.checkpoint.load import load_checkpoint, read_metadata
from mplug2_jax.cli.main import main
from mplug2_jax.conversion.safetensors_io import read_safetensors
from mplug2_jax.data import shapes
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.mixture import PartConfig
from mplug2_jax.data.pipeline import BatchConfig
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.planning.chips import CHIPS
from mplug2_jax.training import loop
from mplug2_jax.training.config import DataConfig, RunConfig, default_config
from mplug2_jax.training.interrupts import Stopped
from mplug2_jax.training.loop import DivergedError, train
from mplug2_jax.training.optimizer import OptimizerConfig
from mplug2_jax.training.record import claim_workdir
from mplug2_jax.training.start import (
    make_task,
    open_mesh,
    open_vocabulary,
    starting_weights,
)
from mplug2_jax.training.step import TrainState
from mplug2_jax.training.validation import Best, make_evaluation

RELATIVE = 1e-5  # of losses on other meshes


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
            batch_size=4,
            captions_per_video=1,
            questions_per_video=2,
            crop_scale=None,
            keep_clips=True,
        ),
        optimizer=OptimizerConfig(3e-3, 3e-3, schedule="constant"),
        decoding=Decoding("greedy"),
        devices=1,
        steps=8,
        log_every=1,
        save_every=4,
    )


@pytest.fixture(scope="module")
def finished(run_config, tmp_path_factory) -> Path:
    """The workdir of a run of eight steps, two of which are profiled."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    train(changed(run_config, profile="3:4"), workdir)
    return workdir


def test_the_steps_asked_for_are_profiled(finished):
    assert list((finished / "profile").rglob("*.xplane.pb"))


def changed(config: RunConfig, **sections) -> RunConfig:
    """A copy; a section given as a dict changes only the keys it names."""
    merged = {
        name: dataclasses.replace(getattr(config, name), **value)
        if isinstance(value, dict)
        else value
        for name, value in sections.items()
    }
    return dataclasses.replace(config, **merged)


def losses(workdir: Path) -> dict[int, float]:
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    parsed = [json.loads(line) for line in lines]
    return {x["step"]: x["train/loss"] for x in parsed if "train/loss" in x}


def stop_after(workdir: Path, step: int) -> None:
    """Sends SIGTERM to this process once a step has been logged."""

    def wait():
        while step not in losses(workdir):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_another_mesh_and_accumulation(
    run_config, finished, tmp_path
):
    config = changed(run_config, steps=40)
    stop_after(tmp_path / "run", 2)
    with pytest.raises(Stopped) as stopped:
        train(config, tmp_path / "run")
    assert 2 <= stopped.value.step < 40
    steps = stopped.value.step + 2
    on_mesh = changed(config, devices=4, mesh={"fsdp": 2}, accumulation=1)
    stop_after(tmp_path / "run", steps)
    with pytest.raises(Stopped):
        train(on_mesh, tmp_path / "run")
    accumulated = changed(config, accumulation=2)
    train(accumulated, tmp_path / "run")
    straight, broken = losses(finished), losses(tmp_path / "run")
    assert set(broken) == set(range(1, 41))
    for step in range(1, min(8, steps) + 1):
        assert broken[step] == pytest.approx(straight[step], rel=RELATIVE)
    assert broken[40] < broken[1]


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_training_state_is_read_like_a_checkpoint(
    ema_decay, run_config, finished, tmp_path
):
    """Of parameters and their moving average it is the average, as in `final/`."""
    if ema_decay:
        finished = tmp_path / "averaged"
        train(changed(run_config, ema_decay=ema_decay), finished)
    state = finished / "checkpoints" / "8"
    jax.tree.map(
        np.testing.assert_array_equal,
        load_checkpoint(finished / "final")[0],
        load_checkpoint(state)[0],
    )
    files = [tmp_path / "final.safetensors", tmp_path / "state.safetensors"]
    for source, file in zip((finished / "final", state), files, strict=True):
        assert main(["convert", "--from", str(source), "--to", str(file)]) == 0
    first, second = map(read_safetensors, files)
    assert first.keys() == second.keys() and first
    for name in first:
        np.testing.assert_array_equal(first[name].read(), second[name].read())


def test_tensorboard_holds_the_same_numbers(finished):
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    wanted = {
        (line["step"], name): np.float32(value)
        for line in map(json.loads, lines)
        for name, value in line.items()
        if name != "step"
    }
    (file,) = (finished / "tensorboard").iterdir()
    found = {
        (event.step, value.tag): np.float32(value.simple_value)
        for event in events(file.read_bytes())
        for value in event.summary.value
    }
    assert found == wanted and len(found) > 8


def events(data: bytes) -> list[Event]:
    """Of a TensorBoard file: length (8 bytes), checksum (4), event, checksum (4)."""
    found, at = [], 0
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 8], "little")
        found.append(Event.FromString(data[at + 12 : end]))
        at = end + 4
    return found


@pytest.mark.slow
def test_utilisation_counts_the_model_s_arithmetic(run_config, tmp_path, monkeypatch):
    """Of a chip of known peak; what is computed again in a backward pass is no use."""
    peak = 1e9
    chip = dataclasses.replace(CHIPS["v5e"], flops=peak)
    monkeypatch.setattr(loop, "of_device", lambda device: chip)
    config = changed(run_config, steps=2)
    again = config.model.replace(numerics={"remat": "full"})
    used = []
    for name, its in {"plain": config, "again": changed(config, model=again)}.items():
        train(its, tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        for line in map(json.loads, lines):
            rate = line["train/examples_per_second"] / config.batch.batch_size
            used.append(line["train/mfu"] * peak / rate)
    np.testing.assert_allclose(used, used[0], rtol=1e-5)
    parameters, _ = load_checkpoint(tmp_path / "plain" / "final")
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    # Each weight multiplies several tokens of each of four videos, thrice.
    assert 2 * 3 * 4 * count < used[0] < 2 * 3 * 4 * 100 * count


@pytest.mark.slow
def test_validation_keeps_the_best(run_config, tmp_path):
    config = changed(run_config, validation=run_config.train, eval_every=4)
    results = train(config, tmp_path / "run")
    assert {"qa/accuracy", "caption/exact_match", "score"} <= set(results)
    _, metadata = load_checkpoint(tmp_path / "run" / "best")
    assert metadata.source["score"] >= results["score"]
    assert metadata.inputs["num_frames"] == 2
    assert metadata.task == config.task


@pytest.mark.slow
def test_an_evaluation_that_is_stopped_twice_is_done_in_the_end(
    run_config, tmp_path, monkeypatch
):
    """No step and no `final` come before it."""
    begun = []

    def measure(state, check):
        begun.append(int(state.step))
        if len(begun) < 3:
            os.kill(os.getpid(), signal.SIGTERM)
        check()
        return {"qa/accuracy": 0.5}

    monkeypatch.setattr(loop, "make_evaluation", lambda *_: measure)
    config, workdir = changed(run_config, steps=2, eval_every=1), tmp_path / "run"
    for _ in range(2):
        with pytest.raises(Stopped) as stopped:
            train(config, workdir)
        assert stopped.value.step == 1 and not (workdir / "final").exists()
    train(config, workdir)
    assert begun == [1, 1, 1, 2] and (workdir / "final").exists()


def test_a_name_that_validation_does_not_give_costs_no_step(
    run_config, tmp_path, monkeypatch
):
    taken = []
    none = dict.fromkeys(f.name for f in dataclasses.fields(TrainState))
    first = TrainState(**none | {"step": jnp.int32(0), "params": {"w": jnp.zeros(1)}})

    def advance(state, batch, rng):
        taken.append(int(state.step) + 1)
        state = dataclasses.replace(state, step=state.step + 1)
        return state, {"loss": jnp.float32(1)}

    for name, stub in {
        "create_state": first,
        "abstract_state": jax.eval_shape(lambda: first),
        "make_step": advance,
        "make_evaluation": lambda *_: {"qa/accuracy": 0.5},
    }.items():
        monkeypatch.setattr(loop, name, lambda *_, stub=stub, **__: stub)
    wrong = changed(run_config, steps=3, eval_every=2, best_by="qa/acuracy")
    for _ in range(2):
        with pytest.raises(ValueError, match="best_by is .*qa/accuracy.* 2 is saved; "):
            train(wrong, tmp_path)
    mended = changed(wrong, best_by="qa/accuracy")
    assert train(mended, tmp_path)["score"] == 0.5 and taken == [1, 2, 3]
    with pytest.raises(ValueError, match="best_by='qa/accuracy', now it is ''"):
        train(changed(wrong, best_by=""), tmp_path)


@pytest.mark.slow
def test_a_run_is_judged_by_what_it_trains(run_config, tmp_path):
    """Captions of the validation data are none of a model's that learns to answer.

    Videos that cannot be read are left out, up to the share; two devices do the rest.
    """
    train_path = Path(run_config.train.path)
    there, lost = map(json.loads, train_path.read_text().splitlines()[:2])
    there["video"] = str(train_path.parent / there["video"])
    lost["video"] = "lost.mp4"
    own = tmp_path / "own.jsonl"
    own.write_text(f"{json.dumps(there)}\n{json.dumps(lost)}\n")
    config = changed(
        run_config,
        task="question_answering",
        validation=DataConfig(str(own)),
        batch={"max_bad_share": 0.5},
        devices=2,
    )
    tokenizer, mesh = open_vocabulary(config), open_mesh(config)
    task = make_task(config, tokenizer, mesh)
    measure = make_evaluation(config, task, tokenizer, mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(task.init(jax.random.key(0)), whole)
    state = types.SimpleNamespace(params=params, ema=None)
    metrics = measure(state, lambda: None)
    assert {name.split("/")[0] for name in metrics} == {"qa"}


def test_best_is_the_best_and_no_earlier_run_s(tmp_path):
    def best(resumed):
        made_of = tmp_path, small.metadata(), small.tokenizer(), "qa/accuracy"
        return Best(*made_of, resumed=resumed)

    def judge(its, step, value):
        state = types.SimpleNamespace(params={"step": jnp.float32(step)}, ema=None)
        its.judge(step, state, {"qa/accuracy": value, "loss": -value})
        return read_metadata(tmp_path / "best").source["step"]

    first = best(resumed=False)
    chosen = [judge(first, *x) for x in enumerate((0.5, 0.9, 0.3))]
    assert chosen == [0, 1, 1]
    again = best(resumed=True)
    assert [judge(again, 3, 0.8), judge(again, 4, 0.95)] == [1, 4]
    fresh = best(resumed=False)  # a run that was lost before its first state
    assert not (tmp_path / "best").exists()
    assert judge(fresh, 1, 0.1) == 1


def test_the_end_of_another_run_is_not_taken_for_this_one_s(run_config, tmp_path):
    (tmp_path / "final").mkdir()
    with pytest.raises(ValueError, match="holds final/, the end of a run, and no st"):
        claim_workdir(tmp_path, run_config, small.tokenizer(), resumed=False)
    claim_workdir(tmp_path, run_config, small.tokenizer(), resumed=True)


def test_steps_without_a_finite_loss_end_the_run(run_config, tmp_path):
    config = changed(run_config, optimizer={"learning_rate": 1e30}, max_skipped=3)
    with pytest.raises(DivergedError, match="3 steps in a row, up to step"):
        train(config, tmp_path / "run")


def test_another_configuration_in_the_same_workdir_is_named(run_config, finished):
    other = changed(run_config, optimizer={"eps": 1e-6})
    with pytest.raises(ValueError, match=r"config\.optimizer\.eps=1e-08, now it is"):
        train(other, finished)
    free = {"save_every": 2, "profile": "", "batch": {"threads": 2}}
    train(changed(run_config, **free), finished)


def test_another_vocabulary_in_the_same_workdir_is_named(
    run_config, finished, tmp_path
):
    words = shapes.vocabulary()
    WordPieceTokenizer.from_words(["crimson", *words[1:]]).save(tmp_path / "other")
    with pytest.raises(ValueError, match="whose vocabulary has .* now it"):
        train(changed(run_config, vocab=str(tmp_path / "other")), finished)


def test_configuration_errors_name_the_key():
    values = default_config("captioning", "tiny").to_dict()
    with pytest.raises(ValueError, match=r"config\.train\.path is empty"):
        RunConfig.from_dict(values)
    values["train"]["path"] = "x.jsonl"
    with pytest.raises(ValueError, match="captions_per_video is 0; task captioning"):
        RunConfig.from_dict(values)
    values["batch"]["captions_per_video"] = 1
    assert RunConfig.from_dict(values).batch.batch_size == 4
    wrong = {
        r"Unknown key config\.optimizer\.lr": {"optimizer": {"lr": 1.0}},
        r"config\.task is 'captions'": {"task": "captions"},
        "4 does not divide into config.accumulation 3": {"accumulation": 3},
        "expected START:STOP": {"profile": "7"},
        "by its name test data": {"validation": {"path": "data/qa_test.jsonl"}},
        r"config\.ema_decay is 1\.5": {"ema_decay": 1.5},
        "config.mixture is for task pretraining": {"mixture": {"a": {}}},
        r"Unknown key mixture\.a\.wait": {"mixture": {"a": {"wait": 2}}},
    }
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=message):
            RunConfig.from_dict({**values, **change})


FILE = """
from mplug2_jax.training.config import default_config

def get_config():
    config = default_config("captioning", "tiny")
    config.train.path = {path!r}
    config.vocab = {vocab!r}
    config.batch.captions_per_video = 1
    config.batch.batch_size, config.steps = 8, 1
    return config
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.path=none.jsonl"], "There is no none.jsonl; expected"),
        (
            ["--config.optimiser.eps=1.0"],
            "there is no key optimiser; did you mean optimizer?",
        ),
        (["--config.lr=1"], "there is no key lr; look into the file."),
        (["--config.steps=many"], "--config.steps=many: invalid literal for int()"),
        (["--config.mesh.tensor=3"], "product is the number of devices"),
        (["--config.batch.batch_size=5"], "batch of 5 does not divide"),
        (["--config.devices=9"], "there are 8 devices"),
        (
            ["--config.init_from=nowhere", "--config.vocab="],
            "There is no checkpoint at nowhere",
        ),
        (["--workdir=/proc/run"], "cannot be written"),
        (["--workdir=gs://bucket/run"], "gs://bucket/run is in a bucket"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    arguments, message, run_config, tmp_path, capsys
):
    file = tmp_path / "config.py"
    file.write_text(FILE.format(path=run_config.train.path, vocab=run_config.vocab))
    command = ["train", "--config", str(file), "--workdir", str(tmp_path / "run")]
    assert main([*command, *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("mplug2 train: error: ")]
    assert len(said) == 1 and message in said[0]
    assert not any("Traceback" in line for line in lines)


def test_pretraining_takes_a_checkpoint_and_draws_its_heads(
    run_config, finished, capsys
):
    """Ablated switches would else be the checkpoint's without a word."""
    part = PartConfig("video", "video", data=run_config.train, batch=run_config.batch)
    its = {"task": "pretraining", "train": DataConfig(), "mixture": (part,)}
    config = changed(run_config, init_from=str(finished), **its)
    mesh, tokenizer = open_mesh(config), open_vocabulary(config)
    task = make_task(config, tokenizer, mesh)
    assert task.config.universal == config.model.universal
    params, _ = starting_weights(config, task)
    assert params.keys() == {*task.modules} - {"local_temporal"}  # within vision
    said = f"from {finished / 'final'}: vision, local_temporal, universal, text, fusion"
    assert said in (printed := capsys.readouterr().out)
    assert printed.endswith("; at random: contrastive, matching, mlm\n")
    trained, _ = load_checkpoint(finished / "final")
    jax.tree.map(np.testing.assert_array_equal, params["fusion"], trained["fusion"])
    model = config.model.replace(universal={"num_layers": 0})
    config = changed(config, model=model)
    with pytest.raises(ValueError, match="num_layers is 0, .* has 2; .* --universal"):
        make_task(config, tokenizer, mesh)


def test_data_without_the_texts_a_task_needs(run_config, tmp_path):
    source = Path(run_config.train.path)
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    only_captions = tmp_path / "captions.jsonl"
    only_captions.write_text(
        "\n".join(json.dumps({k: v for k, v in x.items() if k != "qa"}) for x in lines)
    )
    data = DataConfig(str(only_captions), str(source.parent))
    with pytest.raises(ValueError, match="None of the 6 examples has questions"):
        train(changed(run_config, train=data), tmp_path / "run")
