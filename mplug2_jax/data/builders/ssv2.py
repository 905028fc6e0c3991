"""Something-Something V2: 174 sentences about what hands do with things.

The class is the sentence with "something" in place of the things.
"""

from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import text_of, usable
from mplug2_jax.data.builders.reading import (
    MediaFolders,
    find,
    read_json,
    read_lines,
)
from mplug2_jax.data.examples import Example, Label

FOLDERS = ("20bn-something-something-v2", "videos", ".")
# Train and validation: github.com/OpenGVLab/VideoMAEv2, docs/DATASET.md.
COUNTS = {
    "train": Counts(168913, labels=168913),
    "validation": Counts(24777, labels=24777),
}
REPORTED = {"test": Counts(27157)}  # of 220847 videos in all


def _splits(manual: Path) -> dict[str, list[Example]]:
    media = MediaFolders(manual, *FOLDERS, suffixes=(".webm", ".mp4"))
    labels = _labels(manual, "labels.json")
    classes = set(usable(labels, read_json(labels), str))

    def clip(id_: str, name: str) -> Example:
        if name not in classes:
            raise ValueError(f"the class {name!r} is not one of labels.json")
        return Example(id_, media(id_), labels=(Label(name),))

    def annotated(record: Any) -> Example:
        """Putting [something] on [something] as the class is called."""
        name = text_of(record, "template").replace("[", "").replace("]", "")
        return clip(text_of(record, "id"), name)

    def answered(line: str) -> Example | None:
        id_, semicolon, name = line.partition(";")
        if line.strip() and not semicolon:
            raise ValueError(f"expected ID;CLASS, found {line[:60]!r}")
        return clip(id_, name) if line.strip() else None

    splits = {}
    for split in ("train", "validation"):
        file = _labels(manual, f"{split}.json")
        splits[split] = list(usable(file, read_json(file), annotated))
    try:
        file = _labels(manual, "test-answers.csv")
    except FileNotFoundError:
        return splits
    splits["test"] = list(usable(file, read_lines(file), answered, "line"))
    return splits


def _labels(manual: Path, name: str) -> Path:
    return find(manual, f"labels/{name}", name)


FILES = (
    "labels/train.json, labels/validation.json, labels/labels.json (and "
    "labels/test-answers.csv), 20bn-something-something-v2/"
)
DATASETS = (Dataset("ssv2", "video", _splits, FILES, COUNTS, REPORTED),)
