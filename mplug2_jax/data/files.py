"""Media files: on a disk, or as bytes out of a record of a prepared data set."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO


class MediaError(ValueError):
    """A media file that cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class StoredFile:
    """A media file in memory; equal to another if their names are."""

    name: str
    data: bytes = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.name


MediaFile = Path | StoredFile


def local_path(path: str | os.PathLike, advice: str) -> Path:
    """The path, which must be one of this machine.

    Raises:
      ValueError: it is an address, such as gs://bucket/folder; with the advice.
    """
    if "://" in os.fspath(path):
        raise ValueError(f"{path} is in a bucket, not on this machine; {advice}")
    return Path(path)


def open_file(file: MediaFile) -> BinaryIO:
    """The file for reading, at its start."""
    if isinstance(file, StoredFile):
        return io.BytesIO(file.data)
    return file.open("rb")


def as_source(file: MediaFile) -> str | BinaryIO:
    """What decoders open: the path, or the bytes as a file."""
    return open_file(file) if isinstance(file, StoredFile) else str(file)


def size_of(file: MediaFile) -> int:
    """Bytes of the file."""
    return len(file.data) if isinstance(file, StoredFile) else file.stat().st_size


def suffix_of(file: MediaFile) -> str:
    """The extension in lower case, with its dot."""
    return os.path.splitext(str(file))[1].lower()


def check_file(file: str | os.PathLike | StoredFile) -> MediaFile:
    """A file that exists and is not empty.

    Raises:
      FileNotFoundError: there is nothing.
      MediaError: it is empty or a directory.
    """
    if not isinstance(file, StoredFile):
        file = local_path(file, "mount the bucket, or copy the file here")
        if file.is_dir():
            raise MediaError(f"{file} is a directory: name a video or an image file")
    if size_of(file) == 0:
        raise MediaError(f"{file} is empty (0 bytes): fetch it again or remove it")
    return file
