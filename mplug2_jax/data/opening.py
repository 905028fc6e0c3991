"""Where a run's data are: annotations, prepared records or plain text."""

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from mplug2_jax.data.examples import Example, TextExample
from mplug2_jax.data.files import local_path
from mplug2_jax.data.records import Records, is_prepared
from mplug2_jax.data.sources import (
    MEDIUM_KEYS,
    json_object,
    read_jsonl,
    read_text_jsonl,
)
from mplug2_jax.data.tfds_sets import open_records, prepared_folder

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data of a run.

    Attributes:
      path: annotations in JSON lines (see `data/sources.py`), the folder of a prepared
        data set (see `mplug2 prepare`), which may be in a bucket (gs://...), the name
        of one of TFDS's own, such as tfds:glue/sst2, or a .txt file of one text a line;
        empty turns the data off.
      media: folder the media names are relative to; empty: the annotations' own.
      split: of a prepared data set.
      data_dir: of a tfds: name, where it was prepared; empty: TFDS's own folder.
    """

    path: str = ""
    media: str = ""
    split: str = "train"
    data_dir: str = ""


def is_texts(data: DataConfig) -> bool:
    """Whether the data are texts with labels, without media."""
    path = prepared_folder(data.path, data.data_dir)
    if is_prepared(path):
        return open_records(path, data.split).kind == "labelled_text"
    telling = {"text", "images", *MEDIUM_KEYS}
    try:
        with open(data.path, "rb") as file:
            told = (_object(line).keys() & telling for line in file)
            return next(filter(None, told), None) == {"text"}
    except OSError:
        return False  # opening says what is wrong


def _object(line: bytes) -> dict:
    """The object of an annotation's line; of a broken one, which opening names, {}."""
    with contextlib.suppress(ValueError):
        return json_object(line)
    return {}


def open_annotations(
    path: str, split: str, media: str = "", max_bad_share: float = 0.0
) -> tuple[DataConfig, Sequence[Any], bool]:
    """A data set as commands name it, its examples, and whether these are texts alone.

    Args:
      path: of annotations or a prepared set, perhaps PATH:SPLIT.
      split: of a prepared set whose path names none.
      media: see `DataConfig`.

    Raises: as `open_examples` and `open_text_examples`.
    """
    path, split = path_and_split(path, split)
    data = DataConfig(path, media, split)
    texts = is_texts(data)
    opened: Any = open_text_examples if texts else open_examples
    return data, opened(data, max_bad_share), texts


def path_and_split(path: str, split: str) -> tuple[str, str]:
    """PATH:SPLIT of a prepared data set in two; of any other path, with `split`.

    A colon after a drive's letter, in gs://... or in tfds:NAME is the path's own.

    Raises:
      ValueError: the data set of a tfds: name is not prepared.
    """
    folder, _, name = path.rpartition(":")
    its = bool(folder and re.fullmatch(r"\w+", name))
    if its and is_prepared(prepared_folder(folder)):
        return folder, name
    return path, split


def open_examples(data: DataConfig, max_bad_share: float = 0.0) -> Sequence[Example]:
    """Examples of videos or images; records are read when they are asked for.

    Args:
      max_bad_share: see `read_jsonl`.

    Raises:
      ValueError, FileNotFoundError: see `read_jsonl` and `Records`; or texts alone.
    """
    if not data.path:
        return []
    path = prepared_folder(data.path, data.data_dir)
    if not (is_prepared(path) or Path(path).is_dir()):
        return read_jsonl(path, data.media or None, max_bad_share=max_bad_share)
    records = open_records(path, data.split)
    if records.kind not in ("video", "image"):
        raise ValueError(f"{data.path} holds texts; expected videos or images.")
    return records


def open_text_examples(
    data: DataConfig, max_bad_share: float = 0.0
) -> Sequence[TextExample]:
    """Texts with their classes: prepared ones, or JSON lines.

    Raises:
      ValueError, FileNotFoundError: see `read_text_jsonl` and `Records`.
    """
    path = prepared_folder(data.path, data.data_dir)
    if not (is_prepared(path) or Path(path).is_dir()):
        return read_text_jsonl(path, max_bad_share)
    records = open_records(path, data.split)
    if records.kind != "labelled_text":
        raise ValueError(
            f"{data.path} holds {records.kind}s; expected texts with labels."
        )
    return records


def first(examples: Sequence[T], limit: int | None) -> Sequence[T]:
    """At most `limit` of the examples; if that is all, records stay on the disk."""
    if not limit or limit >= len(examples):
        return examples
    return examples[:limit]


def open_texts(data: DataConfig) -> Sequence[str]:
    """Plain texts: prepared ones, or the lines of a file that are not blank.

    Raises:
      ValueError: no texts, or not UTF-8.
      OSError: the file cannot be read.
    """
    if is_prepared(data.path):
        records = Records(data.path, data.split)
        if records.kind != "text":
            raise ValueError(f"{data.path} holds {records.kind}s; expected texts.")
        return records
    try:
        advice = "mount the bucket, or prepare the texts: those are read from buckets."
        lines = local_path(data.path, advice).read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{data.path} is not UTF-8 text: {error}") from error
    if not (texts := [line.strip() for line in lines if line.strip()]):
        raise ValueError(f"{data.path} holds no text; expected one a line.")
    return texts
