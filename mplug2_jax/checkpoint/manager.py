"""Resumable training states: model, optimizer, teacher and the data's position."""

from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp


class StateManager:
    """Keeps the last states of a run under `directory`, written in the background."""

    def __init__(self, directory: Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """Step of the newest whole state; None in a fresh directory."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, batches: grain.DatasetIterator) -> None:
        """Saves unless this step is there already; returns before it is written."""
        if step == self.latest:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=grain.checkpoint.CheckpointSave(batches),
            ),
        )

    def restore(self, state: Any, batches: grain.DatasetIterator) -> Any:
        """The newest state, laid out like `state`; moves `batches` to its position."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        restored = self._manager.restore(
            self.latest,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),
                data=grain.checkpoint.CheckpointRestore(batches),
            ),
        )
        return restored["state"]

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()
