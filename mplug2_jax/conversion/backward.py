"""From our parameters to PyTorch tensors, by the same table."""

from collections import defaultdict
from collections.abc import Mapping

import jax
import numpy as np

from mplug2_jax.checkpoint.lazy import LazyArray, Tree, flatten
from mplug2_jax.conversion import upstream
from mplug2_jax.conversion.names import Spelling
from mplug2_jax.conversion.rules import Slot, expand
from mplug2_jax.models.config import MPlug2Config


def plan_export(
    params: Tree,
    config: MPlug2Config,
    *,
    fusion_total: int | None = None,
    spelling: Spelling | None = None,
    dtypes: Mapping[str, str] | None = None,
    teacher: bool = False,
) -> dict[str, LazyArray]:
    """The PyTorch tensors of `params`, read when asked; tied keys share one object.

    Args:
      params: any part of our tree, leaves arrays or `LazyArray`.
      fusion_total: layers to count the fusion layers in, the last of which ours are;
        by default as many as the text encoder has, as in upstream.
      spelling: how the file to write spells canonical keys.
      dtypes: keys whose type is not float32.
      teacher: whether the keys are those of momentum copies.

    Raises:
      ValueError: `params` has something that such files have no place for.
    """
    spelling, dtypes = spelling or Spelling(), dtypes or {}
    leaves = _Leaves(params)
    layers = upstream.axes(config, fusion_total or config.text.num_layers)
    sources: dict[str, list[Slot]] = defaultdict(list)
    slots = list(expand(upstream.rules(config), layers))
    if lost := sorted(leaves.flat.keys() - {slot.target for slot in slots}):
        raise ValueError(
            f"PyTorch files of mPLUG-2 have no place for {', '.join(lost)}, of a head "
            "that exists only here; keep this checkpoint as it is."
        )
    for slot in slots:
        copied = slot.source not in upstream.WITHOUT_COPY or not teacher
        if slot.target in leaves.flat and copied:
            sources[slot.source].append(slot)
    tensors = {}
    for key, slots in sources.items():
        name = spelling.spell(key, teacher)
        tensors[name] = leaves.tensor(slots, dtypes.get(name))
        if tied := slots[0].tied:
            tensors[spelling.spell(tied, teacher)] = tensors[name]
    return tensors


def export_state_dict(
    params: Tree, config: MPlug2Config, *, fusion_total: int | None = None
) -> dict[str, np.ndarray]:
    """Upstream's state dict of `params`, or of gradients shaped like them.

    Holds the live tensors of the modules that `params` has. Arguments as in
    `plan_export`.
    """
    plan = plan_export(params, config, fusion_total=fusion_total)
    return {key: tensor.read() for key, tensor in plan.items()}


class _Leaves:
    """Our leaves by path; those of the latest tensor stay at hand for the next one."""

    def __init__(self, params: Tree):
        self.flat = {
            path: leaf if isinstance(leaf, LazyArray) else LazyArray.of(leaf)
            for path, leaf in flatten(params).items()
        }
        self.kept: dict[str, np.ndarray] = {}

    def tensor(self, slots: list[Slot], dtype: str | None) -> LazyArray:
        """The source tensor that `slots`, one or three of them, came from."""
        leaf = self.flat[slots[0].target]
        shape = slots[0].source_shape(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        kind = np.dtype(dtype or leaf.dtype)

        def read():
            self._keep([slot.target for slot in slots])
            parts = [slot.view(self.kept[slot.target]) for slot in slots]
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
            return np.asarray(whole, kind, order="C")

        return LazyArray(shape, kind, read)

    def _keep(self, paths: list[str]) -> None:
        """Reads these leaves, the layers of a stack being asked for in a row."""
        for path in set(self.kept) - set(paths):
            del self.kept[path]
        for path in paths:
            if path not in self.kept:
                self.kept[path] = self.flat[path].read()
