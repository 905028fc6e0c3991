"""SNLI-VE: does a sentence follow from an image of Flickr30k (arXiv 1901.06706)."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import MAX_BAD_SHARE, one_of, text_of
from mplug2_jax.data.builders.reading import find
from mplug2_jax.data.examples import Example, Label
from mplug2_jax.data.sources import parsed_lines

SPLITS = {"train": "train", "validation": "dev", "test": "test"}
CLASSES = ("contradiction", "entailment", "neutral")
# What the official generators of 2020 and 2018 call the image; the latter's ids have
# the extension.
IMAGE_IDS = ("Flickr30K_ID", "Flikr30kID")


def _splits(manual: Path) -> dict[str, list[Example]]:
    folder = find(manual, "flickr30k-images", "images")
    return {
        split: _examples(find(manual, f"snli_ve_{name}.jsonl"), folder)
        for split, name in SPLITS.items()
    }


def _examples(path: Path, folder: Path) -> list[Example]:
    """One for each image, with all sentences about it."""
    labels: dict[str, tuple[Label, ...]] = defaultdict(tuple)
    for image, label in parsed_lines(path, _line, MAX_BAD_SHARE):
        labels[image] += (label,)
    return [
        Example(image, folder / f"{image}.jpg", labels=its)
        for image, its in labels.items()
    ]


def _line(record: dict[str, Any]) -> tuple[str, Label]:
    key = next((key for key in IMAGE_IDS if key in record), IMAGE_IDS[0])
    image = text_of(record, key).removesuffix(".jpg")
    label = one_of(record, "gold_label", CLASSES)
    return image, Label(label, text_of(record, "sentence2"), record.get("pairID"))


# Images and sentences of all classes: github.com/necla-ml/SNLI-VE, README.md.
COUNTS = {
    "train": Counts(29783, labels=529527),
    "validation": Counts(1000, labels=17858),
    "test": Counts(1000, labels=17901),
}
FILES = "snli_ve_train.jsonl, snli_ve_dev.jsonl, snli_ve_test.jsonl, flickr30k-images/"
DATASETS = (Dataset("snli_ve", "image", _splits, FILES, COUNTS, classes=CLASSES),)
