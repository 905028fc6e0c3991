"""Plans of a small configuration, compiled for a TPU slice that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mplug2_jax.planning.chips import CHIPS, GIB, of_device
from mplug2_jax.planning.topology import Topology

ROOT = Path(__file__).parents[2]
CONFIG = """
from mplug2_jax.training.config import default_config

def get_config():
    config = default_config("question_answering", "tiny")
    config.train.path = "none.jsonl"
    config.inputs.num_frames = 4
    config.batch.batch_size = 32
    config.batch.questions_per_video = 2
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


@pytest.mark.slow
def test_step_is_planned_for_a_tpu_slice(plan):
    """Divided four ways, state and arithmetic per chip are a quarter."""
    one = plan("--topology", "v5e:1x1", "--json")
    four = plan("--topology", "v5e:2x2", "--mesh", "fsdp=4", "--json")
    assert one.returncode == four.returncode == 0, one.stderr + four.stderr
    one, four = json.loads(one.stdout), json.loads(four.stdout)
    assert four["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert four["flops"] == pytest.approx(one["flops"] / 4)
    for part in ("params", "optimizer"):
        assert four["memory"][part] == pytest.approx(one["memory"][part] / 4, rel=0.15)
    assert one["memory"]["optimizer"] == pytest.approx(
        2 * one["memory"]["params"], 0.01
    )
    assert not one["collectives"]
    gathered = four["collectives"].get("all-gather", 0)
    reduced = four["collectives"].get("reduce-scatter", 0) + four["collectives"].get(
        "all-reduce", 0
    )
    # Gradients are summed over the four, parameters gathered for their use.
    assert min(gathered, reduced) > one["memory"]["params"] / 4
    assert four["fits"]
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
def test_gpu_plan_says_that_it_is_an_estimate(plan):
    done = plan("--topology", "h200:1")
    assert done.returncode == 0, done.stderr
    assert "estimate" in done.stdout
    assert "simulated CPU devices" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology", "v5e:2x2", "--mesh", "rows=4"), "--mesh has 'rows=4'"),
        (("--topology", "v5e:2x2", "--mesh", "data=3"), "does not divide"),
        (("--topology", "v5e:3x3"), "choose a shape that is offered"),
        (("--topology", "v7:1"), "none of ours"),
    ],
)
def test_errors_are_one_sentence(plan, arguments, message):
    done = plan(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
