"""Splits too large to hold: shards are stretches of tables, tar files, loose files."""

import csv
import io
import itertools
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from absl import logging

from mplug2_jax.data.builders.declaration import Counts, Split
from mplug2_jax.data.builders.entries import BAD, usable
from mplug2_jax.data.builders.reading import check_header
from mplug2_jax.data.examples import Example
from mplug2_jax.data.files import MediaFile, StoredFile
from mplug2_jax.data.sources import SUFFIXES
from mplug2_jax.data.text import clean_caption

TAR_END = bytes(1024)  # two empty blocks
Row = dict[str, str]


def table_split(
    path: Path,
    parse: Callable[[Row], Example],
    delimiter: str,
    columns: Sequence[str],
    has_header: bool,
    shard_size: int,
) -> Split:
    """The split of a table: shards are stretches of its bytes.

    Every row is looked at here, so that bad ones are counted over the whole table.

    Args:
      parse: a row to an example, as in `usable`.
      columns: all of a table without a header; those that a header must have.

    Raises:
      ValueError: the header lacks some of them, or too many rows are bad.
    """
    with path.open("rb") as file:
        if has_header:
            head = file.readline().decode("utf-8-sig", "replace")
            found = next(csv.reader([head], delimiter=delimiter), [])
            check_header(path, found, columns, delimiter)
            columns = found
        stretches = _stretches(file, shard_size, quoted=delimiter == ",")
    read = partial(_read_stretch, path, tuple(columns), delimiter)
    rows = itertools.chain.from_iterable(read(*stretch) for stretch in stretches)
    name = "row" if has_header else "line"
    good = usable(path, rows, lambda row: parse(row) if row else None, name)
    count = sum(1 for _ in good)
    shards = [partial(_parsed, parse, partial(read, *stretch)) for stretch in stretches]
    return Split(shards, Counts(count, count, 0))


def _stretches(file, rows_each: int, quoted: bool) -> list[tuple[int, int]]:
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
    return list(zip(bounds, bounds[1:], strict=False))


def _read_stretch(
    path: Path, columns: Sequence[str], delimiter: str, start: int, end: int
) -> Iterator[Row]:
    """Rows of a stretch; one that is short lacks the last columns, a blank one all."""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read(end - start).decode("utf-8", "replace")
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    lines = io.StringIO(text, newline="")
    for row in csv.reader(lines, delimiter=delimiter, quoting=quoting):
        yield dict(zip(columns, row, strict=False))


def _parsed(
    parse: Callable[[Row], Example], rows: Callable[[], Iterable[Row]]
) -> Iterator[Example]:
    """The good rows; the others have been named."""
    for row in rows():
        try:
            example = parse(row)
        except BAD:
            continue
        yield example


def tar_split(tars: Sequence[Path]) -> Callable[[int], Split]:
    """Tar files with `KEY.jpg` (or .mp4, ...) beside `KEY.txt`, each a shard.

    Raises:
      ValueError: too many of them are cut off; of few, what is left is read.
    """
    whole = set(usable(tars[0].parent, tars, _whole, "shard"))
    shards = [partial(_read_tar, tar, tar in whole) for tar in tars]
    split = Split(shards, Counts(questions=0))
    return lambda shard_size: split


def _whole(tar: Path) -> Path:
    with tar.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - len(TAR_END), 0))
        if file.read() != TAR_END:
            raise ValueError(f"{tar.name} is cut off, its end is missing")
    return tar


def _read_tar(path: Path, whole: bool) -> Iterator[Example]:
    """The pairs of a tar file; of one that is cut off, as many as are left.

    Raises:
      ValueError: it is damaged in another way.
    """
    listed = taken = 0
    try:
        for key, media, caption in _members(path):
            listed += 1
            if pair := _pair(f"{path.stem}/{key}", media, caption):
                taken += 1
                yield pair
    except tarfile.TarError as error:
        if whole:
            raise ValueError(f"{path} is damaged ({error}); fetch it again.") from error
    if not whole or taken < listed:
        logging.warning("%s: %d of %d pairs are taken", path, taken, listed)


def _members(path: Path) -> Iterator[tuple[str, MediaFile | None, str]]:
    """Key, medium and text of the members of each key, which follow on each other."""
    key, media, caption = "", None, ""
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.isfile():
                continue
            name = PurePosixPath(member.name)
            if (own := str(name.with_suffix(""))) != key:
                if key:
                    yield key, media, caption
                key, media, caption = own, None, ""
            content = tar.extractfile(member)
            if content is None:
                continue
            if name.suffix == ".txt":
                caption = content.read().decode("utf-8", "replace").strip()
            elif name.suffix.lower() in SUFFIXES:
                media = StoredFile(name.name, content.read())
    if key:
        yield key, media, caption


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
        media = next((f for f in files if f.exists()), None)
        key = text.relative_to(folder).with_suffix("").as_posix()
        if pair := _pair(key, media, text.read_text("utf-8", "replace").strip()):
            yield pair


def _pair(key: str, media: MediaFile | None, caption: str) -> Example | None:
    """A medium and its text; links die, so what lacks one of them is left out."""
    if media is not None and clean_caption(caption):
        return Example(key, media, (caption,))
    logging.warning("left out, no %s: %s", "text" if media else "file", key)
    return None
