"""Something-Something V2: 174 sentences about what hands do with things.

The class is the sentence with "something" in place of the things.
"""

from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.reading import MediaFolders, find, read_json
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
    classes = set(read_json(_labels(manual, "labels.json")))
    splits = {
        split: [
            _example(record["id"], _sentence(record), classes, media)
            for record in read_json(_labels(manual, f"{split}.json"))
        ]
        for split in ("train", "validation")
    }
    try:
        answers = _labels(manual, "test-answers.csv").read_text("utf-8").splitlines()
    except FileNotFoundError:
        return splits
    rows = [line.split(";", 1) for line in answers if ";" in line]
    splits["test"] = [_example(id_, name, classes, media) for id_, name in rows]
    return splits


def _labels(manual: Path, name: str) -> Path:
    return find(manual, f"labels/{name}", name)


def _sentence(record: dict[str, Any]) -> str:
    """Putting [something] on [something] as the class is called."""
    return record["template"].replace("[", "").replace("]", "")


def _example(id_: str, name: str, classes: set[str], media: MediaFolders) -> Example:
    if name not in classes:
        raise ValueError(
            f"ssv2: video {id_} has the class {name!r}, which labels.json does not "
            "name; fetch the annotations again."
        )
    return Example(id_, media(id_), labels=(Label(name),))


FILES = (
    "labels/train.json, labels/validation.json, labels/labels.json (and "
    "labels/test-answers.csv), 20bn-something-something-v2/"
)
DATASETS = (Dataset("ssv2", "video", _splits, FILES, COUNTS, REPORTED),)
