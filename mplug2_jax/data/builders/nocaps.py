"""NoCaps: captions of Open Images' pictures, many of things that COCO has not."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import caption_of, text_of, usable
from mplug2_jax.data.builders.reading import MediaFolders, find, read_json
from mplug2_jax.data.examples import KIND, Example, Label

FILES = {
    "validation": ("nocaps_val_4500_captions.json", ("val", "validation", "images")),
    "test": ("nocaps_test_image_info.json", ("test", "images")),
}


def _splits(manual: Path) -> dict[str, list[Example]]:
    """The test split, whose captions nobody has, only if its file is there."""
    splits = {"validation": _examples(manual, "validation")}
    if (manual / FILES["test"][0]).exists():
        splits["test"] = _examples(manual, "test")
    return splits


def _examples(manual: Path, split: str) -> list[Example]:
    name, folders = FILES[split]
    file = find(manual, name)
    media = MediaFolders(manual, *folders, suffixes=(".jpg",))

    def image(record: Any) -> tuple[str, Example]:
        id_, path = text_of(record, "id"), media(text_of(record, "file_name"))
        kinds = [text_of(record, "domain")] if "domain" in record else []
        labels = tuple(Label(kind, id=KIND) for kind in kinds)
        return id_, Example(id_, path, labels=labels)

    def caption(record: Any) -> tuple[str, str]:
        if (id_ := text_of(record, "image_id")) not in examples:
            raise ValueError(f"there is no image {id_}")
        return id_, caption_of(record, "caption")

    examples = dict(usable(file, read_json(file, "images"), image, "image"))
    captions: dict[str, tuple[str, ...]] = defaultdict(tuple)
    captioned = split == "validation"
    annotated = read_json(file, "annotations") if captioned else ()
    for id_, its in usable(file, annotated, caption, "caption"):
        captions[id_] += (its,)
    return [replace(its, captions=captions[id_]) for id_, its in examples.items()]


# nocaps.org/download: 10 captions of each.
DATASETS = (
    Dataset(
        "nocaps",
        "image",
        _splits,
        "nocaps_val_4500_captions.json, val/; if wanted nocaps_test_image_info.json, "
        "test/",
        {"validation": Counts(4500, 45000)},
        {"test": Counts(10600)},
    ),
)
