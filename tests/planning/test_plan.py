"""Plans of a small configuration, compiled for a TPU slice that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mplug2_jax.cli.main import main
from mplug2_jax.data.opening import DataConfig
from mplug2_jax.models.config import preset
from mplug2_jax.planning.batches import batches
from mplug2_jax.planning.chips import CHIPS, GIB, of_device
from mplug2_jax.planning.plan import Memory, Plan
from mplug2_jax.planning.report import advice
from mplug2_jax.planning.topology import Topology
from mplug2_jax.training.config import RunConfig

ROOT = Path(__file__).parents[2]
CONFIG = """
from mplug2_jax.training.config import default_config

def get_config():
    config = default_config("captioning", "tiny")
    config.train.path = "none.jsonl"
    config.inputs.num_frames = 4
    config.batch.batch_size = 32
    config.batch.captions_per_video = 1
    for part in (config.model.vision, config.model.universal, config.model.decoder):
        part.num_layers = 1  # every layer is seconds of compiling
    return config
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Runs `mplug2 plan` as a command of its own, as libtpu wants it."""
    config = tmp_path_factory.mktemp("plan") / "small.py"
    config.write_text(CONFIG)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH')}"}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "mplug2_jax", "plan", f"--config={config}"]
            + list(arguments),
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.mark.parametrize(
    ("name", "size", "slice_size"),
    [("v5e:16x16", 256, 256), ("2xv5e:4x4", 32, 16), ("v4:4x4x4", 64, 64)]
    + [("h200:1", 1, 1), ("h100:16", 16, 8)],
)
def test_topologies_are_read(name, size, slice_size):
    topology = Topology.parse(name)
    assert (topology.size, topology.slice_size) == (size, slice_size)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "none of ours"),
        ("v5e", "expected CHIP:SHAPE"),
        ("v5e:4x4x4", "has 2 axes"),
        ("v4:4x4", "has 3 axes"),
        ("h100:2x2", "has 1 axis"),
        ("0xv5e:4x4", "none of ours|has the shape"),
    ],
)
def test_wrong_topologies_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        Topology.parse(name)


def test_chips_are_recognised_by_their_longest_name():
    class Device:
        device_kind = "TPU v5 lite"

    assert of_device(Device()) is CHIPS["v5e"]
    Device.device_kind = "TPU v5"
    assert of_device(Device()) is CHIPS["v5p"]
    Device.device_kind = "NVIDIA H100 80GB HBM3"
    assert of_device(Device()) is CHIPS["h100"]
    Device.device_kind = "cpu"
    assert of_device(Device()) is None


def test_advice_divides_the_state_no_further_than_needed():
    config = RunConfig("captioning", preset("large"), DataConfig(path="none.jsonl"))
    state = {"params": 4 * GIB, "optimizer": 8 * GIB, "extra": 4 * GIB}
    memory = Memory(**state, batch=0, temporary=2 * GIB, program=0, limit=16 * GIB)
    found = advice(
        config,
        Plan(
            share=batches(config)[0],
            topology=Topology.parse("v5e:4x4"),
            mesh={"data": 16, "fsdp": 1, "tensor": 1},
            memory=memory,
            flops=1.0,
            traffic=None,
            refusal="",
            seconds_to_compile=0.0,
            accumulation=1,
        ),
    )
    assert found[0].startswith("--config.model.numerics.dtype=bfloat16")
    assert "--mesh data=4,fsdp=4 (state divided further: 12.000 GiB less" in found[2]
    assert found[-1] == "more devices than 16"


@pytest.fixture(scope="module")
def estimate(plan):
    """Of the whole step, on one simulated GPU: no TPU's program is compiled for it."""
    done = plan("--topology", "h200:1", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_step_is_planned_for_a_tpu_slice(plan, estimate):
    """Divided four ways, state and arithmetic per chip are a quarter."""
    done = plan("--topology", "v5e:2x2", "--mesh", "fsdp=4", "--json")
    assert done.returncode == 0, done.stderr
    four = json.loads(done.stdout)
    assert four["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert four["flops"] == pytest.approx(estimate["flops"] / 4)
    whole = estimate["memory"]
    for part in ("params", "optimizer"):
        assert four["memory"][part] == pytest.approx(whole[part] / 4, rel=0.15)
    assert whole["optimizer"] == pytest.approx(2 * whole["params"], 0.01)
    # Three quarters of each parameter come from the others, once: two bytes each, as
    # the matrix unit wants them. Gradients are of four, scattered or (twice) summed.
    sent, numbers = four["collectives"], whole["params"] / 4
    assert sent["all-gather"] / 2 == pytest.approx(3 / 4 * numbers, rel=0.1)
    summed = sent["reduce-scatter"] / 4 + sent["all-reduce"] / 8
    assert summed == pytest.approx(3 / 4 * numbers, rel=0.1)
    assert four["fits"] and not four["estimate"]
    assert four["memory"]["limit"] == 16 * GIB
    assert four["step_seconds"] == max(four["seconds"].values())


@pytest.mark.slow
def test_too_large_is_an_answer(plan):
    """A batch for which 16 GiB do not do: the numbers, advice, and status 2."""
    done = plan(
        *("--topology", "v5e:1x1"),
        *("--config.batch.batch_size=16384", "--config.inputs.num_frames=16"),
    )
    assert done.returncode == 2, done.stderr
    assert "DOES NOT FIT" in done.stdout
    assert "the compiler: RESOURCE_EXHAUSTED" in done.stdout
    assert "--config.accumulation=" in done.stdout


@pytest.mark.slow
def test_gpu_plan_says_that_it_is_an_estimate(estimate):
    assert estimate["estimate"]
    assert not estimate["collectives"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology", "h200:2", "--mesh", "rows=2"), "--mesh has 'rows=2'"),
        (("--topology", "h200:2", "--mesh", "data=3"), "does not divide"),
        (("--topology", "v7:1"), "none of ours"),
    ],
)
def test_errors_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))  # added to
    config = tmp_path / "small.py"
    config.write_text(CONFIG)
    assert main(["plan", f"--config={config}", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_shape_that_is_not_offered(plan):
    done = plan("--topology", "v5e:3x3")
    assert done.returncode == 2
    assert "choose a shape that is offered" in done.stderr
    assert len(done.stderr.splitlines()) == 1
