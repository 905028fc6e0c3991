"""Compiles the training step for devices that are not there, and weighs it.

TPUs: the compiler of libtpu makes the program that a pod would run; its memory is what
the compiler allots. GPUs: the step is compiled for simulated CPU devices; its memory
is an estimate, and cuDNN's attention is not in it.
"""

import dataclasses
import math
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.planning.batches import Share, batches
from mplug2_jax.planning.chips import GIB
from mplug2_jax.planning.hlo import Program
from mplug2_jax.planning.stand_ins import planned_task
from mplug2_jax.planning.topology import Topology
from mplug2_jax.planning.traffic import Traffic, traffic
from mplug2_jax.sharding.mesh import MeshConfig, make_mesh
from mplug2_jax.sharding.partition import batch_sharding, check_batch
from mplug2_jax.tasks.base import Task
from mplug2_jax.training.config import RunConfig
from mplug2_jax.training.flops import model_flops, step_flops
from mplug2_jax.training.optimizer import make_optimizer
from mplug2_jax.training.step import abstract_state, make_step

# What a GPU's driver, libraries and JAX's allocator leave for arrays.
GPU_USABLE = 0.92


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device; `temporary` is what lives within a step: activations."""

    params: float
    optimizer: float
    extra: float  # teacher, average of parameters, queue
    batch: float
    temporary: float
    program: float
    limit: float

    @property
    def state(self) -> float:
        return self.params + self.optimizer + self.extra

    @property
    def total(self) -> float:
        return self.state + self.batch + self.temporary + self.program


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step with one kind of batch takes, per device.

    Attributes:
      model: with the shapes of the checkpoint that the run starts from, if it is here.
      flops: of matrix products, recomputation included, if they divide evenly.
      model_flops: those of them that count in an MFU (`model_flops`).
      traffic: None where the program did not fit and so was not made.
      refusal: the compiler's words in that case.
      seconds_to_compile: on this machine.
    """

    model: MPlug2Config
    share: Share
    topology: Topology
    mesh: dict[str, int]
    memory: Memory
    flops: float
    model_flops: float
    traffic: Traffic | None
    refusal: str
    seconds_to_compile: float
    accumulation: int

    @property
    def fits(self) -> bool:
        return not self.refusal and self.memory.total <= self.memory.limit

    @property
    def rows_per_device(self) -> float:
        """Videos, images or texts that a device holds at a time."""
        parts = self.mesh["data"] * self.mesh["fsdp"] * self.accumulation
        return self.share.rows / parts

    @property
    def terms(self) -> dict[str, float]:
        """Seconds of each resource at its peak, were it alone.

        What a GPU's own program reads and writes is not known, but that it reads the
        state and writes it.
        """
        chip, memory = self.topology.chip, self.memory
        terms = {"compute": self.flops / chip.flops}
        if self.traffic is not None:
            sent, far = sum(self.traffic.collectives.values()), self.traffic.far
            least = 2 * memory.state + memory.batch
            moved = self.traffic.memory if chip.is_tpu else least
            terms["memory"] = moved / chip.hbm_bandwidth
            terms["links"] = (sent - far) / chip.link_bandwidth
            terms["network"] = far / chip.network_bandwidth
        return terms

    @property
    def seconds(self) -> float:
        """Roofline: no step is faster, however well its parts overlap."""
        return max(self.terms.values())

    @property
    def bound(self) -> str:
        return max(self.terms, key=self.terms.__getitem__)

    @property
    def utilisation(self) -> float:
        """MFU of a step that takes no longer than the roofline."""
        return self.model_flops / self.topology.chip.flops / self.seconds


def plan(
    config: RunConfig, topology: Topology, mesh_config: MeshConfig | None = None
) -> list[Plan]:
    """Plans every kind of batch of a run on a topology.

    Args:
      mesh_config: instead of the configuration's.

    Raises:
      ValueError: mesh, batch and topology do not fit each other.
    """
    wanted = mesh_config or config.mesh
    if wanted.slices == 1 and topology.slices > 1:
        wanted = dataclasses.replace(wanted, slices=topology.slices)
    mesh = make_mesh(wanted, topology.devices())
    task = planned_task(config, mesh)
    config = dataclasses.replace(config, model=task.config)
    shares = batches(config)
    for share in shares:
        check_batch(share.rows, mesh, config.accumulation)
    return [_plan(config, task, share, topology, mesh) for share in shares]


