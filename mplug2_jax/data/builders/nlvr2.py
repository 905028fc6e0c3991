"""NLVR2: is a sentence true of two photographs together (arXiv 1811.00491)."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import MAX_BAD_SHARE, one_of, text_of
from mplug2_jax.data.builders.reading import find
from mplug2_jax.data.examples import Example, Label
from mplug2_jax.data.sources import parsed_lines

SPLITS = {"train": "train", "validation": "dev", "test": "test1"}
CLASSES = ("False", "True")
IDENTIFIER = re.compile(r"([a-z0-9]+-\d+-\d+)-\d+")  # its pair, and the sentence


def _splits(manual: Path) -> dict[str, list[Example]]:
    return {split: _examples(manual, name) for split, name in SPLITS.items()}


def _examples(manual: Path, name: str) -> list[Example]:
    """One for each pair of images, with the sentences about it."""
    folder = find(manual, f"images/{name}", name)
    files = {path.name: path for path in folder.rglob("*.png")}
    pairs: dict[str, Example] = {}
    lines = find(manual, f"{name}.json")
    for pair, label in parsed_lines(lines, _line, MAX_BAD_SHARE):
        left, right = (f"{pair}-img{side}.png" for side in (0, 1))
        first, other = (files.get(image, folder / image) for image in (left, right))
        known = pairs.get(pair) or Example(pair, first, others=(other,))
        pairs[pair] = dataclasses.replace(known, labels=(*known.labels, label))
    return list(pairs.values())


def _line(record: dict[str, Any]) -> tuple[str, Label]:
    own, text = text_of(record, "identifier"), text_of(record, "sentence")
    if not (match := IDENTIFIER.fullmatch(own)):
        raise ValueError(f"identifier is {own!r}; expected one such as dev-1-0-1")
    label = one_of({"label": str(record.get("label"))}, "label", CLASSES)
    return match.group(1), Label(label, text, own)


# Sentences; with the 6970 of test2 they are the 107292 of lil.nlp.cornell.edu/nlvr.
COUNTS = {
    "train": Counts(labels=86373),
    "validation": Counts(labels=6982),
    "test": Counts(labels=6967),
}
FILES = (
    "train.json, dev.json, test1.json of github.com/lil-lab/nlvr (nlvr2/data), and "
    "images/train/, images/dev/, images/test1/"
)
DATASETS = (Dataset("nlvr2", "image", _splits, FILES, COUNTS, classes=CLASSES),)
