"""Reading ahead: worker threads decode media while the device computes."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")


def read_ahead(
    read: Callable[[Item], Read],
    items: Iterable[Item],
    ahead: int = 16,
    workers: int | None = None,
) -> Iterator[tuple[Item, Read | OSError | ValueError]]:
    """Yields every item with what `read` makes of it, in order.

    An OSError or ValueError of `read` is yielded in place of its result, so that one
    bad file does not end the work; others are raised.

    Args:
      ahead: results kept ready at most.
      workers: threads; by default one per core, at most 8.
    """
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        pending: deque[tuple[Item, Future[Read]]] = deque()
        try:
            for item in items:
                pending.append((item, pool.submit(read, item)))
                if len(pending) > ahead:
                    yield _result(*pending.popleft())
            while pending:
                yield _result(*pending.popleft())
        finally:
            for _, future in pending:
                future.cancel()


def _result(
    item: Item, future: Future[Read]
) -> tuple[Item, Read | OSError | ValueError]:
    try:
        return item, future.result()
    except (OSError, ValueError) as error:
        return item, error


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` consecutive items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
