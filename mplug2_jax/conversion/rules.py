"""What a rule of the conversion table is, and how a table meets the keys of a file.

A rule ties a key of the PyTorch model to a leaf of ours. `{axis}` in a key stands for
the number of a layer; an axis that the target lacks fills the rows of a stacked leaf.
`match` holds keys and leaves against the table: every key and every leaf is used
exactly once, named as dead, or reported.
"""

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from mplug2_jax.conversion import transforms

Shape = tuple[int, ...]


class Rule(NamedTuple):
    """One line of the table; both directions read it.

    Attributes:
      source: the PyTorch key, layers as `{axis}`.
      target: the path of our leaf, layers likewise or stacked.
      view: shows the leaf in the source's layout, see `transforms`.
      part: which third of the source's rows this is, for packed projections.
      tied: another key under which PyTorch lists the same tensor.
      resized: whether the source may belong to another image size.
    """

    source: str
    target: str
    view: transforms.View
    part: int | None = None
    tied: str | None = None
    resized: bool = False


class Dead(NamedTuple):
    """Keys that no forward pass reads, and why."""

    pattern: str
    reason: str


class Slot(NamedTuple):
    """A rule with its layer filled in."""

    source: str
    target: str
    row: int | None
    rule: Rule

    def view(self, leaf: Any) -> Any:
        """The part of `leaf` that this source tensor fills, in the source's layout."""
        return self.rule.view(leaf if self.row is None else leaf[self.row])

    def take(self, tensor: Any) -> Any:
        """The part of the source tensor that goes here."""
        part = self.rule.part
        return tensor if part is None else transforms.third(part, tensor)

    @property
    def tied(self) -> str | None:
        return self.rule.tied

    def source_shape(self, leaf: jax.ShapeDtypeStruct) -> Shape:
        """The shape of the source tensor that the abstract `leaf` asks for."""
        row = leaf if self.row is None else _row_of(leaf)
        shape = tuple(jax.eval_shape(self.rule.view, row).shape)
        return shape if self.rule.part is None else (3 * shape[0], *shape[1:])


def _row_of(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def expand(rules: Sequence[Rule], axes: Mapping[str, range]) -> list[Slot]:
    """Writes out every rule for the layers that `axes` lists."""
    slots = []
    for rule in rules:
        names = re.findall(r"\{(\w+)\}", rule.source)
        if not names:
            slots.append(Slot(rule.source, rule.target, None, rule))
            continue
        (axis,) = names
        stacked = f"{{{axis}}}" not in rule.target
        for row, layer in enumerate(axes[axis]):
            slots.append(
                Slot(
                    rule.source.format(**{axis: layer}),
                    rule.target.format(**{axis: row}),
                    row if stacked else None,
                    rule,
                )
            )
    return slots


@dataclasses.dataclass
class Match:
    """The outcome of holding a file's keys against the table.

    Attributes:
      slots: for each leaf's path, the sources that fill it.
      dead: key -> reason; `tied`: key -> the key it repeats.
      missing: keys the model needs and the file lacks.
      unexpected: keys of the file that nothing explains.
      wrong_shape: key -> (found, expected).
    """

    slots: dict[str, list[Slot]]
    dead: dict[str, str] = dataclasses.field(default_factory=dict)
    tied: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    wrong_shape: dict[str, tuple[Shape, Shape]] = dataclasses.field(
        default_factory=dict
    )

    @functools.cached_property
    def matched(self) -> list[str]:
        """The keys that end up in the model."""
        lost = {*self.missing, *self.wrong_shape}
        used = {slot.source: None for group in self.slots.values() for slot in group}
        return [key for key in used if key not in lost]


def match(
    shapes: Mapping[str, Shape],
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    slots: Sequence[Slot],
    dead: Sequence[Dead],
) -> Match:
    """Holds the keys of a file against the model's leaves.

    Args:
      shapes: shape of every tensor in the file.
      leaves: our abstract leaves by path.
      slots: the written-out table.
      dead: patterns of weights that nothing reads, tried in order.

    Raises:
      AssertionError: the table does not cover the model, a defect of the table.
    """
    groups: dict[str, list[Slot]] = defaultdict(list)
    built = {path.split("/")[0] for path in leaves}
    unused: dict[str, str] = {}
    for slot in slots:
        if slot.target in leaves:
            groups[slot.target].append(slot)
        else:
            for key in filter(None, (slot.source, slot.tied)):
                unused[key] = _why_unused(slot.target, built)
    if uncovered := sorted(set(leaves) - set(groups)):
        raise AssertionError(f"no rule fills {uncovered}")
    result = Match(dict(groups))
    explained = _place(result, shapes, leaves)
    for key in shapes:
        if key in explained:
            continue
        reason = _why_dead(key, dead) or unused.get(key)
        if reason:
            result.dead[key] = reason
        else:
            result.unexpected.append(key)
    return result


def _place(result, shapes, leaves) -> set[str]:
    """Fills `missing`, `wrong_shape` and `tied`; returns the keys in use."""
    explained: set[str] = set()
    for path, group in result.slots.items():
        for slot in group:
            tied = slot.tied
            if tied in shapes:
                result.tied[tied] = slot.source
                explained.add(tied)
            found = shapes.get(slot.source, shapes.get(tied) if tied else None)
            if found is None:
                if slot.source not in result.missing:
                    result.missing.append(slot.source)
                continue
            explained.add(slot.source)
            expected = slot.source_shape(leaves[path])
            if not _fits(tuple(found), expected, slot.rule.resized):
                result.wrong_shape[slot.source] = (tuple(found), expected)
    return explained


def _fits(found: Shape, expected: Shape, resized: bool) -> bool:
    """Equal, or for resizable tables equal but for the number of rows."""
    return found[1:] == expected[1:] if resized else found == expected


def _why_unused(target: str, built: set[str]) -> str:
    """Why the model at hand lacks a leaf that the table knows."""
    module = target.split("/")[0]
    if module not in built:
        return f"belongs to {module}, which was not asked for"
    if "/cross_attention" in target:
        return "cross-attention of a layer that never uses it"
    if "/local_temporal" in target:
        return "belongs to local_temporal, which was not asked for"
    return f"no counterpart in the {module} asked for"


def _why_dead(key: str, dead: Sequence[Dead]) -> str | None:
    return next((d.reason for d in dead if re.fullmatch(d.pattern, key)), None)
