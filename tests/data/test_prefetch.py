"""Reading ahead: order, bounds, errors, and an end that waits for nothing."""

import threading
import time

import pytest

from mplug2_jax.data.prefetch import batched, read_ahead


def test_results_come_in_order_whatever_takes_longer():
    def read(item):
        time.sleep(0.02 * (item % 3 == 0))
        return 10 * item

    with read_ahead(read, range(12), ahead=4, workers=4) as found:
        assert list(found) == [(item, 10 * item) for item in range(12)]


def test_no_more_is_read_than_asked_for():
    started = []
    with read_ahead(started.append, range(100), ahead=3, workers=1) as found:
        next(found)
        time.sleep(0.05)
        assert len(started) <= 5
    assert len(started) <= 5


def test_errors_of_files_are_results_and_others_are_raised():
    def read(item):
        if item == 1:
            raise ValueError("broken")
        if item == 3:
            raise TypeError("ours")
        return item

    with read_ahead(read, range(4)) as found:
        assert next(found) == (0, 0)
        item, error = next(found)
        assert item == 1 and str(error) == "broken"
        assert next(found) == (2, 2)
        with pytest.raises(TypeError, match="ours"):
            next(found)


def test_leaving_early_ends_the_threads():
    before = threading.active_count()
    with (
        pytest.raises(KeyError),
        read_ahead(time.sleep, [0.01] * 50, ahead=20, workers=4) as found,
    ):
        next(found)
        raise KeyError
    assert threading.active_count() == before


def test_batched():
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 3)) == []
