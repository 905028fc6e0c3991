"""What is said of plans: rows of a table, text, advice."""

import dataclasses

import pytest

from mplug2_jax.data.opening import DataConfig
from mplug2_jax.models.config import preset
from mplug2_jax.planning.batches import batches
from mplug2_jax.planning.chips import GIB
from mplug2_jax.planning.plan import Memory, Plan
from mplug2_jax.planning.report import HEADER, advice, describe, size_of, table_row
from mplug2_jax.planning.topology import Topology
from mplug2_jax.planning.traffic import Traffic
from mplug2_jax.training.config import RunConfig

CONFIG = RunConfig("captioning", preset("large"), DataConfig(path="none.jsonl"))
MEMORY = Memory(4 * GIB, 8 * GIB, 4 * GIB, 0, 2 * GIB, 0, limit=16 * GIB)


def plan(chips: str = "v5e:4x4", **changes) -> Plan:
    """Of 197 TFLOP, a second of a v5e, of which half is the model's own."""
    planned = Plan(
        model=CONFIG.model,
        share=batches(CONFIG)[0],
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
    large = preset("large").replace(numerics={"remat": "full"}, vision={"drop_path": 1})
    assert size_of(large) == "large"
    fewer = large.replace(vision={"num_layers": 5})
    assert size_of(fewer) == "vision 1024 x 5, text 1024 x 24"


def test_advice_divides_the_state_no_further_than_needed():
    found = advice(CONFIG, plan(traffic=None))
    assert found[0].startswith("--config.model.numerics.dtype=bfloat16")
    assert "--mesh data=4,fsdp=4 (state divided further: 12.000 GiB less" in found[2]
    assert found[-1] == "more devices than 16"
