"""RefCOCO, RefCOCO+, RefCOCOg: phrases that name one object of a COCO image each.

Annotations of github.com/lichengunc/refer: objects with their phrases in `refs(...).p`,
boxes in `instances.json`. Splits are those of UNC, for RefCOCOg of UMD: no image is in
two of them. Objects of testA are people, of testB everything else.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from absl import logging

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.reading import find, read_json, read_plain_pickle
from mplug2_jax.data.examples import Example, Region
from mplug2_jax.data.sources import checked_box

Image = Mapping[str, Any]
SPLITS = {"train": "train", "val": "validation", "test": "test"}
SPLITS |= {"testA": "testA", "testB": "testB"}
IMAGES = ("train2014", "images/train2014", "images/mscoco/images/train2014")
KEYS = ("split", "image_id", "ann_id", "sentences")
MAX_BAD_SHARE = 0.01  # of the phrases, which may have no box inside their image
EDGE = 1.0  # pixels that a box may reach over the edge, by the rounding of outlines


def _splits(name: str, partition: str, manual: Path) -> dict[str, list[Example]]:
    """Examples by image; phrases without a box are named in the log and left out.

    Raises:
      ValueError: there are more of those than `MAX_BAD_SHARE`, or a split is unknown.
    """
    file = find(manual, f"{name}/refs({partition}).p", f"refs({partition}).p")
    instances = read_json(file.with_name("instances.json"))
    images = {image["id"]: image for image in instances["images"]}
    boxes = {its["id"]: its["bbox"] for its in instances["annotations"]}
    regions: dict[tuple[str, int], tuple[Region, ...]] = defaultdict(tuple)
    bad, total = [], 0
    for number, ref in enumerate(read_plain_pickle(file)):
        for found in _regions(ref, images, boxes):
            total += 1
            if isinstance(found, Region):
                regions[_split(file, ref), ref["image_id"]] += (found,)
            else:
                bad.append(f"{file}, object {number}: {found}")
    _check(bad, total)
    folder, splits = find(manual, *IMAGES), defaultdict(list)
    for (split, image), its in regions.items():
        path = folder / images[image]["file_name"]
        splits[split].append(Example(str(image), path, regions=its))
    return splits


def _split(file: Path, ref: Mapping[str, Any]) -> str:
    if (split := ref["split"]) in SPLITS:
        return SPLITS[split]
    known = ", ".join(SPLITS)
    raise ValueError(f"{file} has the split {split!r}; expected one of {known}.")


def _regions(
    ref: Mapping[str, Any], images: Mapping[int, Image], boxes: Mapping[int, list]
) -> Iterator[Region | ValueError]:
    """Each phrase of an object with its box, or why it has none."""
    if lacking := [key for key in KEYS if key not in ref]:
        yield ValueError(f"it lacks {', '.join(lacking)}")
        return
    for sentence in ref["sentences"]:
        phrase = sentence.get("sent", "").strip()
        try:
            if not phrase:
                raise ValueError("a phrase is empty")
            box = _box(ref, images, boxes)
            yield Region(phrase, box, str(sentence.get("sent_id")))
        except ValueError as error:
            yield error


def _box(ref: Mapping[str, Any], images: Mapping[int, Image], boxes) -> Any:
    """The object's box in shares of its image."""
    if ref["image_id"] not in images or ref["ann_id"] not in boxes:
        raise ValueError(
            f"instances.json lacks image {ref['image_id']} or object {ref['ann_id']}"
        )
    image = images[ref["image_id"]]
    size = image["width"], image["height"]
    x, y, width, height = boxes[ref["ann_id"]]
    ends = zip((x, y, x + width, y + height), size * 2, strict=True)
    return checked_box([_inside(end, limit) for end, limit in ends], size)


def _inside(end: float, limit: float) -> float:
    nearest = min(max(end, 0.0), float(limit))
    return nearest if abs(end - nearest) <= EDGE else end


def _check(bad: list[str], total: int) -> None:
    if len(bad) > MAX_BAD_SHARE * total:
        raise ValueError(
            f"{len(bad)} of {total} phrases have no box inside their image; the first: "
            f"{bad[0]}. Fetch the annotations again."
        )
    for message in bad:
        logging.warning("left out: %s", message)


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
