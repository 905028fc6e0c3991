"""MSVD: captions and questions (MSVD-QA); 1200, 100 (250) and 670 (520) videos."""

from collections import defaultdict
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

SIZE = SHARD_SIZES["video"]
# The usual split of the captions, by place in youtube_mapping.txt.
BOUNDS = {"train": (0, 1200), "validation": (1200, 1300), "test": (1300, 1970)}


def _mapping(manual: Path) -> dict[str, str]:
    """Clip by the number that youtube_mapping.txt gives it ("vid1")."""
    lines = find(manual, "youtube_mapping.txt").read_text("utf-8").splitlines()
    pairs = [line.split() for line in lines if line.strip()]
    return {number: clip for clip, number in pairs}


def _media(manual: Path) -> MediaFolders:
    return MediaFolders(manual / name for name in ("YouTubeClips", "video", "."))


def _caption(manual: Path, _) -> dict[str, Split]:
    captions: dict[str, list[str]] = defaultdict(list)
    path = find(manual, "AllVideoDescriptions.txt")
    for line in path.read_text("utf-8").splitlines():
        clip, _, caption = line.partition(" ")
        if caption.strip() and not line.startswith("#"):
            captions[clip].append(caption.strip())
    clips, media = list(_mapping(manual).values()), _media(manual)
    return {
        split: listed(
            [Example(c, media(c), tuple(captions[c])) for c in clips[first:last]], SIZE
        )
        for split, (first, last) in BOUNDS.items()
        if clips[first:last]
    }


def _qa(manual: Path, _) -> dict[str, Split]:
    mapping, media, splits = _mapping(manual), _media(manual), {}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        records = read_json(find(manual, f"{name}_qa.json"))
        asked = questions_by_video(records, lambda r: f"vid{r['video_id']}")
        examples = [
            Example(video, media(mapping.get(video, video)), questions=tuple(questions))
            for video, questions in asked.items()
        ]
        splits[split] = listed(examples, SIZE)
    return splits


DATASETS = (
    Dataset(
        "msvd_caption",
        "video",
        _caption,
        "AllVideoDescriptions.txt, youtube_mapping.txt, YouTubeClips/",
        {"train": Counts(1200), "validation": Counts(100), "test": Counts(670)},
    ),
    Dataset(
        "msvd_qa",
        "video",
        _qa,
        "train_qa.json, val_qa.json, test_qa.json, youtube_mapping.txt, YouTubeClips/",
        {
            "train": Counts(1200, questions=30933),
            "validation": Counts(250, questions=6415),
            "test": Counts(520, questions=13157),
        },
    ),
)
