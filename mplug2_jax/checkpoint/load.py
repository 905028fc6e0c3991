"""The checkpoint folder: what a model is, and its parameters.

    DIR/config.json   the model's configuration, its modules, the decoding rule
    DIR/params/       Orbax: {"params": ...} and, where there is one, {"teacher": ...}
    DIR/tokenizer/    written by the tokenizer, optional

Further files (a conversion's report, dead weights) may lie beside them. A resumable
training state (`checkpoint/manager.py`) is read like a checkpoint folder, with the
moving average for parameters where there is one.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp

from mplug2_jax.checkpoint.lazy import (
    LazyArray,
    Tree,
    alone,
    flatten,
    save_tree,
    unflatten,
)
from mplug2_jax.checkpoint.staging import CONFIG, staged
from mplug2_jax.exits import LostError, may_pass
from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.models.mplug2 import ALL_MODULES, abstract_params

FORMAT_VERSION = 1
GROUP_BYTES = 16 * 2**20
PARAMS, TOKENIZER = "params", "tokenizer"
STATE, ABOUT = "state", "about/metadata"  # of a training state


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What config.json says.

    Attributes:
      config: the model.
      modules: those whose parameters are stored.
      decoding_rule: beam search's default; "upstream" for converted weights.
      source: where the weights came from; empty for models trained here.
      inputs: fields of `data.inputs.InputConfig` that differ from its defaults.
      task: what was trained, a key of `tasks.TASKS`; empty where nobody knows.
      decoding: fields of `decoding.settings.Decoding`, as in the run's validation.
      rerank: how many of each query's best retrieval orders by matching, as there.
      temperatures: least and greatest at which features were compared; the learned
        parameter may lie outside.
    """

    config: MPlug2Config
    modules: tuple[str, ...]
    decoding_rule: Literal["upstream", "standard"] = "standard"
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task: str = ""
    decoding: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rerank: int = 16
    temperatures: tuple[float, float] = (0.001, 0.5)

    def to_json(self) -> str:
        values = {
            "format_version": FORMAT_VERSION,
            "model": self.config.to_dict(),
            "modules": list(self.modules),
            "decoding_rule": self.decoding_rule,
            "source": dict(self.source),
            "inputs": dict(self.inputs),
            "task": self.task,
            "decoding": dict(self.decoding),
            "rerank": self.rerank,
            "temperatures": list(self.temperatures),
        }
        return json.dumps(values, indent=1)


class Saveable(Protocol):
    """A tokenizer, as far as checkpoints care."""

    vocab_size: int

    def save(self, directory: str | os.PathLike) -> None: ...