def _plan(
    config: RunConfig, task: Task, share: Share, topology: Topology, mesh: Mesh
) -> Plan:
    optimizer = make_optimizer(config.optimizer, max(config.steps, 1000))
    options = {"ema_decay": config.ema_decay, "mesh": mesh}
    state = abstract_state(task, optimizer, config.distillation, **options)
    state = _placed(state, NamedSharding(mesh, PartitionSpec()))
    batch = _placed(share.batch, batch_sharding(mesh))
    key = jax.eval_shape(jax.random.key, 0)
    step = make_step(
        task,
        optimizer,
        config.distillation,
        config.accumulation,
        **options,
    )
    arguments = (state, batch, key)
    flops = step_flops(step, *arguments)
    useful = model_flops(task, optimizer, config.distillation, batch, mesh)
    start = time.monotonic()
    compiled, refusal = _compile(step, arguments)
    memory = _memory(state, batch, topology, compiled, refusal)
    moved = None
    if compiled is not None:
        moved = traffic(Program(compiled.as_text()), topology.slice_size)
    return Plan(
        task.config,
        share,
        topology,
        {name: int(size) for name, size in mesh.shape.items()},
        memory,
        flops / mesh.size,
        useful / mesh.size,
        moved,
        refusal,
        time.monotonic() - start,
        config.accumulation,
    )


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    """The abstract arrays, those without a sharding with this one."""

    def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        where = getattr(leaf, "sharding", None) or sharding
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(place, tree)


def _compile(step: Any, arguments: tuple[Any, ...]) -> tuple[Any, str]:
    """The program, or None and why the compiler refused it for want of memory."""
    lowered = step.lower(*arguments)
    try:
        return lowered.compile(), ""
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, " ".join(str(error).splitlines()[0].split())


def _memory(state, batch, topology: Topology, compiled, refusal: str) -> Memory:
    parts = {
        "params": _bytes(state.params),
        "optimizer": _bytes(state.opt_state),
        "extra": _bytes((state.teacher, state.ema, state.queue)),
        "batch": _bytes(batch),
    }
    limit = topology.chip.hbm_bytes * (1 if topology.chip.is_tpu else GPU_USABLE)
    if compiled is None:
        needed, available = _needed(refusal)
        temporary = max(needed - sum(parts.values()), 0)
        return Memory(**parts, temporary=temporary, program=0, limit=available or limit)
    stats = compiled.memory_analysis()
    # Padding of the arguments to the hardware's tiles counts as the program's.
    padding = max(stats.argument_size_in_bytes - sum(parts.values()), 0)
    unaliased = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
    program = stats.generated_code_size_in_bytes + padding + unaliased
    return Memory(
        **parts, temporary=stats.temp_size_in_bytes, program=program, limit=limit
    )


def _needed(refusal: str) -> tuple[float, float]:
    """Bytes that the compiler needs and has: arguments count, whatever it calls them.

    libtpu 0.0.52 says "the total memory required for HLO temporaries (16.03G) exceeds
    available HBM (15.75G)", or "Used 15.75G of 15.75G hbm" where it is that close; of a
    program whose arguments alone are 20.25 GiB the former names 20.62G.
    """
    units = {"K": 1 << 10, "M": 1 << 20, "G": GIB, "T": GIB << 10}
    sizes = re.findall(r"(\d+(?:\.\d+)?)([KMGT])\b", refusal)
    found = [float(number) * units[unit] for number, unit in sizes] + [0.0, 0.0]
    return found[0], found[1]


def _bytes(tree: Any) -> float:
    """Of one device's part."""

    def part(leaf: Any) -> float:
        if not hasattr(leaf, "sharding") or leaf.sharding is None:
            return 0.0
        shape = leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(map(part, jax.tree.leaves(tree)))
