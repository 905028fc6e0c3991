"""Plans as text, as rows of a table, and as advice."""

import dataclasses
import math
from typing import Any

from mplug2_jax.models.config import PRESETS, MPlug2Config, preset
from mplug2_jax.planning.chips import GIB
from mplug2_jax.planning.plan import Plan
from mplug2_jax.planning.topology import Topology
from mplug2_jax.sharding.mesh import MeshConfig
from mplug2_jax.training.config import RunConfig

HEADER = (
    "| configuration | size | batch | chips | mesh data x fsdp x tensor | "
    "rows per device | state GiB | activations GiB | total GiB | "
    "no step faster than, ms | bound by | MFU at most |\n"
    f"|{12 * '---|'}"
)


def describe(plan: Plan) -> str:
    """What one kind of batch takes, in lines."""
    memory, chip = plan.memory, plan.topology.chip
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines = [
        f"{plan.share.kind}: {plan.share.rows} rows, {_rows(plan)} at a time per device"
        f" (accumulation {plan.accumulation})",
        f"  memory per device, GiB{'' if chip.is_tpu else ' (estimate, see below)'}",
        *(
            f"    {name:13} {_gib(value):>9}"
            for name, value in (
                ("parameters", memory.params),
                ("optimizer", memory.optimizer),
                ("teacher etc.", memory.extra),
                ("batch", memory.batch),
                ("activations", memory.temporary),
                ("program", memory.program),
                ("total", memory.total),
            )
        ),
        f"    of            {_gib(memory.limit):>9}   {verdict}",
        f"  arithmetic      {plan.flops / 1e12:9.3f} TFLOP per device and step",
    ]
    if plan.refusal:
        lines.append(f"  the compiler: {plan.refusal}")
    if plan.traffic is not None:
        traffic = plan.traffic
        lines.append(f"  memory traffic  {traffic.memory / 1e9:9.3f} GB")
        for kind, size in sorted(traffic.collectives.items()):
            count = int(traffic.counts[kind])
            lines.append(f"  {kind:18} {size / 1e9:6.3f} GB sent, {count} times")
        if traffic.far:
            lines.append(f"  between slices  {traffic.far / 1e9:9.3f} GB of these")
        if traffic.unknown_loops:
            lines.append(
                f"  {traffic.unknown_loops} loops of unknown length count once"
            )
    terms = ", ".join(f"{name} {1e3 * s:.1f}" for name, s in plan.terms.items())
    lines.append(f"  roofline, ms    {terms}")
    least = f"  step >= {1e3 * plan.seconds:.1f} ms"
    if plan.traffic is None:
        least += ", the arithmetic alone"
    else:
        least += f", bound by {plan.bound}, MFU at most {_percent(plan.utilisation)}"
    lines.append(f"{least}; compiled in {plan.seconds_to_compile:.0f} s")
    return "\n".join(lines)


def notes(plans: list[Plan]) -> str:
    """How the figures came about, and the whole run's rate."""
    topology = plans[0].topology
    lines = []
    if len(plans) > 1:
        seconds = sum(plan.share.weight * plan.seconds for plan in plans)
        lines.append(f"mean step of the mixture >= {1e3 * seconds:.1f} ms")
    if topology.chip.is_tpu:
        lines.append(
            "Memory is what libtpu's compiler allots. The roofline takes every resource"
            " at its peak; a real step is slower."
        )
    else:
        lines.append(
            "Not compiled for this GPU: memory and traffic are those of the step "
            "compiled for simulated CPU devices, whose attention keeps its scores and "
            "whose bfloat16 products are done in float32. The GPU's own is lower; in "
            "the roofline memory counts as if only the state were read and written."
        )
    return "\n".join(lines)


def table_row(name: str, plan: Plan) -> str:
    """The plan as a row below `HEADER`."""
    memory, made = plan.memory, plan.traffic is not None
    fits = "" if plan.fits else ": DOES NOT FIT"
    cells = (
        name,
        size_of(plan.model),
        plan.share.kind,
        _chips(plan.topology),
        "x".join(str(plan.mesh[axis]) for axis in ("data", "fsdp", "tensor")),
        _rows(plan),
        _gib(memory.state),
        _gib(memory.temporary),
        f"{_gib(memory.total)} of {memory.limit / GIB:.0f}{fits}",
        f"{1e3 * plan.seconds:.1f}",
        plan.bound if made else "-",
        _percent(plan.utilisation) if made else "-",
    )
    return f"| {' | '.join(cells)} |"


