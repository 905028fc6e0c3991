"""RefCOCO, RefCOCO+, RefCOCOg: phrases that name one object of a COCO image each.

Annotations of github.com/lichengunc/refer: objects with their phrases in `refs(...).p`,
boxes in `instances.json`. Splits are those of UNC, for RefCOCOg of UMD: no image is in
two of them. Objects of testA are people, of testB everything else.
"""

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import by_id, one_of, text_of, usable
from mplug2_jax.data.builders.reading import find, read_json, read_plain_pickle
from mplug2_jax.data.examples import Box, Example, Region
from mplug2_jax.data.sources import checked_box

SPLITS = {"train": "train", "val": "validation", "test": "test"}
SPLITS |= {"testA": "testA", "testB": "testB"}
IMAGES = ("train2014", "images/train2014", "images/mscoco/images/train2014")
EDGE = 1.0  # pixels that a box may reach over the edge, by the rounding of outlines


def _splits(name: str, partition: str, manual: Path) -> dict[str, list[Example]]:
    """Examples by image; what has no box inside its image is a bad entry."""
    file = find(manual, f"{name}/refs({partition}).p", f"refs({partition}).p")
    instances, folder = file.with_name("instances.json"), find(manual, *IMAGES)
    images = by_id(instances, read_json(instances, "images"))
    objects = by_id(instances, read_json(instances, "annotations"))

    def region(ref: Any, sentence: Any) -> tuple[tuple[str, str, Path], Region]:
        split = SPLITS[one_of(ref, "split", SPLITS)]
        phrase = text_of(sentence, "sent")
        id_, object_ = text_of(ref, "image_id"), text_of(ref, "ann_id")
        if id_ not in images or object_ not in objects:
            raise ValueError(f"{instances.name} lacks image {id_} or object {object_}")
        path = folder / text_of(images[id_], "file_name")
        box = _box(images[id_], *objects[object_]["bbox"])
        return (split, id_, path), Region(phrase, box, str(sentence.get("sent_id")))

    regions: dict[tuple[str, str, Path], tuple[Region, ...]] = defaultdict(tuple)
    refs = read_plain_pickle(file)
    for key, its in usable(file, refs, region, "object", within="sentences"):
        regions[key] += (its,)
    splits: dict[str, list[Example]] = defaultdict(list)
    for (split, id_, path), its in regions.items():
        splits[split].append(Example(id_, path, regions=its))
    return splits


def _box(image: Any, x: float, y: float, width: float, height: float) -> Box:
    """The box in shares of its image."""
    size = image["width"], image["height"]
    ends = zip((x, y, x + width, y + height), size * 2, strict=True)
    return checked_box([_inside(end, limit) for end, limit in ends], size)


def _inside(end: float, limit: float) -> float:
    nearest = min(max(end, 0.0), float(limit))
    return nearest if abs(end - nearest) <= EDGE else end


def _dataset(name: str, folder: str, partition: str, **counts: Counts) -> Dataset:
    return Dataset(
        name,
        "image",
        partial(_splits, folder, partition),
        f"{folder}/refs({partition}).p, {folder}/instances.json, train2014/",
        counts,
    )


# Images: tensorflow.org/datasets/catalog/ref_coco. Phrases of RefCOCO: FlagEval
# (flageval.baai.ac.cn, "RefCOCO_RefCOCO+_RefCOCOg-Visual_Grounding"); of RefCOCO+ all
# together are the 141564 of its paper (arXiv 1608.00272); of RefCOCOg all are 95010.
DATASETS = (
    _dataset(
        *("refcoco", "refcoco", "unc"),
        train=Counts(16994, regions=120624),
        validation=Counts(1500, regions=10834),
        testA=Counts(750, regions=5657),
        testB=Counts(750, regions=5095),
    ),
    _dataset(
        *("refcoco_plus", "refcoco+", "unc"),
        train=Counts(16992, regions=120191),
        validation=Counts(1500, regions=10758),
        testA=Counts(750, regions=5726),
        testB=Counts(750, regions=4889),
    ),
    _dataset(
        *("refcocog", "refcocog", "umd"),
        train=Counts(21899, regions=80512),
        validation=Counts(1300, regions=4896),
        test=Counts(2600, regions=9602),
    ),
)
