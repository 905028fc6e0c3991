"""From PyTorch tensors to our parameters, one leaf at a time.

`plan_conversion` decides everything from shapes; the leaves it returns are lazy and
read their sources, which may be views of a mapped file, only when asked.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Shaped

from mplug2_jax.checkpoint.lazy import LazyArray, Tree, flatten, unflatten
from mplug2_jax.conversion import upstream
from mplug2_jax.conversion.names import Names, Spelling, read_names
from mplug2_jax.conversion.posemb import resize_position_embedding
from mplug2_jax.conversion.report import Report
from mplug2_jax.conversion.rules import Match, Slot, expand, match
from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.models.mplug2 import MPlug2, abstract_params, init_params

Initial = Callable[[str], Shaped[np.ndarray, "..."]]


@dataclasses.dataclass
class Conversion:
    """A planned conversion: lazy parameters and what there is to say about them.

    Attributes:
      params: our tree, leaves `LazyArray`; `teacher` likewise, of momentum copies.
      report: complete but for values, which are judged while leaves are read.
      spelling: how the file spells canonical keys.
      fusion_total: layers that the file's fusion encoder lists, dead ones included.
      dtypes: the file's keys that are not float32, with their types.
    """

    params: Tree
    teacher: Tree | None
    report: Report
    spelling: Spelling
    fusion_total: int
    dtypes: dict[str, str]


def plan_conversion(
    tensors: Mapping[str, LazyArray],
    config: MPlug2Config,
    modules: Iterable[str],
    *,
    source: str = "The state dict",
    allow_missing: str | None = None,
    seed: int = 0,
) -> Conversion:
    """Holds `tensors` against the model and prepares every leaf.

    Args:
      tensors: the file's keys, in any spelling `names` knows.
      allow_missing: regular expression; missing keys in which it is found are drawn
        by the model's own initialisation from `seed`.
    """
    modules = tuple(modules)
    names = read_names(tensors)
    allowed = _compiled(allow_missing)
    leaves = flatten(abstract_params(config, modules))
    total = fusion_layers_in(names, config)
    layers = upstream.axes(config, total)
    slots = expand(upstream.rules(config), layers)
    report = Report(source)
    initial = InitialValues(config, modules, seed)

    def side(keys: dict[str, str], teacher: bool) -> Tree:
        shapes = {name: tensors[key].shape for name, key in keys.items()}
        found = match(shapes, leaves, slots, upstream.dead(layers))

        def spell(key):
            return keys.get(key) or names.spelling.spell(key, teacher)

        report.add(found, spell, allowed)
        filler = _Filler(found, {n: tensors[k] for n, k in keys.items()}, initial)
        initial.need(filler.incomplete)
        tree = {
            path: LazyArray(
                leaf.shape,
                np.dtype(leaf.dtype),
                lambda path=path, leaf=leaf: filler.fill(path, leaf, report, spell),
            )
            for path, leaf in leaves.items()
        }
        return unflatten(tree)

    params = side(names.student, False)
    lent = {k: names.student[k] for k in upstream.WITHOUT_COPY if k in names.student}
    teacher = side(lent | names.teacher, True) if names.teacher else None
    report.matched = list(dict.fromkeys(report.matched))
    used = [*report.matched, *report.tied]
    dtypes = {
        key: str(tensors[key].dtype)
        for key in used
        if key in tensors and tensors[key].dtype != np.float32
    }
    return Conversion(params, teacher, report, names.spelling, total, dtypes)


def _compiled(expression: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(expression) if expression else None
    except re.error as error:
        raise ValueError(f"{expression!r} is no regular expression: {error}.") from None


def fusion_layers_in(names: Names, config: MPlug2Config) -> int:
    """How many fusion layers a file lists; the last of them are the ones that run."""
    pattern = re.compile(r"fusion_encoder\.encoder\.layer\.(\d+)\.")
    found = {int(m[1]) + 1 for key in names.student if (m := pattern.match(key))}
    return max(found, default=config.fusion.num_layers)


class _Filler:
    """Reads the sources of one leaf after the other."""

    def __init__(self, found: Match, tensors: Mapping[str, LazyArray], initial):
        self.found, self.tensors, self.initial = found, tensors, initial
        lost = {*found.missing, *found.wrong_shape}
        self.lost = lost
        self.incomplete = {
            path
            for path, slots in found.slots.items()
            if any(slot.source in lost for slot in slots)
        }

    def fill(self, path: str, leaf: jax.ShapeDtypeStruct, report: Report, spell):
        """The values of our leaf at `path`; notes what is not finite or not tied."""
        if path in self.incomplete:
            array = np.array(self.initial(path))
        else:
            array = np.zeros(leaf.shape, leaf.dtype)
        for slot in self.found.slots[path]:
            if slot.source in self.lost:
                continue
            values = self._values(slot, report, spell)
            view = slot.view(array)
            if slot.rule.resized:
                values = resize_position_embedding(values, len(view) - 1)
            key = spell(slot.source)
            if not np.isfinite(values).all() and key not in report.not_finite:
                report.not_finite.append(key)
            view[...] = values
        return array

    def _values(self, slot: Slot, report: Report, spell):
        first = self.tensors.get(slot.source)
        second = self.tensors.get(slot.tied) if slot.tied else None
        if first is None:
            assert second is not None
            return second.read()
        values = first.read()
        if second is not None and not np.array_equal(
            values, second.read(), equal_nan=True
        ):
            report.untied.append(spell(slot.tied))
        return slot.take(values)


class InitialValues:
    """The model's own initial values of the leaves that files leave open."""

    def __init__(self, config: MPlug2Config, modules: tuple[str, ...], seed: int):
        self.model, self.seed = MPlug2(config, modules), seed
        self.paths: set[str] = set()
        self.values: dict[str, np.ndarray] = {}

    def need(self, paths: set[str]) -> None:
        self.paths |= paths

    def __call__(self, path: str) -> Shaped[np.ndarray, "..."]:
        if not self.values:
            # Compiled for these leaves alone: the rest is never drawn.
            self.values = jax.device_get(jax.jit(self._draw)(self.seed))
        return self.values[path]

    def _draw(self, seed):
        params = nn.meta.unbox(init_params(self.model, jax.random.key(seed)))
        flat = flatten(params)
        return {path: flat[path] for path in sorted(self.paths)}
