"""What a workdir belongs to: the configuration and vocabulary its run began with."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mplug2_jax.checkpoint.load import TOKENIZER
from mplug2_jax.data.tokenizers import Tokenizer, load_tokenizer
from mplug2_jax.training.config import RunConfig

RUN = "run.json"
# What may change between two runs of a workdir: no step's result depends on it, beyond
# rounding, and what dropout draws, for mesh and accumulation. `vocab` is a place; the
# vocabulary found there is compared.
MAY_CHANGE = (
    *("accumulation", "mesh", "devices", "vocab"),
    *("log_every", "eval_every", "save_every", "eval_examples", "keep", "decoding"),
    *("profile", "compilation_cache", "max_skipped"),
)
MAY_CHANGE_IN_DATA = ("threads", "processes", "timeout", "keep_clips", "max_bad_share")


def check_workdir(workdir: Path) -> None:
    """Makes the folder and tries to write in it.

    Raises:
      OSError: it cannot be written.
    """
    probe = workdir / f".{jax.process_index()}.{os.getpid()}.probe"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"The workdir {workdir} cannot be written ({error.strerror}); choose "
            "another --workdir."
        ) from error


def claim_workdir(
    workdir: Path, config: RunConfig, tokenizer: Tokenizer, resumed: bool
) -> None:
    """Records configuration and vocabulary; a resumed run's are compared first.

    Raises:
      ValueError: the workdir began with others, of which the first difference is named;
        or it holds the end of a run that cannot go on, and launchers would take it for
        this one's.
    """
    if not resumed and (workdir / "final").exists():
        raise ValueError(
            f"{workdir} holds final/, the end of a run, and no state to go on from; "
            "choose another --workdir, or remove final/ to train anew."
        )
    path, values = workdir / RUN, dataclasses.asdict(config)
    if resumed and path.exists():
        _compare(workdir, json.loads(path.read_text()), json.loads(json.dumps(values)))
        _compare_vocabularies(workdir, tokenizer)
    if jax.process_index() == 0:
        tokenizer.save(workdir / TOKENIZER)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(values, indent=1))
        os.replace(partial, path)


def _compare(workdir: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Keys that an older version did not have are new options at their defaults."""
    old, new = _flat(before), _flat(now)
    for key in sorted(old.keys() | new.keys()):
        if _may_change(key) or old.get(key) == new.get(key):
            continue
        if key not in old and key.partition(".")[0] not in before:
            continue
        if key == "best_by" and not (workdir / "best").exists():
            continue  # nothing was chosen by it
        raise ValueError(
            f"{workdir} holds a run with config.{key}={old.get(key)!r}, now it is "
            f"{new.get(key)!r}; set it back, or choose another --workdir."
        )


def _may_change(key: str) -> bool:
    names = key.split(".")
    if names[0] in MAY_CHANGE:
        return True
    return "batch" in names and names[-1] in MAY_CHANGE_IN_DATA


def _compare_vocabularies(workdir: Path, tokenizer: Tokenizer) -> None:
    stored = load_tokenizer(workdir / TOKENIZER)
    sizes = stored.vocab_size, tokenizer.vocab_size
    if sizes[0] != sizes[1]:
        found = f"{sizes[0]} entries, now it has {sizes[1]}"
    else:
        texts = (
            (i, stored.decode([i]), tokenizer.decode([i])) for i in range(sizes[0])
        )
        changed = next((entry for entry in texts if entry[1] != entry[2]), None)
        if changed is None:
            return
        found = "entry {} {!r}, now it is {!r}".format(*changed)
    raise ValueError(
        f"{workdir} holds a run whose vocabulary has {found}; give the vocabulary it "
        "began with (--config.vocab=PATH), or choose another --workdir."
    )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by path; parts of a mixture by their names."""
    if isinstance(values, list) and values and isinstance(values[0], Mapping):
        values = {part["name"]: part for part in values}
    if not isinstance(values, Mapping) or not values:
        return {prefix.removesuffix("."): values}
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat
