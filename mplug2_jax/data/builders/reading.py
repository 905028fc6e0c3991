"""Annotation files of every kind: JSON, pickles, tables, and the media they name."""

import csv
import json
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.entries import caption_of, one_of, text_of, usable
from mplug2_jax.data.examples import QA, Example
from mplug2_jax.data.sources import SUFFIXES

csv.field_size_limit(1 << 24)

QA_FILES = {"train": "train", "validation": "val", "test": "test"}
KARPATHY = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


def find(root: Path, *names: str) -> Path:
    """The first of the names that exists under `root`.

    Raises:
      FileNotFoundError: none does.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(
        f"{root} has no {' or '.join(names)}; see `mplug2 prepare --help` for the "
        "files that the data set needs."
    )


def read_json(path: Path, key: str = "") -> Any:
    """The content of a JSON file, or the list that it has under `key`.

    Raises:
      ValueError: it is damaged, or has no such list.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch it again.") from error
    if not key:
        return content
    its = content.get(key) if isinstance(content, dict) else None
    if not isinstance(its, list):
        raise ValueError(f"{path} has no list of {key}; fetch it again.")
    return its


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, blank ones included."""
    return path.read_text("utf-8", "replace").split("\n")


class _PlainUnpickler(pickle.Unpickler):
    """Makes lists, dictionaries, texts and numbers; nothing that could run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module_name}.{global_name}")


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle of lists, dictionaries, texts and numbers, of any Python.

    Raises:
      ValueError: it is damaged, or holds anything else, of which nothing is made.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8").load()
    except OSError:
        raise
    except Exception as error:  # damaged pickles raise errors of every kind
        raise ValueError(
            f"{path} is not a pickle of plain values ({error}); fetch it again."
        ) from error


def read_table(
    path: Path, columns: Sequence[str], delimiter: str = ","
) -> list[dict[str, str]]:
    """Rows of a table with a header that names the columns, and perhaps more.

    Raises:
      ValueError: it does not, or the table is damaged.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter)
            check_header(path, rows.fieldnames or (), columns, delimiter)
            return list(rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table ({error}); fetch it again.") from error


def check_header(
    path: Path, found: Sequence[str], columns: Sequence[str], delimiter: str
) -> None:
    """Raises a ValueError if a table's header lacks some of the columns."""
    if missing := [name for name in columns if name not in found]:
        raise ValueError(
            f"{path} begins with {delimiter.join(found)[:60]!r}; expected a header "
            f"that names the columns {', '.join(columns)} with {delimiter!r} between, "
            f"and there is no {missing[0]}."
        )


class MediaFolders:
    """Finds media by name in folders whose content is listed once.

    Args:
      root: where the folders are.
      folders: those that exist are searched, in order.
      suffixes: tried after the name itself.
    """

    def __init__(self, root: Path, *folders: str, suffixes: Sequence[str] = SUFFIXES):
        self.suffixes = ("", *suffixes)
        self._names = {
            root / folder: {file.name for file in (root / folder).iterdir()}
            for folder in folders
            if (root / folder).is_dir()
        }

    def __call__(self, name: str) -> Path:
        """The file; where there is none, the place where it was expected first."""
        for folder, names in self._names.items():
            for suffix in self.suffixes:
                if name + suffix in names:
                    return folder / (name + suffix)
        return next(iter(self._names), Path()) / (name + self.suffixes[1])


def asked(
    file: Path,
    records: Iterable[Any],
    name: str,
    media: Callable[[str], Path],
    id_: str = "id",
    within: str = "",
) -> list[Example]:
    """Records with `question`, `answer` and perhaps `kind`, grouped by their medium.

    Args:
      file: they are of, as in `usable`; so is `within`.
      name: of the medium, made of a record: "video{video_id}".
      media: its file.
      id_: which value is the question's own.
    """
    grouped: dict[str, tuple[QA, ...]] = defaultdict(tuple)

    def parse(*parts: Any) -> tuple[str, QA]:
        record = parts[-1]
        question, answers = text_of(record, "question"), (text_of(record, "answer"),)
        own = None if record.get(id_) is None else str(record[id_])
        qa = QA(question, answers, (1.0,), record.get("kind") or None, own)
        return name.format_map(record), qa

    for medium, qa in usable(file, records, parse, within=within):
        grouped[medium] += (qa,)
    return [Example(n, media(n), questions=qas) for n, qas in grouped.items()]


def questions_of(
    manual: Path, name: str, media: Callable[[str], Path]
) -> dict[str, list[Example]]:
    """The splits of MSRVTT-QA and MSVD-QA, whose files look alike; see `asked`."""
    files = {s: find(manual, f"{short}_qa.json") for s, short in QA_FILES.items()}
    return {s: asked(file, read_json(file), name, media) for s, file in files.items()}


def karpathy_splits(
    file: Path, medium: Callable[[Any], tuple[str, Path]]
) -> dict[str, list[Example]]:
    """The splits of Karpathy's files for COCO and Flickr30k, which look alike.

    Args:
      medium: id and file of an image.
    """
    captions: dict[tuple[str, str, Path], tuple[str, ...]] = defaultdict(tuple)

    def parse(image: Any, sentence: Any) -> tuple[tuple[str, str, Path], str]:
        split = KARPATHY[one_of(image, "split", KARPATHY)]
        return (split, *medium(image)), caption_of(sentence, "raw")

    images = read_json(file, "images")
    for key, caption in usable(file, images, parse, "image", within="sentences"):
        captions[key] += (caption,)
    splits: dict[str, list[Example]] = defaultdict(list)
    for (split, id_, path), its in captions.items():
        splits[split].append(Example(id_, path, its))
    return splits
