"""COCO captions in Karpathy's split, whose training part has the rest of val2014."""

from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import text_of
from mplug2_jax.data.builders.reading import find, karpathy_splits
from mplug2_jax.data.examples import Example

# Images: tensorflow.org/datasets/catalog/coco_captions (82783 + 30504, 5000, 5000);
# captions: huggingface.co/datasets/justram/COCO2014-Captions, together the 616767 of
# train2014 and val2014.
COUNTS = {
    "train": Counts(113287, 566747),
    "validation": Counts(5000, 25010),
    "test": Counts(5000, 25010),
}


def _captions(manual: Path) -> dict[str, list[Example]]:
    def medium(image: Any) -> tuple[str, Path]:
        folder = manual / text_of(image, "filepath")
        return text_of(image, "cocoid"), folder / text_of(image, "filename")

    return karpathy_splits(find(manual, "dataset_coco.json"), medium)


FILES = "dataset_coco.json, train2014/, val2014/"
DATASETS = (Dataset("coco_captions", "image", _captions, FILES, COUNTS),)
