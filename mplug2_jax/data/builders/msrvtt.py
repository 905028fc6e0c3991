"""MSRVTT: captions (official split), questions (MSRVTT-QA) and retrieval (1k-A)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
    read_table,
)
from mplug2_jax.data.sources import Example

SIZE = SHARD_SIZES["video"]
OFFICIAL = {"train": "train", "validate": "validation", "test": "test"}


def _media(manual: Path) -> MediaFolders:
    names = ("TrainValVideo", "TestVideo", "video", "videos", "videos/all", ".")
    return MediaFolders(manual / name for name in names)


def _captions(annotations: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Captions by video, in the order of the files."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for annotation in annotations:
        for sentence in annotation["sentences"]:
            grouped[sentence["video_id"]].append(sentence["caption"])
    return grouped


def _caption(manual: Path, _) -> dict[str, Split]:
    names = ("train_val_videodatainfo.json", "test_videodatainfo.json")
    annotations = [read_json(find(manual, name)) for name in names]
    captions, media = _captions(annotations), _media(manual)
    examples: dict[str, list[Example]] = defaultdict(list)
    for video in (video for each in annotations for video in each["videos"]):
        name = video["video_id"]
        example = Example(name, media(name), tuple(captions[name]))
        examples[OFFICIAL[video["split"]]].append(example)
    return {split: listed(its, SIZE) for split, its in examples.items()}


def _qa(manual: Path, _) -> dict[str, Split]:
    media, splits = _media(manual), {}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        records = read_json(find(manual, f"{name}_qa.json"))
        asked = questions_by_video(records, lambda r: f"video{r['video_id']}")
        examples = [Example(v, media(v), questions=tuple(q)) for v, q in asked.items()]
        splits[split] = listed(examples, SIZE)
    return splits


def _retrieval(manual: Path, _) -> dict[str, Split]:
    media = _media(manual)
    captions = _captions([read_json(find(manual, "MSRVTT_data.json"))])
    train = read_table(find(manual, "MSRVTT_train.9k.csv"))
    test = read_table(find(manual, "MSRVTT_JSFUSION_test.csv"))
    names = [row["video_id"] for row in train]
    return {
        "train": listed(
            [Example(n, media(n), tuple(captions[n])) for n in names], SIZE
        ),
        "test": listed(
            [
                Example(r["video_id"], media(r["video_id"]), (r["sentence"],))
                for r in test
            ],
            SIZE,
        ),
    }


DATASETS = (
    Dataset(
        "msrvtt_caption",
        "video",
        _caption,
        "train_val_videodatainfo.json, test_videodatainfo.json, TrainValVideo/, "
        "TestVideo/",
        {
            "train": Counts(6513, 130260),
            "validation": Counts(497, 9940),
            "test": Counts(2990, 59800),
        },
    ),
    Dataset(
        "msrvtt_qa",
        "video",
        _qa,
        "train_qa.json, val_qa.json, test_qa.json, video/",
        {
            "train": Counts(6513, questions=158581),
            "validation": Counts(497, questions=12278),
            "test": Counts(2990, questions=72821),
        },
    ),
    Dataset(
        "msrvtt_retrieval",
        "video",
        _retrieval,
        "MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv, videos/all/",
        {"train": Counts(9000, 180000), "test": Counts(1000, 1000)},
    ),
)
