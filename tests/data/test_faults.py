"""Items that fail or hang: replaced by the next, counted, an error above the share."""

import os
import pickle
import sys
import threading
import time

import numpy as np
import pytest

from mplug2_jax.data.faults import (
    NICE,
    SAMPLE,
    Faults,
    Tolerant,
    TooManyFaultsError,
    within,
)


def rng():
    return np.random.Generator(np.random.Philox(7))


def tolerant(bad, total=10, share=0.5, timeout=5.0):
    def load(item, stream):
        if item in bad:
            stream.random(item + 1)  # a fault may come after numbers were drawn
            raise OSError(f"no item {item}")
        return item, stream.random()

    faults = Faults("letters", total, share)
    return Tolerant(range(total), load, faults, timeout), faults


def test_the_next_item_takes_the_place_and_draws_the_same_numbers():
    load, faults = tolerant({3, 4, 9})
    expected = rng().random()
    assert load(2, rng()) == (2, expected)
    assert load(3, rng()) == (5, expected)
    assert load(9, rng()) == (0, expected)
    assert sorted(faults.bad) == [3, 4, 9] and "no item 3" in faults.bad[3]


def test_a_bad_item_is_tried_once():
    tries = []

    def load(item, stream):
        tries.append(item)
        if item == 1:
            raise ValueError("broken")
        return item

    call = Tolerant(range(3), load, Faults("x", 3, 0.5), 5.0)
    assert [call(1, rng()) for _ in range(3)] == [2, 2, 2]
    assert tries == [1, 2, 2, 2]


def test_above_the_share_is_an_error_that_names_the_last_file():
    load, _ = tolerant({3, 4}, share=0.1)
    with pytest.raises(
        TooManyFaultsError, match=r"2 of 10 items of letters.*no item 4"
    ):
        load(3, rng())
    load, _ = tolerant(set(range(10)), share=1.0)
    with pytest.raises(TooManyFaultsError, match="None of the 10 items"):
        load(0, rng())


def test_a_large_set_is_judged_by_what_was_tried():
    faults = Faults("web", 10**9, 0.01)
    allowed = int(0.01 * SAMPLE)
    for place in range(allowed):
        faults.failed(place, "gone")
    with pytest.raises(TooManyFaultsError, match=f"{allowed + 1} of {SAMPLE}"):
        faults.failed(allowed, "gone")
    faults = Faults("web", 10**9, 0.01)
    for _ in range(200 * allowed):
        faults.succeeded()
    for place in range(2 * allowed):
        faults.failed(place, "gone")


def test_copies_tell_their_news_to_one_that_limits_them_all(caplog):
    faults = Faults("x", 10, 0.2)
    workers = [pickle.loads(pickle.dumps(faults)) for _ in range(2)]
    for worker, places in zip(workers, ([3, 4], [4, 5]), strict=True):
        worker.succeeded()
        for place in places:  # alone, each is within the limit
            worker.failed(place, f"no {place}")
    assert not caplog.records
    faults.learn(workers[0].news())
    faults.learn(workers[0].news())
    assert faults.tried == 3 and sorted(faults.bad) == [3, 4]
    with pytest.raises(TooManyFaultsError, match="3 of 10 items of x .*no 5"):
        faults.learn(workers[1].news())
    assert [record.args[3] for record in caplog.records] == ["no 3", "no 4", "no 5"]


def test_errors_of_the_program_are_raised():
    def load(item, stream):
        raise TypeError("ours")

    with pytest.raises(TypeError, match="ours"):
        Tolerant(range(3), load, Faults("x", 3, 0.9), 5.0)(0, rng())


def test_an_item_that_hangs_is_left_behind():
    hangs = threading.Event()

    def load(item, stream):
        if item == 0:
            hangs.wait(30)
        return item

    faults = Faults("videos", 4, 0.5)
    call = Tolerant(range(4), load, faults, 0.1)
    start = time.monotonic()
    assert [call(0, rng()) for _ in range(5)] == [1] * 5
    assert time.monotonic() - start < 5
    assert "longer than 0.1 s" in faults.bad[0]
    hangs.set()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no own priority")
def test_reading_gives_way_to_the_step():
    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    assert within(5, priority) == max(before, NICE)
    assert priority() == before


def test_within_gives_results_and_errors():
    assert within(5, lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(KeyError):
        within(5, {}.__getitem__, "x")
