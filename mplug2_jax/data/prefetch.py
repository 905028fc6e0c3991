"""Reading ahead: worker threads decode media while the device computes."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


@contextmanager
def read_ahead(
    read: Callable[[Item], Read],
    items: Iterable[Item],
    ahead: int = 16,
    workers: int | None = None,
) -> Iterator[Iterator[tuple[Item, Read | OSError | ValueError]]]:
    """Gives every item with what `read` makes of it, in order.

        with read_ahead(read, items) as found:
            for item, result in found: ...

    An OSError or ValueError of `read` stands in place of its result, so that one bad
    file does not end the work; others are raised.

    Args:
      ahead: results kept ready at most.
      workers: threads; by default one per core, at most 8.
    """
    # A context, not a generator alone: one that is left behind half-read would end its
    # threads whenever the garbage collector finds it, under locks that it needs.
    pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
    try:
        yield _results(pool, read, items, ahead)
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    pool: Executor, read: Callable[[Item], Read], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Read | OSError | ValueError]]:
    pending: deque[tuple[Item, Future[Read]]] = deque()
    for item in items:
        pending.append((item, pool.submit(read, item)))
        if len(pending) > ahead:
            yield _result(*pending.popleft())
    while pending:
        yield _result(*pending.popleft())


def _result(
    item: Item, future: Future[Read]
) -> tuple[Item, Read | OSError | ValueError]:
    try:
        return item, future.result()
    except (OSError, ValueError) as error:
        return item, error


def unless_error(result: tuple[Item, Read | OSError | ValueError]) -> Read:
    """The second of a pair that `read_ahead` gave; raises it if it is an error."""
    if isinstance(result[1], OSError | ValueError):
        raise result[1]
    return result[1]


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` consecutive items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
