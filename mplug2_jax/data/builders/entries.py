"""Entries of annotation files: every builder reads what a file lists through `usable`.

An entry that is malformed, empty, or of something unknown is named with its file and
number and left out; too many of them are an error.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from absl import logging

from mplug2_jax.data.text import clean_caption

T = TypeVar("T")
MAX_BAD_SHARE = 0.01  # of the entries of a file
# What functions raise that meet an entry unlike the others.
BAD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def usable(
    file: Path,
    entries: Iterable[Any],
    parse: Callable[..., T | None],
    name: str = "entry",
    within: str = "",
) -> Iterator[T]:
    """What `parse` makes of the entries of a file; bad ones are logged and left out.

    Args:
      file: for messages, with `name` and an entry's number, from 1 on.
      parse: may raise what is in `BAD`; None is no entry, such as a blank line.
      within: key of a list in each entry; `parse` gets the entry and one of its list,
        or None where there is no such list.

    Raises:
      ValueError: more than `MAX_BAD_SHARE` of them are bad; the first is named.
    """
    if not isinstance(entries, Iterable):
        raise ValueError(f"{file} holds {entries!r}; expected a list: fetch it again.")
    good, bad = 0, []
    for number, entry in enumerate(entries, 1):
        for parts in _parts(entry, within):
            try:
                found = parse(*parts)
            except BAD as error:
                bad.append(f"{file}, {name} {number}: {_reason(error)}")
                continue
            if found is not None:
                good += 1
                yield found
    total = good + len(bad)
    if len(bad) > MAX_BAD_SHARE * total:
        raise ValueError(
            f"{bad[0]} ({len(bad)} of {total} are bad, at most {MAX_BAD_SHARE:.0%} may "
            "be); mend the file, or fetch it again."
        )
    for message in bad:
        logging.warning("left out: %s", message)


def _parts(entry: Any, within: str) -> Iterable[tuple]:
    if not within:
        return ((entry,),)
    its = entry.get(within) if isinstance(entry, Mapping) else None
    return ((entry, part) for part in (its if isinstance(its, list) else (None,)))


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]}"
    if isinstance(error, ValueError):
        return str(error)
    return f"it is unlike the others ({error})"


def text_of(record: Any, key: str) -> str:
    """What an entry says under `key`, stripped; of a whole number its digits.

    Raises:
      ValueError: it says nothing there.
    """
    value = record.get(key) if isinstance(record, Mapping) else None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"there is no {key} (found {value!r})")
    return value.strip()


def caption_of(record: Any, key: str) -> str:
    """What an entry says under `key`, of which cleaning leaves something.

    Raises:
      ValueError: it says nothing there, or has no words.
    """
    value = text_of(record, key)
    if not clean_caption(value):
        raise ValueError(f"{key} has no words (found {value!r})")
    return value


def one_of(record: Any, key: str, known: Collection[str]) -> str:
    """What an entry says under `key`, which must be known.

    Raises:
      ValueError: it is not.
    """
    if (value := text_of(record, key)) not in known:
        raise ValueError(f"{key} is {value!r}; expected one of {', '.join(known)}")
    return value


def by_id(file: Path, records: Iterable[Any], key: str = "id") -> dict[str, Any]:
    """The records of a file by what each has under `key`."""
    return dict(usable(file, records, lambda record: (text_of(record, key), record)))
