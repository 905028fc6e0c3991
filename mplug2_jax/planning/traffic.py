"""What a compiled program moves: over links, and between memory and the chip.

libtpu lets a collective run beside other work: one fusion begins it, a share of it is
fused with each of several operations, in loops as well, another one ends it. All of
these name it, its operand and its result, but its bytes move once: they are counted
where it begins. Between slices it is the hosts that exchange what chips send to them.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Set

import numpy as np

from mplug2_jax.planning.hlo import Instruction, Program, size, sizes

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# They name or regroup buffers, or run what is counted by itself; nothing moves.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"}
_FREE |= {"after-all", "partition-id", "replica-id", "while", "conditional", "call"}
_FREE |= {"async-start", "async-update"}

BEGINS, ENDS = "async-collective-start", "async-collective-done"  # fusions' names

Table = Mapping[str, Instruction]


@dataclasses.dataclass
class Traffic:
    """Per device and step.

    Attributes:
      memory: bytes read from and written to memory.
      collectives: bytes sent over links, by kind.
      counts: how often each kind runs.
      far: those of `collectives` whose group spans slices.
    """

    memory: float = 0.0
    collectives: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, float] = dataclasses.field(default_factory=dict)
    far: float = 0.0
    unknown_loops: int = 0

    def add(self, kind: str, sent: float, far: bool, times: float) -> None:
        self.collectives[kind] = self.collectives.get(kind, 0.0) + sent * times
        self.counts[kind] = self.counts.get(kind, 0.0) + times
        self.far += sent * times if far else 0


def traffic(program: Program, slice_size: int | None = None) -> Traffic:
    """Counts everything that runs; `slice_size` devices share fast links."""
    total = Traffic()
    for name, times in program.executions().items():
        table = program.computations[name]
        for instruction in table.values():
            total.unknown_loops += program.trips(instruction) is None
            if _is_done(instruction) or instruction.op in _FREE:
                continue
            for kind, collective, around in _collectives(program, instruction, table):
                sent, far = _sent(collective, kind, around, slice_size)
                total.add(kind, sent, far, times)
            total.memory += times * _moved(program, instruction, table)
    return total


def _is_done(instruction: Instruction) -> bool:
    return instruction.op.endswith("-done") or instruction.name.startswith(ENDS)


def _collectives(
    program: Program, instruction: Instruction, table: Table
) -> Iterator[tuple[str, Instruction, Table]]:
    """The instruction if it is one, or those that begin within a fusion."""
    if instruction.op != "fusion":
        kind = _by_hosts(instruction) or instruction.op.removesuffix("-start")
        if kind in COLLECTIVES:
            yield kind, instruction, table
        return
    called = instruction.called[0]
    inside = program.computations[called]
    for inner in inside.values():
        if inner.op in COLLECTIVES and not _continues(inner, instruction):
            scattered = called.startswith("all-reduce-scatter")  # keeps its part only
            yield "reduce-scatter" if scattered else inner.op, inner, inside


def _by_hosts(instruction: Instruction) -> str:
    """The kind of collective that hosts run on what is sent to them; "" if it is none.

    Kinds of other names count as sent once.
    """
    found = re.search(r'megascale_transfer_type="(\w+)"', instruction.attributes)
    if instruction.op != "send" or found is None:
        return ""
    kind = found[1].lower().replace("_", "-")
    return kind if kind in COLLECTIVES else "collective-permute"


def _continues(inner: Instruction, fusion: Instruction) -> bool:
    """Whether a collective within a fusion has begun in another one."""
    shared = inner.op in COLLECTIVES and "chain_id=" in inner.attributes
    return shared and not fusion.name.startswith(BEGINS)


def _moved(program: Program, instruction: Instruction, table: Table) -> float:
    """Bytes of operands and result that lie in memory, where slices count once."""
    op = instruction.op
    if op == "fusion":
        return _moved_by_fusion(program, instruction, table)
    named = [table[o].result for o in instruction.operands if o in table]
    reads, writes = [size(name) for name in named], size(instruction.result)
    if op == "custom-call" and not reads:  # allots a buffer
        return 0.0
    if op == "dynamic-slice":
        return 2 * writes
    if op == "dynamic-update-slice":
        return 2 * reads[1]
    if op.endswith("slice-start"):  # the result names the operands again
        return size(instruction.result, True) - sum(size(n, True) for n in named)
    if (op.endswith("-start") or op == "send") and instruction.result.startswith("("):
        return writes
    return sum(reads) + writes


def _moved_by_fusion(program: Program, fusion: Instruction, table: Table) -> float:
    if fusion.name.startswith(BEGINS):  # the result names what is read, and is written
        return size(fusion.result)
    inside, moved = program.computations[fusion.called[0]], 0.0
    unread = {i.name for i in inside.values() if i.root and i.op == "tuple"}
    unread |= {i.name for i in inside.values() if _continues(i, fusion)}
    for index, operand in enumerate(fusion.operands):
        if operand in table and (whole := size(table[operand].result)):
            moved += min(whole, _read(program, fusion.called[0], index, unread))
    writes = _written(fusion, inside)
    for inner, around in _fused(program, fusion):
        if inner.op == "dynamic-update-slice" and writes:
            update = around[inner.operands[1]].result
            writes -= size(inner.result, True) - size(update, True)
    return moved + max(writes, 0.0)


def _written(fusion: Instruction, inside: Table) -> float:
    """Bytes of a fusion's results, without operands that it hands on as they are and
    without what a collective writes that began before."""
    root = next(inner for inner in inside.values() if inner.root)
    makers = [inside[o] for o in root.operands] if root.op == "tuple" else [root]
    handed = [maker.op == "parameter" or _continues(maker, fusion) for maker in makers]
    parts = sizes(fusion.result)
    if len(parts) != len(handed):
        return sum(parts)
    return sum(part for part, old in zip(parts, handed, strict=True) if not old)


def _fused(
    program: Program, fusion: Instruction
) -> Iterator[tuple[Instruction, Table]]:
    """Instructions of a fusion and of the fusions in it, each with those around it."""
    inside = program.computations[fusion.called[0]]
    for inner in inside.values():
        yield inner, inside
        if inner.op == "fusion":
            yield from _fused(program, inner)


def _read(
    program: Program, computation: str, index: int, unread: Set[str] = frozenset()
) -> float:
    """Bytes a fusion reads of a parameter; of one that it slices, the slices.

    `unread` are instructions that name it and do not read it.
    """
    inside = program.computations[computation].values()
    names = {i.name for i in inside if i.op == "parameter" and i.number == index}
    total = 0.0
    for user in inside:
        place = next((n for n, o in enumerate(user.operands) if o in names), None)
        if place is None or user.name in unread:
            continue
        if user.op == "bitcast":
            names.add(user.name)
        elif user.op in ("dynamic-slice", "slice"):
            total += size(user.result, True)
        elif user.op == "fusion":
            total += _read(program, user.called[0], place)
        elif user.op != "dynamic-update-slice" or place != 0:
            return math.inf
    return total


def _sent(
    instruction: Instruction, op: str, table: Table, slice_size: int | None
) -> tuple[float, bool]:
    """Bytes that a device sends, with ring algorithms, and whether far away."""
    operands = [table[o].result for o in instruction.operands if o in table]
    whole = sum(size(shape, True) for shape in operands)
    slices = re.search(r'megascale_target="\{([\d,:]+)\}', instruction.attributes)
    if slices and op == "collective-permute":
        return whole, True
    if op == "collective-permute":
        pairs = re.search(
            r"source_target_pairs=\{(.*?)\}\}?,? ", instruction.attributes
        )
        members = [int(n) for n in re.findall(r"\d+", pairs[1])] if pairs else []
        far = slice_size is not None and any(
            a // slice_size != b // slice_size
            for a, b in zip(members[::2], members[1::2], strict=False)
        )
        return whole, far
    group = _range(slices[1]) if slices else _first_group(instruction.attributes)
    others, far = len(group) - 1, slices is not None
    if slice_size is not None:
        far = far or len({m // slice_size for m in group}) > 1
    if op == "all-gather":
        return whole * others, far
    factor = {"all-reduce": 2.0}.get(op, 1.0)
    return whole * factor * others / max(len(group), 1), far


def _first_group(attributes: str) -> list[int]:
    """Members of the first replica group.

    Written as lists, as `[groups,size]<=[shape]T(order)`, or as axes of a mesh.
    """
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return _numbers(listed[1])
    if iota := re.search(
        r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        grid = _grid(_numbers(iota[3]), _numbers(iota[4] or ""))
        return grid.reshape(int(iota[1]), int(iota[2]))[0].tolist()
    if axes := re.search(
        r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", attributes
    ):
        axis = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes[1])}
        used = set(re.findall(r"'(\w+)'", axes[3]))
        order = [i for i, name in enumerate(axis) if name not in used]
        order += [i for i, name in enumerate(axis) if name in used]
        length = math.prod(axis[name] for name in used if name in axis)
        return _grid(list(axis.values()), order).reshape(-1, length)[0].tolist()
    return [0]


def _grid(shape: list[int], order: list[int]) -> np.ndarray:
    grid = np.arange(math.prod(shape)).reshape(shape)
    return grid.transpose(order) if order else grid


def _range(text: str) -> list[int]:
    """Of `1,2` or `1:4`, both ends included."""
    ends = [part.partition(":") for part in text.split(",")]
    return [n for a, _, b in ends for n in range(int(a), int(b or a) + 1)]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
