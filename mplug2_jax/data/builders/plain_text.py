"""Plain text: files of one passage a line, as WikiCorpus and Common Crawl come."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mplug2_jax.data.builders.declaration import Content, Counts, Dataset, Split

MIN_WORDS = 5  # headings and list items say little
PASSAGE = 1024  # bytes, about; a shard takes as many of them as it has items


def _splits(manual: Path) -> dict[str, Content]:
    files = {
        split: sorted(manual.glob(f"{split}*.txt")) for split in ("train", "validation")
    }
    if not any(files.values()):
        raise FileNotFoundError(f"{manual} has no train*.txt; put the texts there.")
    return {split: partial(_split, its) for split, its in files.items() if its}


def _split(files: list[Path], shard_size: int) -> Split:
    shards = [
        partial(_lines, path, start, end)
        for path in files
        for start, end in _stretches(path, shard_size * PASSAGE)
    ]
    return Split(shards, Counts(None, 0, 0))


def _stretches(path: Path, least: int) -> Iterator[tuple[int, int]]:
    """Stretches of a file of so many bytes at least that end with a line."""
    start, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while start < size:
            file.seek(min(start + least, size))
            file.readline()
            yield start, file.tell()
            start = file.tell()


def _lines(path: Path, start: int, end: int) -> Iterator[tuple[str, str]]:
    with path.open("rb") as file:
        file.seek(start)
        while file.tell() < end:
            place, line = file.tell(), file.readline().decode("utf-8", "replace")
            if len(line.split()) >= MIN_WORDS:
                yield f"{path.name}@{place}", line.strip()


DATASETS = (Dataset("plain_text", "text", _splits, "train*.txt (and validation*.txt)"),)
