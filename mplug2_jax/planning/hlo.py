"""Reads a compiled program's text: what crosses links, and what crosses memory.

XLA's own cost analysis counts the body of a loop once, and our layers are loops. Here
every computation is counted as often as it runs: the trip count stands beside a loop,
or is the constant that its condition compares the counter with (`lax.scan` counts from
0 in steps of 1).
"""

import dataclasses
import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0}
# They name or regroup buffers; nothing moves.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"}
_FREE |= {"after-all", "partition-id", "replica-id", "while", "conditional", "call"}

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|condition|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_INTEGER = re.compile(r"^(\d+)\)")
_OPERAND = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = shape op(operands), attributes`."""

    name: str
    op: str
    result: str
    operands: tuple[str, ...]
    attributes: str
    root: bool = False


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
    collectives: Counter = dataclasses.field(default_factory=Counter)
    counts: Counter = dataclasses.field(default_factory=Counter)
    far: float = 0.0
    unknown_loops: int = 0


class Program:
    """The computations of a module's text (`compiled.as_text()`)."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations.setdefault(header[1], [])
                if line.startswith("ENTRY"):
                    self.entry = header[1]
            elif found := _INSTRUCTION.match(line):
                current.append(_instruction(found[1], found[2], "ROOT " in line[:12]))

    def traffic(self, slice_size: int | None = None) -> Traffic:
        """Counts everything that runs; `slice_size` devices share fast links."""
        total = Traffic()
        for name, times in self._executions().items():
            table = {i.name: i for i in self.computations[name]}
            for instruction in table.values():
                self._count(instruction, table, times, slice_size, total)
        return total

    def _executions(self) -> Mapping[str, float]:
        """How often each computation outside of fusions runs."""
        times: dict[str, float] = defaultdict(float)

        def visit(name: str, count: float) -> None:
            times[name] += count
            for instruction in self.computations[name]:
                if instruction.op in ("while", "call", "conditional", "async-start"):
                    inner = count * (self._trips(instruction) or 1)
                    for called in _called(instruction):
                        visit(called, inner)

        visit(self.entry, 1.0)
        return times

    def _trips(self, instruction: Instruction) -> int | None:
        """How often a loop's body runs; 1 for what is no loop, None if unknown."""
        if instruction.op != "while":
            return 1
        if written := _TRIPS.search(instruction.attributes):
            return int(written[1])
        condition = _CONDITION.search(instruction.attributes)
        limits = self._compared(condition[1], {}) if condition else []
        return max(limits, default=None)

    def _compared(self, computation: str, outside: Mapping[int, int]) -> list[int]:
        """Constants that a computation compares with; `outside` are its parameters'."""
        values: dict[str, int] = {}
        found = []
        for inner in self.computations[computation]:
            number = _INTEGER.match(inner.attributes)
            if inner.op == "constant" and number:
                values[inner.name] = int(number[1])
            elif inner.op == "parameter" and int(inner.attributes[:-1]) in outside:
                values[inner.name] = outside[int(inner.attributes[:-1])]
            given = {n: values[o] for n, o in enumerate(inner.operands) if o in values}
            if inner.op == "compare":
                found += given.values()
            elif inner.op in ("fusion", "call"):
                found += self._compared(_called(inner)[0], given)
        return found

    def _count(self, instruction, table, times, slice_size, total) -> None:
        op = instruction.op.removesuffix("-start")
        if self._trips(instruction) is None:
            total.unknown_loops += 1
        if op.endswith("-done") or op in _FREE:
            return
        if op == "fusion":  # a collective may run beside what it is fused with
            inside = self.computations[_called(instruction)[0]]
            within = {inner.name: inner for inner in inside}
            for inner in inside:
                _count_collective(inner, within, times, slice_size, total)
        _count_collective(instruction, table, times, slice_size, total)
        total.memory += times * self._moved(instruction, table)

    def _moved(self, instruction: Instruction, table) -> float:
        """Bytes of operands and result that lie in memory, where slices count once."""
        op = instruction.op
        if op == "fusion":
            return self._moved_by_fusion(instruction, table)
        reads = [_size(table[o].result) for o in instruction.operands if o in table]
        writes = _size(instruction.result)
        if op == "custom-call" and not reads:  # allots a buffer
            return 0.0
        if op == "dynamic-slice":
            return 2 * writes
        if op == "dynamic-update-slice":
            return 2 * reads[1]
        if op.endswith("slice-start"):  # the result names the operands again
            named = [table[o].result for o in instruction.operands if o in table]
            return _size(instruction.result, True) - sum(_size(n, True) for n in named)
        if op.endswith("-start") and instruction.result.startswith("("):
            return writes
        return sum(reads) + writes

    def _moved_by_fusion(self, instruction: Instruction, table) -> float:
        moved = 0.0
        for index, operand in enumerate(instruction.operands):
            if operand in table and (whole := _size(table[operand].result)):
                moved += min(whole, self._read(_called(instruction)[0], index))
        writes = _size(instruction.result)
        for inner, results in self._fused(instruction):
            if inner.op == "dynamic-update-slice" and writes:
                update = results.get(inner.operands[1], "")
                writes -= _size(inner.result, True) - _size(update, True)
        return moved + max(writes, 0.0)

    def _fused(self, fusion: Instruction) -> Iterator[tuple[Instruction, dict]]:
        """Instructions of a fusion and of the fusions in it, with results by name."""
        inside = self.computations[_called(fusion)[0]]
        results = {inner.name: inner.result for inner in inside}
        for inner in inside:
            yield inner, results
            if inner.op == "fusion":
                yield from self._fused(inner)

    def _read(self, computation: str, index: int) -> float:
        """Bytes a fusion reads of a parameter; of one that it slices, the slices."""
        inside = self.computations[computation]
        parameters = [i for i in inside if i.op == "parameter"]
        names = {i.name for i in parameters if int(i.attributes[:-1]) == index}
        total = 0.0
        for user in inside:
            place = next((n for n, o in enumerate(user.operands) if o in names), None)
            if place is None:
                continue
            if user.op == "bitcast":
                names.add(user.name)
            elif user.op in ("dynamic-slice", "slice"):
                total += _size(user.result, True)
            elif user.op == "fusion":
                total += self._read(_called(user)[0], place)
            elif user.op != "dynamic-update-slice" or place != 0:
                return math.inf
        return total


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    result, rest = _split_shape(rest)
    op, _, inside = rest.partition("(")
    arguments, attributes = _split_arguments(inside)
    operands = tuple(_OPERAND.findall(arguments))
    # A parameter's number and a constant's value stand where operands do.
    kept = arguments + ")" if op.strip() in ("parameter", "constant") else attributes
    return Instruction(name, op.strip(), result, operands, kept, root)


def _split_shape(text: str) -> tuple[str, str]:
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    end = _closing(text, 0)
    return text[: end + 1], text[end + 1 :].lstrip()


def _split_arguments(text: str) -> tuple[str, str]:
    end = _closing("(" + text, 0) - 1
    return text[:end], text[end + 1 :]


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text) - 1


def _called(instruction: Instruction) -> list[str]:
    branches = _BRANCHES.search(instruction.attributes)
    names = _OPERAND.findall(branches[1]) if branches else []
    return names + _CALLED.findall(instruction.attributes)


@functools.lru_cache(1 << 16)
def _size(shape: str, anywhere: bool = False) -> float:
    """Bytes of an array or tuple; what lies on the chip, S(1), counts only if asked."""
    return sum(_sizes(shape, anywhere))


def _sizes(shape: str, anywhere: bool) -> Iterator[float]:
    for dtype, dims, layout in _SHAPE.findall(shape):
        if anywhere or "S(" not in layout:
            yield _BYTES.get(dtype, 4) * math.prod(
                map(int, filter(None, dims.split(",")))
            )


def _count_collective(instruction, table, times, slice_size, total: Traffic) -> None:
    op = instruction.op.removesuffix("-start")
    if op in COLLECTIVES:
        sent, far = _sent(instruction, op, table, slice_size)
        total.collectives[op] += sent * times
        total.counts[op] += times
        total.far += sent * times if far else 0


def _sent(instruction: Instruction, op: str, table, slice_size) -> tuple[float, bool]:
    """Bytes that a device sends, with ring algorithms, and whether far away."""
    operands = [table[o].result for o in instruction.operands if o in table]
    size = sum(_size(shape, True) for shape in operands)
    if op == "collective-permute":
        pairs = re.search(
            r"source_target_pairs=\{(.*?)\}\}?,? ", instruction.attributes
        )
        members = [int(n) for n in re.findall(r"\d+", pairs[1])] if pairs else []
        far = slice_size is not None and any(
            a // slice_size != b // slice_size
            for a, b in zip(members[::2], members[1::2], strict=False)
        )
        return size, far
    group = _first_group(instruction.attributes)
    others = len(group) - 1
    far = slice_size is not None and len({m // slice_size for m in group}) > 1
    if op == "all-gather":
        return size * others, far
    factor = {"all-reduce": 2.0}.get(op, 1.0)
    return size * factor * others / max(len(group), 1), far


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
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes[1])}
        used = set(re.findall(r"'(\w+)'", axes[3]))
        order = [i for i, name in enumerate(sizes) if name not in used]
        order += [i for i, name in enumerate(sizes) if name in used]
        size = math.prod(sizes[name] for name in used if name in sizes)
        return _grid(list(sizes.values()), order).reshape(-1, size)[0].tolist()
    return [0]


def _grid(shape: list[int], order: list[int]) -> np.ndarray:
    grid = np.arange(math.prod(shape)).reshape(shape)
    return grid.transpose(order) if order else grid


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
