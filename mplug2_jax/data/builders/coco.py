"""COCO captions in Karpathy's split, whose training part has the rest of val2014."""

from collections import defaultdict
from pathlib import Path

from mplug2_jax.data.builders.declaration import (
    SHARD_SIZES,
    Counts,
    Dataset,
    Split,
    listed,
)
from mplug2_jax.data.builders.reading import find, read_json
from mplug2_jax.data.sources import Example

SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


def _captions(manual: Path, _) -> dict[str, Split]:
    examples: dict[str, list[Example]] = defaultdict(list)
    for image in read_json(find(manual, "dataset_coco.json"))["images"]:
        captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
        path = manual / image["filepath"] / image["filename"]
        example = Example(str(image["cocoid"]), path, captions)
        examples[SPLITS[image["split"]]].append(example)
    size = SHARD_SIZES["image"]
    return {split: listed(its, size) for split, its in examples.items()}


DATASETS = (
    Dataset(
        "coco_captions",
        "image",
        _captions,
        "dataset_coco.json, train2014/, val2014/",
        {
            "train": Counts(113287, 566747),
            "validation": Counts(5000, 25010),
            "test": Counts(5000, 25010),
        },
    ),
)
