"""Visual Genome: region descriptions as captions, and questions, of whole images."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import caption_of, text_of, usable
from mplug2_jax.data.builders.reading import MediaFolders, asked, find, read_json
from mplug2_jax.data.examples import Example


def _media(manual: Path) -> MediaFolders:
    return MediaFolders(manual, "VG_100K", "VG_100K_2", suffixes=(".jpg",))


def _regions(manual: Path) -> dict[str, list[Example]]:
    file, media = find(manual, "region_descriptions.json"), _media(manual)
    described: dict[str, dict[str, None]] = defaultdict(dict)  # each phrase once
    for image, phrase in usable(file, read_json(file), _region, within="regions"):
        described[image][phrase] = None
    return {"train": [Example(n, media(n), tuple(its)) for n, its in described.items()]}


def _region(image: Any, region: Any) -> tuple[str, str]:
    return text_of(image, "id"), caption_of(region, "phrase")


def _qa(manual: Path) -> dict[str, list[Example]]:
    file, name = find(manual, "question_answers.json"), "{image_id}"
    images = read_json(file)
    return {"train": asked(file, images, name, _media(manual), "qa_id", within="qas")}


FOLDERS = "VG_100K/, VG_100K_2/"
# huggingface.co/datasets/ranjaykrishna/visual_genome lists so many images; how many of
# them have no description, no source says. Questions differ between releases.
IMAGES = {"train": Counts(108077)}
DATASETS = (
    Dataset(
        "visual_genome",
        "image",
        _regions,
        f"region_descriptions.json, {FOLDERS}",
        {"train": Counts()},
        IMAGES,
    ),
    Dataset(
        "visual_genome_qa",
        "image",
        _qa,
        f"question_answers.json, {FOLDERS}",
        {"train": Counts()},
    ),
)
