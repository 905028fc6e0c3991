"""Plans of a small configuration, compiled for a TPU slice that is not there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from mplug2_jax.cli.main import main
from mplug2_jax.planning.chips import CHIPS, GIB, of_device
from mplug2_jax.planning.plan import _memory
from mplug2_jax.planning.topology import Topology

ROOT = Path(__file__).parents[2]
CONFIG = f"""
from mplug2_jax.training.config import default_config

def get_config():
    config = default_config("captioning", "tiny")
    config.vocab = "{ROOT}/configs/shapes_words.txt"
    config.train.path = "none.jsonl"
    config.inputs.num_frames = 4
    config.batch.batch_size = 32
    config.batch.captions_per_video = 1
    for part in (config.model.vision, config.model.universal, config.model.decoder):
        part.num_layers = 1  # every layer is seconds of compiling
    return config
"""
# As little as a step can be: one layer of a text encoder.
LEAST = f"""
from mplug2_jax.training.config import default_config

def get_config():
    config = default_config("text_classification", "tiny")
    config.vocab = "{ROOT}/configs/shapes_words.txt"
    config.train.path = "none.jsonl"
    config.inputs.classes = ("follows", "does not")
    config.inputs.text_length = 16
    config.batch.batch_size = 8
    config.model.text.num_layers = 1
    config.model.universal.num_layers = 0
    config.mesh.fsdp = 4
    return config
"""
# The command in each of its forms, of plans that are made once.
ALL_FORMS = """
import sys
from mplug2_jax.planning.topology import Topology
Topology.parse("v5e:2x2").prepare()
from mplug2_jax.cli.main import main
from mplug2_jax.planning import plan as planning

make, made = planning.plan, []

def once(*arguments):
    made[:] = made or make(*arguments)
    return made

planning.plan = once
for form in (["--json"], ["--table"], []):
    assert main(["plan", *sys.argv[1:], *form]) == 0
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Runs `mplug2 plan` as a command of its own, as libtpu wants it."""
    folder = tmp_path_factory.mktemp("plan")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH')}"}
    environment.pop("XLA_FLAGS")  # libtpu refuses those of CPUs

    def run(*arguments, config=CONFIG, command=("-m", "mplug2_jax", "plan")):
        (folder / "small.py").write_text(config)
        return subprocess.run(
            [sys.executable, *command, f"--config={folder / 'small.py'}", *arguments],
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


@pytest.fixture(scope="module")
def estimate(plan):
    """Of the whole step, on one simulated GPU: no TPU's program is compiled for it."""
    done = plan("--topology", "h200:1", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_step_is_planned_for_a_tpu_slice(plan, estimate):
    """Divided four ways, state and arithmetic per chip are a quarter."""
    done = plan("--topology", "v5e:2x2", "--mesh", "fsdp=4", command=("-c", ALL_FORMS))
    assert done.returncode == 0, done.stderr
    as_json, *lines = done.stdout.splitlines()
    four = json.loads(as_json)
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
    check_table(lines[:3], four)
    check_text("\n".join(lines[3:]), four)


def check_table(lines, planned):
    columns, rule, row = lines
    assert columns.count("|") == rule.count("|") == row.count("|")
    total, seconds = planned["memory"]["total"] / GIB, planned["step_seconds"]
    assert row.startswith(
        "| small | vision 96 x 1, text 96 x 3 | video, 4 frames | 4 x v5e (2x2) "
        "| 1x4x1 | 8 | "
    )
    assert row.endswith(
        f" | {total:.3f} of 16 | {1e3 * seconds:.1f} | {planned['bound']} | "
        f"{100 * planned['mfu_at_most']:.0f} % |"
    )


def check_text(text, planned):
    assert "on v5e:2x2: 4 devices, mesh data 1 x fsdp 4 x tensor 1" in text
    assert "video, 4 frames: 32 rows, 8 at a time per device" in text
    assert "DOES NOT FIT" not in text
    for name in ("parameters", "optimizer", "activations", "total"):
        key = {"parameters": "params", "activations": "temporary"}.get(name, name)
        size = planned["memory"][key] / GIB
        assert re.search(rf"^    {name} +{size:.3f}$", text, re.MULTILINE)
    assert re.search(r"^    of +16\.000   fits$", text, re.MULTILINE)
    assert f"{planned['flops'] / 1e12:.3f} TFLOP per device and step" in text
    for kind, size in planned["collectives"].items():
        assert re.search(rf"{kind} +{size / 1e9:.3f} GB sent, \d+ times", text)
    assert f"ms, bound by {planned['bound']}, MFU at most " in text
    assert "Memory is what libtpu's compiler allots." in text


@pytest.mark.slow
def test_every_kind_of_tpu_is_compiled_for(plan):
    """Chips of two cores and of one, in a torus of three axes and of two; two slices.

    Only between slices does anything cross the network.
    """
    chips = ("v4:2x2x1", "v5p:2x2x1", "v6e:2x2", "2xv5e:2x2")
    done = plan("--topology", *chips, "--json", config=LEAST)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [its["chip"] for its in found] == ["v4", "v5p", "v6e", "v5e"]
    assert [its["devices"] for its in found] == [4, 4, 4, 8]
    assert [its["memory"]["limit"] / GIB for its in found] == [32, 95, 32, 16]
    assert all(its["fits"] and its["flops"] > 0 for its in found)
    assert [its["between_slices"] > 0 for its in found] == [False, False, False, True]
    assert found[3]["flops"] == pytest.approx(found[0]["flops"] / 2)


@pytest.mark.parametrize(
    "said",
    [
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used "
        "20.25G of 15.75G hbm. Exceeded hbm capacity by 4.50G.",
        "Ran out of memory on HBM, the total memory required for HLO temporaries "
        "(20.25G) exceeds available HBM (15.75G). HLO module: jit_step.",
    ],
)
@pytest.mark.parametrize(("each", "temporary"), [(3, 11.25), (8, 0)])
def test_what_the_compiler_says_it_needs_has_the_arguments_in_it(said, each, temporary):
    """Three arguments of some GiB each: parameters, optimizer's, batch."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaf = jax.ShapeDtypeStruct((each, GIB), jnp.uint8, sharding=place)
    state = SimpleNamespace(
        params=leaf, opt_state=leaf, teacher=None, ema=None, queue=None
    )
    refusal = f"RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: {said}"
    memory = _memory(state, leaf, Topology.parse("v5e:1x1"), None, refusal)
    assert memory.temporary / GIB == temporary
    assert memory.total / GIB == max(20.25, 3 * each)
    assert memory.limit / GIB == 15.75


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
    needed = re.search(r"([\d.]+)G\)? (?:of|exceeds)", done.stdout)
    total = re.search(r"^    total +([\d.]+)$", done.stdout, re.MULTILINE)
    assert needed and total
    assert float(total[1]) == pytest.approx(float(needed[1]), abs=0.01)
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