def size_of(model: MPlug2Config) -> str:
    """The preset that a model has the shapes of, else its widths and layers."""

    def shape(model: MPlug2Config) -> tuple[int, ...]:
        vision, text = model.vision, model.text
        stacks = (vision, text, model.universal, model.fusion, model.decoder)
        layers = tuple(stack.num_layers for stack in stacks)
        return (vision.width, vision.patch_size, text.width, *layers)

    for name in PRESETS:
        if shape(preset(name)) == shape(model):
            return name
    sizes = {"vision": model.vision, "text": model.text}
    return ", ".join(f"{k} {its.width} x {its.num_layers}" for k, its in sizes.items())


def _chips(topology: Topology) -> str:
    """Such as `256 x v5e (16x16)`."""
    chips = f"{topology.size} x {topology.chip.name}"
    if not topology.chip.is_tpu:
        return chips
    slices = f"{topology.slices} slices of " if topology.slices > 1 else ""
    return f"{chips} ({slices}{'x'.join(map(str, topology.shape))})"


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan's numbers: bytes, FLOPs and seconds of one device."""
    traffic, memory = plan.traffic, plan.memory
    return {
        "size": size_of(plan.model),
        "batch": plan.share.kind,
        "rows": plan.share.rows,
        "chip": plan.topology.chip.name,
        "devices": plan.topology.size,
        "mesh": plan.mesh,
        "fits": plan.fits,
        "memory": vars(memory) | {"total": memory.total},
        "flops": plan.flops,
        "model_flops": plan.model_flops,
        "memory_traffic": traffic and traffic.memory,
        "collectives": traffic and dict(traffic.collectives),
        "between_slices": traffic and traffic.far,
        "seconds": plan.terms,
        "step_seconds": plan.seconds,
        "bound": plan.bound,
        "mfu_at_most": plan.utilisation,
        "refusal": plan.refusal,
        "estimate": not plan.topology.chip.is_tpu,
    }


def advice(config: RunConfig, plan: Plan) -> list[str]:
    """What to change when a plan does not fit, the cheapest first."""
    memory, mesh, found = plan.memory, _within_slice(plan), []
    numerics = config.model.numerics
    if numerics.dtype != "bfloat16":
        found.append("--config.model.numerics.dtype=bfloat16 (half the activations)")
    if numerics.remat != "full":
        found.append("--config.model.numerics.remat=full (keep layers' inputs only)")
    spread, now = mesh.data * mesh.fsdp, mesh.fsdp
    more = [n for n in range(now + 1, spread + 1) if spread % n == n % now == 0]
    if memory.state > memory.limit / 4 and more:
        # No further than needed: small parts are slow to gather.
        small = (n for n in more if memory.state * now / n <= memory.limit / 4)
        wanted = next(small, more[-1])
        saved = memory.state * (1 - now / wanted)
        found.append(
            f"{_flag(mesh, data=spread // wanted, fsdp=wanted)} (state divided "
            f"further: {_gib(saved)} GiB less per device)"
        )
    parts = [a for a in (2, 4, 8, 16, 32) if plan.rows_per_device % a == 0]
    room = memory.limit - (memory.total - memory.temporary)
    over = memory.temporary / max(room, 1)
    if parts and over >= 1:
        wanted = next((a for a in parts if a >= over), parts[-1])
        found.append(
            f"--config.accumulation={plan.accumulation * wanted} (parts of "
            f"{plan.rows_per_device / wanted:g} rows per device)"
        )
    if not parts:
        # Replicas go first: then the state is divided further too.
        even = [a for a in ("data", "fsdp") if getattr(mesh, a) % 2 == 0]
        tensor = 2 * mesh.tensor
        if even and plan.rows_per_device == 1 and _divides(config.model, tensor):
            halved = {even[0]: getattr(mesh, even[0]) // 2}
            found.append(
                f"{_flag(mesh, **halved, tensor=tensor)} "
                f"--config.accumulation={2 * plan.accumulation} (layers divided; two "
                "devices share a row)"
            )
        found.append("fewer frames, or a chip with more memory")
    found.append(f"more devices than {plan.topology.size}")
    return found


def _within_slice(plan: Plan) -> MeshConfig:
    """The plan's mesh as it is asked for: its `data` has the slices in front."""
    slices = plan.topology.slices
    sizes = plan.mesh | {"data": plan.mesh["data"] // slices}
    return MeshConfig(**sizes, slices=slices)


def _flag(mesh: MeshConfig, **changes: int) -> str:
    """The mesh with changes, as `--mesh` of all axes: those left out have defaults."""
    axes = vars(dataclasses.replace(mesh, **changes))
    return "--mesh " + ",".join(f"{axis}={size}" for axis, size in axes.items())


def _divides(model: MPlug2Config, tensor: int) -> bool:
    heads = math.gcd(model.vision.num_heads, model.text.num_heads)
    return heads % tensor == 0


def _gib(size: float) -> str:
    return f"{size / GIB:.3f}"


def _rows(plan: Plan) -> str:
    return f"{plan.rows_per_device:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
