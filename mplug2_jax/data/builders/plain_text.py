"""Plain text: files of one passage a line, as WikiCorpus and Common Crawl come."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mplug2_jax.data.builders.declaration import SHARD_SIZES, Counts, Dataset, Split

MIN_WORDS = 5  # headings and list items say little
SPLITS = ("train", "validation")


def _splits(manual: Path, _) -> dict[str, Split]:
    files = {split: sorted(manual.glob(f"{split}*.txt")) for split in SPLITS}
    splits = {
        split: Split([s for path in its for s in _shards(path)], Counts(None, 0, 0))
        for split, its in files.items()
        if its
    }
    if not splits:
        raise FileNotFoundError(f"{manual} has no train*.txt; put the texts there.")
    return splits


def _shards(path: Path) -> list:
    """Stretches of a file that end with a line."""
    size, bounds = path.stat().st_size, [0]
    with path.open("rb") as file:
        while bounds[-1] < size:
            file.seek(min(bounds[-1] + SHARD_SIZES["text"] * 1024, size))
            file.readline()
            bounds.append(file.tell())
    return [
        partial(_lines, path, a, b) for a, b in zip(bounds, bounds[1:], strict=False)
    ]


def _lines(path: Path, start: int, end: int) -> Iterator[tuple[str, str]]:
    with path.open("rb") as file:
        file.seek(start)
        while file.tell() < end:
            place, line = file.tell(), file.readline().decode("utf-8", "replace")
            if len(line.split()) >= MIN_WORDS:
                yield f"{path.name}@{place}", line.strip()


DATASETS = (Dataset("plain_text", "text", _splits, "train*.txt (and validation*.txt)"),)