def save_checkpoint(
    directory: str | Path,
    params: Tree,
    metadata: Metadata,
    *,
    teacher: Tree | None = None,
    tokenizer: Saveable | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint folder, whole or not at all.

    Raises:
      ValueError: `directory` exists and `overwrite` is False.
      OSError: writing failed.
    """
    with staged(directory, overwrite=overwrite) as folder:
        write_checkpoint(folder, params, metadata, teacher, tokenizer)


def write_checkpoint(
    folder: Path,
    params: Tree,
    metadata: Metadata,
    teacher: Tree | None = None,
    tokenizer: Saveable | None = None,
) -> None:
    """Writes the files of a checkpoint into a folder that a caller has staged."""
    folder.mkdir(parents=True)
    tree = {"params": params} | ({"teacher": teacher} if teacher is not None else {})
    save_tree(str((folder / PARAMS).absolute()), tree)
    (folder / CONFIG).write_text(metadata.to_json())
    if tokenizer is not None:
        tokenizer.save(folder / TOKENIZER)


def read_metadata(directory: str | Path) -> Metadata:
    """Reads config.json.

    Raises:
      ValueError: `directory` is no checkpoint, or one of a later version.
    """
    directory = Path(directory)
    if directory.is_file():
        raise ValueError(
            f"{directory} is a file, a checkpoint is a folder; convert it first with "
            f"`mplug2 convert --from {directory} --to FOLDER`."
        )
    if not directory.is_dir():
        raise ValueError(f"There is no checkpoint at {directory}; check the path.")
    path = directory / (ABOUT if is_state(directory) else CONFIG)
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        found = ", ".join(sorted(p.name for p in directory.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"{directory} is not a checkpoint: it holds {found}; expected {CONFIG} "
            f"and {PARAMS}."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from None
    return _metadata(path, values.get("checkpoint", values))


def is_state(directory: Path) -> bool:
    """Whether this is a training state, WORKDIR/checkpoints/STEP."""
    return (directory / ABOUT).is_file()


def _metadata(path: Path, values: Mapping[str, Any]) -> Metadata:
    needed = {"format_version", "model", "modules", "decoding_rule"}
    if missing := needed - set(values):
        raise ValueError(f"{path} lacks {sorted(missing)}; it is not a checkpoint's.")
    if values["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} is of format version {values['format_version']}, this program "
            f"reads up to {FORMAT_VERSION}; update it."
        )
    return Metadata(
        MPlug2Config.from_dict(values["model"]),
        tuple(values["modules"]),
        values["decoding_rule"],
        values.get("source", {}),
        values.get("inputs", {}),
        values.get("task", ""),
        values.get("decoding", {}),
        values.get("rerank", Metadata.rerank),
        tuple(values.get("temperatures", Metadata.temperatures)),
    )


def load_checkpoint(
    directory: str | Path,
    modules: Iterable[str] | None = None,
    *,
    tree: Literal["params", "teacher"] = "params",
    shardings: Any = None,
    on_host: bool = False,
) -> tuple[Tree, Metadata]:
    """Restores the parameters of `modules` (default: all stored) as JAX arrays.

    Args:
      tree: the parameters themselves or their momentum copy.
      shardings: one sharding, or a tree of them shaped like the parameters; by
        default everything lies on this process's first device.
      on_host: as numpy arrays instead, on no device.

    Raises:
      ValueError: no checkpoint, a module it does not have, or damaged parameters.
    """
    directory, metadata = Path(directory), read_metadata(directory)
    chosen = metadata.modules if modules is None else tuple(modules)
    if missing := [name for name in chosen if name not in metadata.modules]:
        raise ValueError(
            f"{directory} has no {', '.join(missing)}; it has "
            f"{', '.join(metadata.modules)}: use a checkpoint with these modules."
        )
    abstract = abstract_params(metadata.config, _in_order(chosen))
    stored = _stored(directory)
    name = _stored_name(stored, tree)
    _check_shapes(directory, stored, name, abstract)
    if shardings is None:
        shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, abstract)
    target = {
        name: jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=where
            ),
            abstract,
            shardings,
        )
    }
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    if on_host:
        restore_args = _as_numpy(target)
    restored = _restore(directory, target, restore_args)[name]
    return restored, dataclasses.replace(metadata, modules=_in_order(chosen))


def has_teacher(directory: str | Path) -> bool:
    """Whether the checkpoint holds a momentum copy beside the parameters."""
    return _stored(Path(directory)).get("teacher") is not None


def lazy_checkpoint(directory: str | Path) -> tuple[Tree, Tree | None, Metadata]:
    """The stored trees with leaves that are read one by one, as numpy arrays.

    Returns (params, teacher or None, metadata).
    """
    directory, metadata = Path(directory), read_metadata(directory)
    abstract = abstract_params(metadata.config, metadata.modules)
    stored = _stored(directory)

    def tree(wanted):
        name = _stored_name(stored, wanted)
        _check_shapes(directory, stored, name, abstract)
        return unflatten(dict(_lazy_leaves(directory, name, abstract)))

    teacher = None if stored.get("teacher") is None else tree("teacher")
    return tree("params"), teacher, metadata


def _stored_name(stored: Tree, tree: str) -> str:
    """Of a training state the parameters are their moving average, as in `final/`."""
    return "ema" if tree == "params" and stored.get("ema") is not None else tree


def _in_order(modules: Iterable[str]) -> tuple[str, ...]:
    chosen = set(modules)
    return tuple(name for name in ALL_MODULES if name in chosen)


def _lazy_leaves(directory, name, abstract) -> Iterator[tuple[str, LazyArray]]:
    group = _Group(directory, name)
    for path, leaf in flatten(abstract).items():
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if group.size and group.size + size > GROUP_BYTES:
            group = _Group(directory, name)
        group.add(path, size)
        read = functools.partial(group.read, path)
        yield path, LazyArray(leaf.shape, np.dtype(leaf.dtype), read)


class _Group:
    """Leaves that are restored together, because each restore has a cost."""

    def __init__(self, directory: Path, name: str):
        self.directory, self.name, self.size = directory, name, 0
        self.paths: list[str] = []
        self.restored: dict[str, np.ndarray] = {}

    def add(self, path: str, size: int) -> None:
        self.paths.append(path)
        self.size += size

    def read(self, path: str) -> np.ndarray:
        """The leaf, which is then forgotten."""
        if path not in self.restored:
            target = {self.name: unflatten(dict.fromkeys(self.paths, 0))}
            restored = _restore(self.directory, target, _as_numpy(target))
            self.restored = flatten(restored[self.name])
        return self.restored.pop(path)


def _as_numpy(target: Tree) -> Any:
    """Arguments that restore all leaves as numpy arrays."""
    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)


def _restore(directory: Path, target: Tree, restore_args: Any) -> Tree:
    arguments = ocp.args.PyTreeRestore(
        target, restore_args=restore_args, partial_restore=True
    )
    with named_damage(_trees(directory)), _reader() as checkpointer:
        return checkpointer.restore(_trees(directory), arguments)


def _stored(directory: Path) -> Tree:
    """Shapes of all stored trees: {"params": ..., maybe "teacher": ...}."""
    with named_damage(_trees(directory)), _reader() as checkpointer:
        return checkpointer.metadata(_trees(directory)).item_metadata.tree


def _reader() -> ocp.Checkpointer:
    """Of this process alone, which does not wait until others read the same."""
    options = alone()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _trees(directory: Path) -> Path:
    """Where Orbax has put the trees."""
    return (directory / (STATE if is_state(directory) else PARAMS)).absolute()


@contextlib.contextmanager
def named_damage(
    place: Path, advice: str = "write the checkpoint again"
) -> Iterator[None]:
    """Says in one sentence that what is read here, at `place`, cannot be.

    Raises:
      LostError: the file system does not answer.
      ValueError: reading failed otherwise, unless devices or other processes did.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        raise
    except Exception as error:
        reason = re.split(r"\n|\. See full| \[tensorstore_spec", str(error))[0][:200]
        if may_pass(error):
            raise LostError(
                f"{place} could not be read ({reason}); try again."
            ) from error
        raise ValueError(
            f"{place} is damaged or incomplete ({reason}); {advice}."
        ) from error


def _check_shapes(directory: Path, stored: Tree, name: str, abstract: Tree) -> None:
    """Orbax would cut or pad arrays of another shape without a word."""
    if name not in stored:
        raise ValueError(
            f"{directory} holds no {name}, only {', '.join(stored)}; load one of them."
        )
    found = {k: tuple(v.shape) for k, v in flatten(stored[name]).items()}
    for path, leaf in flatten(abstract).items():
        if found.get(path) != leaf.shape:
            raise ValueError(
                f"{directory}: {name}/{path} is stored with shape {found.get(path)}, "
                f"{CONFIG} asks for {leaf.shape}; the two files do not belong together."
            )
