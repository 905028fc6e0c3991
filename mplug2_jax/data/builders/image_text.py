"""Images with alternative texts from the web: CC3M, CC12M, SBU and others like them.

Per split, in the manual directory, any of
    SPLIT/*.tar         tar shards of KEY.jpg and KEY.txt
    SPLIT.jsonl         objects with `image` and `caption`, one per line
    SPLIT.tsv           columns `image` and `caption` with a header
    SPLIT/**/KEY.jpg    loose files with KEY.txt beside each
where images are paths relative to the manual directory. The official tables of captions
and addresses are not read: fetch what they name first (img2dataset writes tar shards).
What can still be fetched differs from day to day, so no counts are expected.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Content, Dataset
from mplug2_jax.data.builders.entries import caption_of, text_of
from mplug2_jax.data.builders.shards import folder_split, table_split, tar_split
from mplug2_jax.data.examples import Example


def _splits(manual: Path) -> dict[str, Content]:
    found = {name: _split(manual, name) for name in ("train", "validation")}
    if splits := {name: split for name, split in found.items() if split}:
        return splits
    raise FileNotFoundError(
        f"{manual} has no train/*.tar, train.jsonl, train.tsv or train/**/*.txt; see "
        "`mplug2 prepare --help`."
    )


def _split(manual: Path, name: str) -> Content | None:
    if tars := sorted((manual / name).glob("*.tar")):
        return tar_split(tars)
    if (path := manual / f"{name}.jsonl").exists():
        return partial(
            table_split, path, partial(_line, manual), "\0", ("line",), False
        )
    if (path := manual / f"{name}.tsv").exists():
        columns = ("image", "caption")
        return partial(table_split, path, partial(_row, manual), "\t", columns, True)
    return partial(folder_split, manual / name) if (manual / name).is_dir() else None


def _line(manual: Path, row: dict[str, str]) -> Example:
    try:
        return _row(manual, json.loads(row["line"]))
    except json.JSONDecodeError as error:
        raise ValueError(f"not a JSON object on one line ({error})") from error


def _row(manual: Path, row: Any) -> Example:
    image = text_of(row, "image")
    return Example(image, manual / image, (caption_of(row, "caption"),))


FILES = (
    "train/*.tar, train.jsonl, train.tsv or train/**/KEY.jpg with KEY.txt (and "
    "validation likewise)"
)
DATASETS = tuple(
    Dataset(name, "image", _splits, FILES, web=True)
    for name in ("cc3m", "cc12m", "sbu", "image_text")
)
