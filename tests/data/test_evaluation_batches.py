"""Windows of evaluation: each example once, equally many steps, padding masked."""

import json

import pytest

from mplug2_jax.data.evaluation_batches import gather_by_id, merged, windows


@pytest.mark.parametrize("count,size,processes", [(10, 4, 1), (10, 4, 2), (3, 2, 4)])
def test_every_example_is_in_one_row_of_one_process(count, size, processes):
    shares = [windows(count, size, i, processes) for i in range(processes)]
    assert len({len(share) for share in shares}) == 1
    seen = [i for share in shares for window in share for i in window.examples]
    assert sorted(seen) == list(range(count))
    for window in (window for share in shares for window in share):
        assert len(window.indices) == len(window.mask) == size
        assert all(0 <= i < count for i in window.indices)


def test_no_more_padding_than_the_last_step():
    assert [w.mask.all() for w in windows(10, 4)] == [True, True, False]


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="cannot cut 0 examples"):
        windows(0, 4)
    with pytest.raises(ValueError, match="process 2 of 2"):
        windows(4, 2, 2, 2)


def test_results_are_united_by_id():
    assert gather_by_id({"a": 1}) == {"a": 1}
    parts = [json.dumps(p).encode() for p in ({"a": [1.5]}, {}, {"b": "ä"})]
    assert merged(parts) == {"a": [1.5], "b": "ä"}
    with pytest.raises(ValueError, match="evaluated 'a'"):
        merged([parts[0], parts[0]])
