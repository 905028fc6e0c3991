"""Flickr30k captions in Karpathy's split."""

from collections import defaultdict
from pathlib import Path

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.reading import find, read_json
from mplug2_jax.data.examples import Example

SPLITS = {"train": "train", "val": "validation", "test": "test"}


def _captions(manual: Path) -> dict[str, list[Example]]:
    splits: dict[str, list[Example]] = defaultdict(list)
    folder = find(manual, "flickr30k-images", "images")
    for image in read_json(find(manual, "dataset_flickr30k.json"))["images"]:
        captions = tuple(sentence["raw"].strip() for sentence in image["sentences"])
        path = folder / image["filename"]
        splits[SPLITS[image["split"]]].append(Example(path.stem, path, captions))
    return splits


# Images: huggingface.co/datasets/umaru97/flickr30k_train_val_test.
COUNTS = {"train": Counts(29000), "validation": Counts(1014), "test": Counts(1000)}
FILES = "dataset_flickr30k.json, flickr30k-images/"
DATASETS = (Dataset("flickr30k_captions", "image", _captions, FILES, COUNTS),)
