"""Visual Genome: region descriptions as captions, and questions, of whole images."""

from pathlib import Path

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.reading import MediaFolders, asked, find, read_json
from mplug2_jax.data.examples import Example


def _media(manual: Path) -> MediaFolders:
    return MediaFolders(manual, "VG_100K", "VG_100K_2", suffixes=(".jpg",))


def _regions(manual: Path) -> dict[str, list[Example]]:
    media, examples = _media(manual), []
    for image in read_json(find(manual, "region_descriptions.json")):
        phrases = [region["phrase"].strip() for region in image["regions"]]
        if captions := tuple(dict.fromkeys(filter(None, phrases))):
            name = str(image["id"])
            examples.append(Example(name, media(name), captions))
    return {"train": examples}


def _qa(manual: Path) -> dict[str, list[Example]]:
    images = read_json(find(manual, "question_answers.json"))
    records = (qa for image in images for qa in image["qas"])
    return {"train": asked(records, "{image_id}", _media(manual), "qa_id")}


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
