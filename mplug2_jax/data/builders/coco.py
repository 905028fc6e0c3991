"""COCO captions in Karpathy's split, whose training part has the rest of val2014."""

from collections import defaultdict
from pathlib import Path

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.reading import find, read_json
from mplug2_jax.data.examples import Example

SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
# Images: tensorflow.org/datasets/catalog/coco_captions (82783 + 30504, 5000, 5000);
# captions: huggingface.co/datasets/justram/COCO2014-Captions, together the 616767 of
# train2014 and val2014.
COUNTS = {
    "train": Counts(113287, 566747),
    "validation": Counts(5000, 25010),
    "test": Counts(5000, 25010),
}


def _captions(manual: Path) -> dict[str, list[Example]]:
    splits: dict[str, list[Example]] = defaultdict(list)
    for image in read_json(find(manual, "dataset_coco.json"))["images"]:
        captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
        path = manual / image["filepath"] / image["filename"]
        example = Example(str(image["cocoid"]), path, captions)
        splits[SPLITS[image["split"]]].append(example)
    return splits


FILES = "dataset_coco.json, train2014/, val2014/"
DATASETS = (Dataset("coco_captions", "image", _captions, FILES, COUNTS),)
