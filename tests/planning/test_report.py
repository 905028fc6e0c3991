"""What is said of plans: rows of a table, text, advice."""

import dataclasses
import re

import pytest

from mplug2_jax.cli.plan import read_mesh
from mplug2_jax.data.opening import DataConfig
from mplug2_jax.models.config import preset
from mplug2_jax.planning.batches import batches
from mplug2_jax.planning.chips import GIB
from mplug2_jax.planning.plan import Memory, Plan
from mplug2_jax.planning.report import HEADER, advice, describe, size_of, table_row
from mplug2_jax.planning.topology import Topology
from mplug2_jax.planning.traffic import Traffic
from mplug2_jax.sharding.mesh import make_mesh
from mplug2_jax.sharding.partition import check_batch
from mplug2_jax.training.config import RunConfig

CONFIG = RunConfig("captioning", preset("large"), DataConfig(path="none.jsonl"))
MEMORY = Memory(4 * GIB, 8 * GIB, 4 * GIB, 0, 2 * GIB, 0, limit=16 * GIB)


def plan(chips: str = "v5e:4x4", rows: int = 64, **changes) -> Plan:
    """Of 197 TFLOP, a second of a v5e, of which half is the model's own."""
    planned = Plan(
        model=CONFIG.model,
        share=dataclasses.replace(batches(CONFIG)[0], rows=rows),
        topology=Topology.parse(chips),
        mesh={"data": 16, "fsdp": 1, "tensor": 1},
        memory=MEMORY,
        flops=197e12,
        model_flops=197e12 / 2,
        traffic=Traffic(memory=1e9),
        refusal="",
        seconds_to_compile=0.0,
        accumulation=1,
    )
    return dataclasses.replace(planned, **changes)


def row(planned: Plan) -> dict[str, str]:
    """Cells of the table by their columns."""
    lines = f"{HEADER}\n{table_row('own', planned)}".splitlines()
    assert len({line.count("|") for line in lines}) == 1
    columns, _, cells = ([c.strip() for c in x.split("|")[1:-1]] for x in lines)
    return dict(zip(columns, cells, strict=True))


def test_row_of_a_step_that_does_not_fit():
    found = row(plan())
    assert found["size"] == "large"
    assert found["batch"] == "video, 16 frames"
    assert found["chips"] == "16 x v5e (4x4)"
    assert found["total GiB"] == "18.000 of 16: DOES NOT FIT"
    assert found["no step faster than, ms"] == "1000.0"
    assert found["bound by"] == "compute"


def test_what_is_computed_again_is_no_use():
    assert row(plan())["MFU at most"] == "50 %"
    assert "bound by compute, MFU at most 50 %" in describe(plan())
    read = Traffic(memory=2 * 0.819e12)  # two seconds
    assert row(plan(traffic=read))["bound by"] == "memory"
    assert row(plan(traffic=read))["MFU at most"] == "25 %"


def test_of_a_gpu_the_traffic_of_another_program_does_not_count():
    """It is at least the state's 16 GiB, twice."""
    read = Traffic(memory=1e15)
    assert row(plan("h100:16", traffic=read))["bound by"] == "compute"
    found = plan("h100:16", traffic=read, flops=1.0).terms
    assert found["memory"] == pytest.approx(2 * 16 * GIB / 3.35e12)


def test_of_a_program_that_was_not_made_the_arithmetic_is_known():
    refused = plan(traffic=None, refusal="RESOURCE_EXHAUSTED: too much")
    assert row(refused)["no step faster than, ms"] == "1000.0"
    assert row(refused)["bound by"] == row(refused)["MFU at most"] == "-"
    assert "step >= 1000.0 ms, the arithmetic alone;" in describe(refused)


@pytest.mark.parametrize(
    ("chips", "shown"),
    [("2xv5e:4x4", "32 x v5e (2 slices of 4x4)"), ("h100:8", "8 x h100")],
)
def test_chips_are_counted(chips, shown):
    assert row(plan(chips))["chips"] == shown


def test_size_is_the_preset_s_or_the_numbers():
    other = {"numerics": {"remat": "full"}, "vision": {"drop_path": 0.5}}
    large = preset("large").replace(**other)
    assert size_of(large) == "large"
    fewer = large.replace(vision={"num_layers": 5})
    assert size_of(fewer) == "vision 1024 x 5, text 1024 x 24"


