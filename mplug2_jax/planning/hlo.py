"""Reads a compiled program's text: its computations, and how often each one runs.

XLA's own cost analysis counts the body of a loop once, and our layers are loops. Here
every computation is counted as often as it runs: the trip count stands beside a loop,
or is the constant that its condition compares the counter with (`lax.scan` counts from
0 in steps of 1).
"""

import dataclasses
import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0}

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|condition|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_NUMBER = re.compile(r"^(\d+)\)")
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

    @property
    def called(self) -> list[str]:
        """The computations it runs."""
        branches = _BRANCHES.search(self.attributes)
        names = _OPERAND.findall(branches[1]) if branches else []
        return names + _CALLED.findall(self.attributes)

    @property
    def number(self) -> int | None:
        """Which parameter it is, or the whole number that a constant is."""
        found = _NUMBER.match(self.attributes)
        return int(found[1]) if found else None


class Program:
    """The computations of a module's text (`compiled.as_text()`), by name."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations.setdefault(header[1], {})
                if line.startswith("ENTRY"):
                    self.entry = header[1]
            elif found := _INSTRUCTION.match(line):
                root = "ROOT " in line[:12]
                current[found[1]] = _instruction(found[1], found[2], root)

    def executions(self) -> Mapping[str, float]:
        """How often each computation outside of fusions runs."""
        times: dict[str, float] = defaultdict(float)

        def visit(name: str, count: float) -> None:
            times[name] += count
            for instruction in self.computations[name].values():
                if instruction.op in ("while", "call", "conditional", "async-start"):
                    inner = count * (self.trips(instruction) or 1)
                    for called in instruction.called:
                        visit(called, inner)

        visit(self.entry, 1.0)
        return times

    def trips(self, instruction: Instruction) -> int | None:
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
        for inner in self.computations[computation].values():
            number = inner.number
            if number is not None and inner.op == "constant":
                values[inner.name] = number
            elif number is not None and inner.op == "parameter" and number in outside:
                values[inner.name] = outside[number]
            given = {n: values[o] for n, o in enumerate(inner.operands) if o in values}
            if inner.op == "compare":
                found += given.values()
            elif inner.op in ("fusion", "call"):
                found += self._compared(inner.called[0], given)
        return found


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


def size(shape: str, anywhere: bool = False) -> float:
    """Bytes of an array or tuple; what lies on the chip, S(1), counts only if asked."""
    return sum(sizes(shape, anywhere))


@functools.lru_cache(1 << 16)
def sizes(shape: str, anywhere: bool = False) -> tuple[float, ...]:
    """As `size`, of each array of a tuple."""
    return tuple(_sizes(shape, anywhere))


def _sizes(shape: str, anywhere: bool) -> Iterator[float]:
    for dtype, dims, layout in _SHAPE.findall(shape):
        on_chip = "S(" in layout and not anywhere
        count = math.prod(map(int, filter(None, dims.split(","))))
        yield 0.0 if on_chip else _BYTES.get(dtype, 4) * count
