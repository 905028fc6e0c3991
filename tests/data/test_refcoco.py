"""RefCOCO's files where something is wrong with them, and pickles of all kinds."""

import pickle

import pytest
from layouts import PLACES, UNC, refcoco_files, write

from mplug2_jax.data.builders import DATASETS
from mplug2_jax.data.builders.reading import read_plain_pickle


def splits(folder, places=PLACES, order=tuple(UNC)):
    write(folder, refcoco_files("refcoco", "unc", order, places))
    return DATASETS["refcoco"].splits(folder, {})


def test_images_are_found_where_coco_is_unpacked(tmp_path):
    whole = splits(tmp_path)
    assert list(whole) == ["train", "validation", "testA", "testB"]
    assert [split.counts.regions for split in whole.values()] == [3] * 4
    (tmp_path / "images" / "mscoco" / "images").mkdir(parents=True)
    (tmp_path / "train2014").rename(tmp_path / "images/mscoco/images/train2014")
    assert not DATASETS["refcoco"].splits(tmp_path, {})["train"].missing


def test_published_counts_are_asserted(tmp_path):
    splits(tmp_path)
    its = DATASETS["refcoco"]
    with pytest.raises(ValueError, match="train: 1 media found, 16994 expected"):
        its.splits(tmp_path, its.counts)
    regions = {
        name: sum(its.regions for its in DATASETS[name].counts.values())
        for name in ("refcoco", "refcoco_plus", "refcocog")
    }
    assert regions == {"refcoco": 142210, "refcoco_plus": 141564, "refcocog": 95010}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ([0, 0, 10, 2], "is not inside the image, in pixels of 8 x 8"),
        ([3, 3, 0, 2], "is not inside the image"),
        ([-2, 0, 4, 4], "is not inside the image"),
        ([float("nan"), 0, 4, 4], "must be"),
    ],
)
def test_boxes_outside_or_without_area_are_named(tmp_path, place, message):
    with pytest.raises(ValueError, match=f"object 2: .*{message}.* .4 of 12 are bad"):
        splits(tmp_path, {**PLACES, "b": place})


def test_objects_that_are_not_whole_are_named(tmp_path):
    with pytest.raises(ValueError, match="lacks image 0 or object 0 b"):
        splits(tmp_path, {"a": PLACES["a"]})
    with pytest.raises(ValueError, match="split is 'dev'; expected one of train"):
        splits(tmp_path, order=("train", "dev"))
    file = tmp_path / "refcoco" / "refs(unc).p"
    file.write_bytes(pickle.dumps([{"sentences": [{}]}]))
    with pytest.raises(ValueError, match="object 1: there is no split"):
        DATASETS["refcoco"].splits(tmp_path, {})
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no refcoco/refs\(unc\).p or refs"):
        DATASETS["refcoco"].splits(tmp_path, {})


def test_python_2_s_pickles_are_read(tmp_path):
    """Byte strings, Unicode and long integers, as its first protocol writes them."""
    file = tmp_path / "refs(unc).p"
    file.write_bytes(
        b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsS'sent_id'\np4\nL7L\n"
        b"sS'raw'\np5\nVred\np6\nsa."
    )
    assert read_plain_pickle(file) == [
        {"sent": "caf\u00e9", "sent_id": 7, "raw": "red"}
    ]


def test_a_pickle_cannot_run_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path / "made").touch, ()

    file = tmp_path / "refs(unc).p"
    file.write_bytes(pickle.dumps([Harmful()]))
    with pytest.raises(ValueError, match="not a pickle of plain values .it wants"):
        read_plain_pickle(file)
    assert not (tmp_path / "made").exists()
    file.write_bytes(pickle.dumps(["a", "b"])[:-3])
    with pytest.raises(ValueError, match="not a pickle of plain values"):
        read_plain_pickle(file)
    with pytest.raises(FileNotFoundError):
        read_plain_pickle(tmp_path / "none.p")