def test_advice_divides_the_state_no_further_than_needed():
    found = advice(CONFIG, plan(traffic=None))
    assert found[0].startswith("--config.model.numerics.dtype=bfloat16")
    assert "fsdp=4,tensor=1,slices=1 (state divided further: 12.000 GiB" in found[2]
    assert found[-1] == "more devices than 16"


class Device:
    """What a mesh asks of a device of a slice."""

    platform = device_kind = "cpu"
    process_index = 0

    def __init__(self, index: int, slice_index: int):
        self.id, self.slice_index = index, slice_index


def suggested(planned: Plan) -> list[tuple[tuple[int, ...], float, str]]:
    """Of each mesh in the advice its shape, rows per device at a time, and why."""
    topology = planned.topology
    slice_size = topology.size // topology.slices
    devices = [Device(i, i // slice_size) for i in range(topology.size)]
    found = []
    for line in advice(CONFIG, planned):
        flags, _, why = line.partition(" (")
        words = re.fullmatch(r"--mesh (\S+)(?: --config\.accumulation=(\d+))?", flags)
        if words:
            mesh = make_mesh(read_mesh(words[1]), devices)
            accumulation = int(words[2] or planned.accumulation)
            check_batch(planned.share.rows, mesh, accumulation)
            shape = mesh.devices.shape
            rows = planned.share.rows / (shape[0] * shape[1] * accumulation)
            found.append((shape, rows, why))
    return found


def sizes(*shape: int) -> dict[str, int]:
    return dict(zip(("data", "fsdp", "tensor"), shape, strict=True))


@pytest.mark.parametrize(
    ("chips", "now", "expected"),
    [
        ("v5e:4x4", (16, 1, 1), (4, 4, 1)),
        ("v5e:4x4", (8, 1, 2), (2, 4, 2)),
        ("2xv5e:4x4", (32, 1, 1), (8, 4, 1)),
        ("2xv5e:4x4", (4, 4, 2), (2, 8, 2)),
        ("h100:16", (16, 1, 1), (4, 4, 1)),
    ],
)
def test_state_is_divided_further_on_the_devices_there_are(chips, now, expected):
    planned = plan(chips, mesh=sizes(*now))
    ((shape, rows, why),) = suggested(planned)
    assert shape == expected and rows == planned.rows_per_device
    assert why.startswith("state divided further")


@pytest.mark.parametrize(
    ("chips", "now", "accumulation", "expected"),
    [
        ("v5e:4x4", (16, 1, 1), 1, (8, 1, 2)),
        ("v5e:4x4", (2, 4, 2), 3, (1, 4, 4)),
        ("v5e:4x4", (1, 16, 1), 1, (1, 8, 2)),
        ("2xv5e:4x4", (2, 16, 1), 1, (2, 8, 2)),
        ("2xv5e:4x4", (4, 8, 1), 2, (2, 8, 2)),
    ],
)
def test_two_devices_share_a_row_and_the_state_is_divided_no_less(
    chips, now, accumulation, expected
):
    small = dataclasses.replace(MEMORY, params=0, optimizer=0, temporary=16 * GIB)
    alone = now[0] * now[1] * accumulation
    planned = plan(
        chips, alone, mesh=sizes(*now), accumulation=accumulation, memory=small
    )
    ((shape, rows, why),) = suggested(planned)
    assert (shape, rows) == (expected, 1)
    assert shape[1] * shape[2] >= now[1] * now[2]
    assert why == "layers divided; two devices share a row)"


@pytest.mark.parametrize(
    ("chips", "now"), [("v5e:1x1", (1, 1, 1)), ("v5e:4x4", (1, 1, 16))]
)
def test_no_mesh_is_suggested_where_nothing_is_left_to_divide(chips, now):
    assert suggested(plan(chips, now[0] * now[1], mesh=sizes(*now))) == []


def test_a_program_that_was_refused_is_accumulated_in_parts_that_have_room():
    """4 GiB of state and 2 of batch leave 10 of 16 to activations of 35."""
    memory = Memory(4 * GIB, 0, 0, 2 * GIB, 35 * GIB, 0, limit=16 * GIB)
    found = advice(CONFIG, plan(memory=memory))
    assert "--config.accumulation=4 (parts of 1 rows per device)" in found
