"""Entries of annotation files: named, left out, an error above the share."""

import logging
from pathlib import Path

import pytest

from mplug2_jax.data.builders.entries import (
    by_id,
    caption_of,
    one_of,
    text_of,
    usable,
)

FILE = Path("a/list.json")


def word(entry):
    return text_of(entry, "word")


def test_few_bad_entries_are_named_and_left_out(caplog):
    entries = [{"word": f" w{i} "} for i in range(99)] + [{"word": " "}]
    with caplog.at_level(logging.WARNING):
        assert list(usable(FILE, entries, word)) == [f"w{i}" for i in range(99)]
    bad = "there is no word (found ' ')"
    assert caplog.messages == [f"left out: a/list.json, entry 100: {bad}"]
    with pytest.raises(ValueError) as raised:
        list(usable(FILE, entries[1:], word))
    assert f"entry 99: {bad} (1 of 99 are bad, at most 1% may" in str(raised.value)


@pytest.mark.parametrize(
    ("parse", "entry", "message"),
    [
        (word, {"word": None}, "there is no word .found None"),
        (word, ["word"], "there is no word"),
        (lambda entry: caption_of(entry, "a"), {"a": " "}, "there is no a .found ' '"),
        (lambda entry: caption_of(entry, "a"), {"a": "..."}, "a has no words .found"),
        (lambda entry: entry["x"], {}, "there is no x"),
        (lambda entry: entry + 1, {}, "it is unlike the others .unsupported"),
        (lambda entry: int(float(entry)), "inf", "it is unlike the others"),
        (
            lambda entry: one_of(entry, "a", "bc"),
            {"a": 1},
            "a is '1'; expected .* b, c",
        ),
    ],
)
def test_whatever_is_wrong_is_said_with_file_and_number(parse, entry, message):
    with pytest.raises(ValueError, match=f"a/list.json, line 2: {message}"):
        list(usable(FILE, ["", entry], lambda e: parse(e) if e != "" else None, "line"))


def test_parts_of_entries_are_entries():
    lists = [{"its": [1, 2]}, {"its": []}, {"its": [3]}]
    found = usable(FILE, lists, lambda entry, part: part, within="its")
    assert list(found) == [1, 2, 3]
    for unlike in (None, {}, {"its": "x"}):
        parse = lambda entry, part: part + 1  # noqa: E731
        with pytest.raises(ValueError, match="entry 1: .* .1 of 1 are bad"):
            list(usable(FILE, [unlike], parse, within="its"))


def test_records_are_found_by_their_ids_as_text():
    assert by_id(FILE, [{"id": 7}, {"id": "b"}]) == {"7": {"id": 7}, "b": {"id": "b"}}
    with pytest.raises(ValueError, match="list.json holds 5; expected a list"):
        by_id(FILE, 5)  # type: ignore
