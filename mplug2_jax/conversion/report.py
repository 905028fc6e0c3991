"""What a conversion did: printed for people, saved for programs."""

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from mplug2_jax.conversion.rules import Match, Shape

LISTED = 40  # lines per list in the text; the JSON has all names


@dataclasses.dataclass
class Report:
    """The fate of every tensor of a file and of every weight of the model.

    Attributes:
      source: what was read, in words.
      matched: the file's keys that became weights.
      tied: key -> the key of the same weight.
      dead: key -> why nothing reads it.
      missing: keys that the model needs and the file lacks.
      initialised: those of them that were allowed, and drawn afresh.
      unexpected: keys that nothing explains.
      wrong_shape: key -> (found, expected).
      not_finite: keys with NaN or infinity.
      untied: tied keys whose two copies differ.
      notes: further sentences.
    """

    source: str
    matched: list[str] = dataclasses.field(default_factory=list)
    tied: dict[str, str] = dataclasses.field(default_factory=dict)
    dead: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)
    initialised: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    wrong_shape: dict[str, tuple[Shape, Shape]] = dataclasses.field(
        default_factory=dict
    )
    not_finite: list[str] = dataclasses.field(default_factory=list)
    untied: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, match: Match, spell, allowed: re.Pattern[str] | None) -> None:
        """Enters one match; `spell` turns canonical keys into the file's."""
        self.matched += map(spell, match.matched)
        self.tied |= {spell(a): spell(b) for a, b in match.tied.items()}
        self.dead |= {spell(key): why for key, why in match.dead.items()}
        self.unexpected += map(spell, match.unexpected)
        self.wrong_shape |= {spell(k): v for k, v in match.wrong_shape.items()}
        for key in map(spell, match.missing):
            fine = allowed is not None and allowed.search(key)
            (self.initialised if fine else self.missing).append(key)

    def problem(self) -> str | None:
        """One sentence about why the conversion must not be used, or None."""
        faults = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": list(self.wrong_shape),
            "not finite (NaN or infinity)": self.not_finite,
            "tied to a tensor of other values": self.untied,
        }
        found = [f"{len(v)} {k} ({_some(v, 3)})" for k, v in faults.items() if v]
        if not found:
            return None
        return (
            f"{self.source} does not fit the model: {'; '.join(found)}; check --size "
            "or --bert-config, or permit missing weights with --allow-missing REGEX."
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def text(self) -> str:
        """A summary line, then each list, long ones shortened."""
        counts = {
            "matched": self.matched,
            "tied": self.tied,
            "dead": self.dead,
            "initialised": self.initialised,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "wrong shape": self.wrong_shape,
            "not finite": self.not_finite,
            "untied": self.untied,
        }
        summary = ", ".join(f"{len(v)} {k}" for k, v in counts.items())
        lines = [f"{self.source}: {summary}", *self.notes]
        lines += _by_reason("dead", self.dead)
        for name in ("initialised", "missing", "unexpected", "not finite", "untied"):
            lines += _listing(name, counts[name])
        shapes = [f"{k}: {a}, expected {b}" for k, (a, b) in self.wrong_shape.items()]
        return "\n".join(lines + _listing("wrong shape", shapes)) + "\n"


def _some(names: Iterable[str], count: int) -> str:
    names = list(names)
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _listing(title: str, names: Iterable[str]) -> list[str]:
    """The names, those of several layers in one line."""
    groups = defaultdict(list)
    for name in names:
        groups[re.sub(r"\.\d+\.", ".*.", name)].append(name)
    lines = [
        f"  {group[0]}" if len(group) == 1 else f"  {pattern} ({len(group)})"
        for pattern, group in groups.items()
    ]
    if len(lines) > LISTED:
        lines[LISTED:] = [f"  ... and {len(lines) - LISTED} more"]
    return [f"{title} ({sum(map(len, groups.values()))}):", *lines] if lines else []


def _by_reason(title: str, keys: Mapping[str, str]) -> list[str]:
    groups = defaultdict(list)
    for key, reason in keys.items():
        groups[reason].append(key)
    return [
        f"{title}: {len(group)} x {reason} ({_some(group, 1)})"
        for reason, group in groups.items()
    ]
