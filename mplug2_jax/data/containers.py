"""Is a media file complete? What its container's own sizes say, without decoding.

Decoders take a file that was cut off for a shorter one; the sizes at the container's
top level tell the two apart.
"""

import os
from pathlib import Path
from typing import BinaryIO

from mplug2_jax.data.files import StoredFile, open_file, size_of

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
BOXES = set(
    b"ftyp moov mdat free skip wide moof mfra sidx styp uuid meta pnot udta".split()
)


def missing_bytes(path: str | os.PathLike | StoredFile) -> int:
    """How many bytes, at least, an MP4, AVI, Matroska/WebM or GIF file lacks.

    0 for whole files, other formats, and files that do not state their size.
    """
    media = path if isinstance(path, StoredFile) else Path(path)
    total = size_of(media)
    with open_file(media) as file:
        head = file.read(12)
        if head[4:8] in BOXES:
            needed = _end_of_boxes(file, total)
        elif head[:4] == b"RIFF":
            needed = _end_of_riff(file, total)
        elif head[:4] == EBML:
            needed = _end_of_segment(file)
        elif head[:3] == b"GIF":
            needed = _end_of_gif(file)
        else:
            needed = 0
    return max(0, needed - total)


def _end_of_boxes(file: BinaryIO, total: int) -> int:
    """End of the last top-level box of an MP4 (ISO 14496-12)."""
    at = 0
    while at < total:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if head[4:8] not in BOXES or size < 8:  # 0: up to the end of the file
            return 0
        at += size
    return at


def _end_of_riff(file: BinaryIO, total: int) -> int:
    """End of the last RIFF chunk; long AVI files have several."""
    at = 0
    while at < total:
        file.seek(at)
        head = file.read(8)
        size = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or size in (0, 0xFFFFFFFF):  # sizes never filled in
            return 0
        at += 8 + size
    return at


def _end_of_segment(file: BinaryIO) -> int:
    """End of the segment of a Matroska file, which holds everything (RFC 9559)."""
    file.seek(len(EBML))
    header = _vint(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != SEGMENT:
        return 0
    size = _vint(file)
    return 0 if size is None else file.tell() + size


def _vint(file: BinaryIO) -> int | None:
    """A variable-length size (RFC 8794, 4); None for "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    bits = 7 * length
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value


def _end_of_gif(file: BinaryIO) -> int:
    """End of the last block of a GIF89a file, and of its trailer."""
    file.seek(0)
    data = file.read()
    at = 13 + _table(data[10:11])
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x21:  # extension: introducer, label, sub-blocks
            at += 2
        elif data[at] == 0x2C:  # image: descriptor, colours, code size, sub-blocks
            at += 11 + _table(data[at + 9 : at + 10])
        else:
            return 0
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return at + 1


def _table(flags: bytes) -> int:
    """Bytes of a colour table, from the flags in front of it."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0
