"""Flickr30k captions in Karpathy's split."""

from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import text_of
from mplug2_jax.data.builders.reading import find, karpathy_splits
from mplug2_jax.data.examples import Example


def _captions(manual: Path) -> dict[str, list[Example]]:
    folder = find(manual, "flickr30k-images", "images")

    def medium(image: Any) -> tuple[str, Path]:
        path = folder / text_of(image, "filename")
        return path.stem, path

    return karpathy_splits(find(manual, "dataset_flickr30k.json"), medium)


# Images: huggingface.co/datasets/umaru97/flickr30k_train_val_test.
COUNTS = {"train": Counts(29000), "validation": Counts(1014), "test": Counts(1000)}
FILES = "dataset_flickr30k.json, flickr30k-images/"
DATASETS = (Dataset("flickr30k_captions", "image", _captions, FILES, COUNTS),)
