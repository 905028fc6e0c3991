"""Tables of videos and their captions in the layout of WebVid.

Videos disappear from the web, so no counts are expected.
"""

from functools import partial
from pathlib import Path

from mplug2_jax.data.builders.declaration import Content, Dataset
from mplug2_jax.data.builders.entries import caption_of, text_of
from mplug2_jax.data.builders.reading import find
from mplug2_jax.data.builders.shards import table_split, tar_split
from mplug2_jax.data.examples import Example


def _splits(size: str, manual: Path) -> dict[str, Content]:
    splits = {}
    for split, name in {"train": "train", "validation": "val"}.items():
        if tars := sorted((manual / split).glob("*.tar")):
            splits[split] = tar_split(tars)
        elif (path := manual / f"results_{size}_{name}.csv").exists():
            row = partial(_row, manual / "videos")
            columns = ("videoid", "name")
            splits[split] = partial(table_split, path, row, ",", columns, True)
    if not splits:
        find(manual, f"results_{size}_train.csv", "train/*.tar")
    return splits


def _row(videos: Path, row: dict[str, str]) -> Example:
    """A row: videoid, contentUrl, duration, page_dir, name."""
    number = text_of(row, "videoid")
    path = videos / row.get("page_dir", "") / f"{number}.mp4"
    return Example(number, path, (caption_of(row, "name"),))


def _dataset(size: str) -> Dataset:
    return Dataset(
        f"webvid_{size.lower()}",
        "video",
        partial(_splits, size),
        f"results_{size}_train.csv (and _val.csv) with videos/PAGE_DIR/VIDEOID.mp4, or "
        "train/*.tar (and validation/*.tar) of KEY.mp4 and KEY.txt",
        web=True,
    )


DATASETS = (_dataset("2M"), _dataset("10M"))
