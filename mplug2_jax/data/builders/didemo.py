"""DiDeMo as paragraphs: a video's descriptions, joined, are its one caption."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import caption_of, text_of, usable
from mplug2_jax.data.builders.reading import MediaFolders, find, read_json
from mplug2_jax.data.examples import Example

FOLDERS = ("videos", "video", ".")
SPLITS = {"train": "train", "validation": "val", "test": "test"}
SECONDS = 30.0  # annotators saw no more of a video


def _retrieval(manual: Path) -> dict[str, list[Example]]:
    media = MediaFolders(manual, *FOLDERS)

    def file(video: str) -> Path:
        """As it is named, or what it has been converted to."""
        named = media(video)
        return named if named.is_file() else media(Path(video).stem)

    splits: dict[str, list[Example]] = {}
    for split, short in SPLITS.items():
        described: dict[str, list[str]] = defaultdict(list)
        path = find(manual, f"{short}_data.json")
        for video, said in usable(path, read_json(path), _moment):
            described[video].append(said)
        splits[split] = [
            Example(video, file(video), (" ".join(its),), end=SECONDS)
            for video, its in described.items()
        ]
    return splits


def _moment(record: Any) -> tuple[str, str]:
    return text_of(record, "video"), caption_of(record, "description")


# Videos: github.com/albanie/collaborative-experts, misc/datasets/didemo, whose training
# list lacks 3 of the 8395 in arXiv 1708.01641.
DATASETS = (
    Dataset(
        "didemo_retrieval",
        "video",
        _retrieval,
        "train_data.json, val_data.json, test_data.json, videos/",
        {"validation": Counts(1065, 1065), "test": Counts(1004, 1004)},
        {"train": Counts(8395, 8395)},
    ),
)
