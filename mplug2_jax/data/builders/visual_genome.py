"""Visual Genome: region descriptions as captions, and questions, of whole images."""

from pathlib import Path

from mplug2_jax.data.builders.declaration import (
    SHARD_SIZES,
    Counts,
    Dataset,
    Split,
    listed,
)
from mplug2_jax.data.builders.reading import (
    MediaFolders,
    find,
    questions_by_video,
    read_json,
)
from mplug2_jax.data.sources import Example


def _regions(manual: Path, _) -> dict[str, Split]:
    media = MediaFolders((manual / "VG_100K", manual / "VG_100K_2"), (".jpg",))
    examples = []
    for image in read_json(find(manual, "region_descriptions.json")):
        phrases = [region["phrase"].strip() for region in image["regions"]]
        captions = tuple(dict.fromkeys(filter(None, phrases)))
        if captions:
            examples.append(
                Example(str(image["id"]), media(str(image["id"])), captions)
            )
    return {"train": listed(examples, SHARD_SIZES["image"])}


def _qa(manual: Path, _) -> dict[str, Split]:
    media = MediaFolders((manual / "VG_100K", manual / "VG_100K_2"), (".jpg",))
    records = (
        qa
        for image in read_json(find(manual, "question_answers.json"))
        for qa in image["qas"]
    )
    asked = questions_by_video(records, lambda qa: str(qa["image_id"]), "qa_id")
    examples = [Example(i, media(i), questions=tuple(q)) for i, q in asked.items()]
    return {"train": listed(examples, SHARD_SIZES["image"])}


DATASETS = (
    Dataset(
        "visual_genome",
        "image",
        _regions,
        "region_descriptions.json, VG_100K/, VG_100K_2/",
        {"train": Counts(108077)},
    ),
    Dataset(
        "visual_genome_qa",
        "image",
        _qa,
        "question_answers.json, VG_100K/, VG_100K_2/",
        {"train": Counts()},  # differs between releases
    ),
)
