"""Resumable states of a run: everything that training step k + 1 depends on.

    DIRECTORY/STEP/state   Orbax: step, params, optimizer, teacher, queue, EMA
    DIRECTORY/STEP/about   JSON: what was trained, with which versions, and `Progress`

Orbax writes beside the final name and renames, so a state is there whole or not at
all, and restores onto any mesh.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mplug2_jax import __version__
from mplug2_jax.checkpoint.load import FORMAT_VERSION, named_damage
from mplug2_jax.checkpoint.staging import reason
from mplug2_jax.exits import LostError

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
SCORE = "score"
GO_ON = "remove it, and the run goes on from the state before it, or begins anew"


@dataclasses.dataclass
class Progress:
    """Where a run is, beside its arrays.

    Attributes:
      position: the data iterator's state; the same on every process.
      seen: examples so far, by kind.
      unevaluated: whether a signal came before this step's evaluation was done.
    """

    position: Any = None
    seen: dict[str, int] = dataclasses.field(default_factory=dict)
    unevaluated: bool = False


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that results depend on."""
    return {"mplug2_jax": __version__} | {name: version(name) for name in LIBRARIES}


class StateManager:
    """Keeps the last states of a run, and the best, written in the background."""

    def __init__(
        self, directory: Path, keep: int, about: Mapping[str, Any] | None = None
    ):
        """`about` (JSON) is stored with every state, for whoever reads it later."""
        self.about = {"layout": FORMAT_VERSION, "versions": versions(), **(about or {})}
        kept = [
            policies.LatestN(n=keep),
            policies.BestN(get_metric_fn=_score, n=1),
        ]
        options = ocp.CheckpointManagerOptions(
            create=True,
            best_fn=_score,  # else Orbax does not store the metrics
            cleanup_tmp_directories=True,  # of a run killed while it saved
            preservation_policy=policies.AnyPreservationPolicy(kept),
            async_options=ocp.AsyncOptions(timeout_secs=3600),
        )
        items = {
            "state": ocp.StandardCheckpointHandler(),
            "about": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(
            directory.absolute(), item_handlers=items, options=options
        )

    @property
    def latest(self) -> int | None:
        """Step of the newest whole state; None in a fresh directory."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: Any, progress: Progress, score: float | None = None
    ) -> None:
        """Saves unless this step is there already; returns before it is written.

        Args:
          score: of this step's evaluation; the state with the highest is kept too.

        Raises:
          LostError: this state, or the one before, cannot be written.
        """
        if step == self.latest:
            return
        about = self.about | {"progress": dataclasses.asdict(progress)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
        )
        # Without a score a state is no better than any; of equals the last stays.
        metrics = {SCORE: -math.inf if score is None else score}
        with self._writing():
            self._manager.save(step, args=args, metrics=metrics, force=True)

    def restore(self, abstract: Any) -> tuple[Any, Progress]:
        """The newest state, laid out like `abstract` (shapes, types, shardings).

        Raises:
          LostError: it cannot be read.
          ValueError: it is damaged, of another layout, or its arrays have other shapes.
        """
        step = self.latest
        place = Path(self._manager.directory / str(step))
        with named_damage(place, GO_ON):
            about = self._restore(step, about=ocp.args.JsonRestore())["about"]
            layout = about["layout"]
        if layout > FORMAT_VERSION:
            raise ValueError(
                f"{place} has parameter layout {layout}, this program reads up to "
                f"{FORMAT_VERSION}; update it."
            )
        with named_damage(place, GO_ON):
            progress = Progress(**about["progress"])
            stored = self._manager.item_metadata(step)["state"]  # type: ignore[arg-type]
            if stored is None:
                raise FileNotFoundError("the shapes of its arrays are missing")
        _check_shapes(place, _shapes(stored.tree), _shapes(abstract))
        target = jax.tree.map(_placed, abstract)
        with named_damage(place, GO_ON):
            state = self._restore(step, state=ocp.args.StandardRestore(target))["state"]
        return state, progress

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          LostError: it cannot be.
        """
        with self._writing():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:  # TensorStore's are ValueErrors
            raise LostError(
                f"A state could not be written to {self._manager.directory} "
                f"({reason(error)}); make room or mend that, start again, and the "
                "run goes on from the last whole one."
            ) from error

    def _restore(self, step: int | None, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """With a sharding, for else Orbax asks for the devices it was saved from."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    where = getattr(leaf, "sharding", None) or here
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _score(metrics: Mapping[str, float]) -> float:
    return metrics[SCORE]


def _check_shapes(place: Path, found: Mapping, wanted: Mapping) -> None:
    """Orbax would cut or pad arrays of another shape without a word."""
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise ValueError(
                f"{place}: {path} is stored with shape {found.get(path)}, this run has "
                f"{wanted.get(path)}; choose another --workdir, or the configuration "
                "it was made with."
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_path(path): tuple(leaf.shape) for path, leaf in leaves}


def _path(path: Any) -> str:
    """Attribute, key or index names: a state's class is a plain tree when stored."""
    names = (getattr(k, "name", getattr(k, "key", getattr(k, "idx", k))) for k in path)
    return "/".join(str(name) for name in names)
