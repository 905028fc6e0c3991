"""Annotation files of every kind: JSON, tables, shards of tables, tar files."""

import csv
import io
import json
import pickle
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Split
from mplug2_jax.data.examples import QA, Example
from mplug2_jax.data.files import MediaFile, StoredFile
from mplug2_jax.data.sources import SUFFIXES

csv.field_size_limit(1 << 24)

QA_FILES = {"train": "train", "validation": "val", "test": "test"}


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


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
      ValueError: it is damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch it again.") from error


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


def read_table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """Rows of a table with a header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


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
    records: Iterable[Mapping[str, Any]],
    name: str,
    media: Callable[[str], Path],
    id_: str = "id",
) -> list[Example]:
    """Records with `question`, `answer` and perhaps `kind`, grouped by their medium.

    Args:
      name: of the medium, made of a record: "video{video_id}".
      media: its file.
      id_: which value is the question's own.
    """
    grouped: dict[str, tuple[QA, ...]] = defaultdict(tuple)
    for record in records:
        own = None if record.get(id_) is None else str(record[id_])
        answers, kind = (str(record["answer"]),), record.get("kind") or None
        qa = QA(record["question"], answers, (1.0,), kind, own)
        grouped[name.format_map(record)] += (qa,)
    return [Example(n, media(n), questions=qas) for n, qas in grouped.items()]


def questions_of(
    manual: Path, name: str, media: Callable[[str], Path]
) -> dict[str, list[Example]]:
    """The splits of MSRVTT-QA and MSVD-QA, whose files look alike; see `asked`."""
    return {
        split: asked(read_json(find(manual, f"{short}_qa.json")), name, media)
        for split, short in QA_FILES.items()
    }


def table_split(
    path: Path,
    parse: Callable[[dict[str, str]], Example | None],
    delimiter: str,
    columns: Sequence[str],
    has_header: bool,
    shard_size: int,
) -> Split:
    """The split of a table too large to hold: shards are stretches of its bytes.

    Args:
      parse: a row to an example; None leaves it out.
      columns: all of a table without a header; those that a header must have.

    Raises:
      ValueError: the header lacks some of them.
    """
    quoted = delimiter == ","
    with path.open("rb") as file:
        if has_header:
            head = file.readline().decode("utf-8-sig")
            found = next(csv.reader([head], delimiter=delimiter), [])
            if missing := [name for name in columns if name not in found]:
                raise ValueError(
                    f"{path} begins with {head.strip()[:60]!r}; expected a header that "
                    f"names the columns {', '.join(columns)}, and there is no "
                    f"{missing[0]}."
                )
            columns = found
        stretches, rows = _stretches(file, shard_size, quoted)
    read = partial(_read_stretch, path, parse, tuple(columns), delimiter)
    shards = [partial(read, start, end) for start, end in stretches]
    return Split(shards, Counts(rows, rows, 0))


def _stretches(file, rows_each: int, quoted: bool) -> tuple[list[tuple[int, int]], int]:
    """Where every `rows_each` rows begin and end; quotes may hold line breaks."""
    bounds, rows, open_quote = [file.tell()], 0, False
    for line in iter(file.readline, b""):
        if quoted and line.count(b'"') % 2:
            open_quote = not open_quote
        if not open_quote and line.strip():
            rows += 1
            if rows % rows_each == 0:
                bounds.append(file.tell())
    if bounds[-1] != file.tell():
        bounds.append(file.tell())
    return list(zip(bounds, bounds[1:], strict=False)), rows


def _read_stretch(
    path: Path, parse, columns: Sequence[str], delimiter: str, start: int, end: int
) -> Iterator[Example]:
    with path.open("rb") as file:
        file.seek(start)
        text = file.read(end - start).decode("utf-8", "replace")
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    for row in csv.reader(lines, delimiter=delimiter, quoting=quoting):
        if row:
            example = parse(dict(zip(columns, row, strict=False)))
            if example is not None:
                yield example


def tar_split(tars: Sequence[Path]) -> Callable[[int], Split]:
    """Tar files with `KEY.jpg` (or .mp4, ...) beside `KEY.txt`, each a shard."""
    split = Split([partial(_read_tar, tar) for tar in tars], Counts(questions=0))
    return lambda shard_size: split


def folder_split(folder: Path, shard_size: int) -> Split:
    """The split of loose files `KEY.jpg` beside `KEY.txt`, in folders of any depth."""
    texts = sorted(folder.rglob("*.txt"))
    shards = [
        partial(_read_pairs, folder, tuple(texts[start : start + shard_size]))
        for start in range(0, len(texts), shard_size)
    ]
    return Split(shards, Counts(len(texts), len(texts), 0))


def _read_pairs(folder: Path, texts: Sequence[Path]) -> Iterator[Example]:
    for text in texts:
        files = (text.with_suffix(suffix) for suffix in SUFFIXES)
        media = next((f for f in files if f.exists()), text.with_suffix(SUFFIXES[0]))
        key = text.relative_to(folder).with_suffix("").as_posix()
        if caption := text.read_text("utf-8", "replace").strip():
            yield Example(key, media, (caption,))


def _read_tar(path: Path) -> Iterator[Example]:
    """Pairs of a tar file, whose members of one key follow on each other."""
    key, media, caption = "", None, ""
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.isfile():
                continue
            name = PurePosixPath(member.name)
            if (own := str(name.with_suffix(""))) != key:
                yield from _pair(path, key, media, caption)
                key, media, caption = own, None, ""
            content = tar.extractfile(member)
            if content is None:
                continue
            if name.suffix == ".txt":
                caption = content.read().decode("utf-8", "replace").strip()
            elif name.suffix.lower() in SUFFIXES:
                media = StoredFile(name.name, content.read())
    yield from _pair(path, key, media, caption)


def _pair(
    tar: Path, key: str, media: MediaFile | None, caption: str
) -> Iterator[Example]:
    if media is not None and caption:
        yield Example(f"{tar.stem}/{key}", media, (caption,))
