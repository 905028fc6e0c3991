"""NoCaps: captions of Open Images' pictures, many of things that COCO has not."""

from collections import defaultdict
from pathlib import Path

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.reading import MediaFolders, find, read_json
from mplug2_jax.data.examples import KIND, Example, Label

FILES = {
    "validation": ("nocaps_val_4500_captions.json", ("val", "validation", "images")),
    "test": ("nocaps_test_image_info.json", ("test", "images")),
}


def _splits(manual: Path) -> dict[str, list[Example]]:
    """The test split, whose captions nobody has, only if its file is there."""
    names = [s for s in FILES if s == "validation" or (manual / FILES[s][0]).exists()]
    return {split: _examples(manual, *FILES[split]) for split in names}


def _examples(manual: Path, name: str, folders: tuple[str, ...]) -> list[Example]:
    content = read_json(find(manual, name))
    media = MediaFolders(manual, *folders, suffixes=(".jpg",))
    captions: dict[int, list[str]] = defaultdict(list)
    for caption in content.get("annotations", ()):
        captions[caption["image_id"]].append(caption["caption"].strip())
    return [
        Example(
            str(image["id"]),
            media(image["file_name"]),
            tuple(captions[image["id"]]),
            labels=(Label(image["domain"], id=KIND),) if "domain" in image else (),
        )
        for image in content["images"]
    ]


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
