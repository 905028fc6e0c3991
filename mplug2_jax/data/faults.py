"""Files that cannot be read do not stop a run: counted, named, replaced, up to a share.

A decoder that hangs is left behind in its thread; threads cannot be ended, but those
made here do not keep the process alive.
"""

import copy
import dataclasses
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from absl import logging

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")

# Shares of fewer items than this say little about a large data set.
SAMPLE = 5000
NICE = 15  # of 19


class TooManyFaultsError(ValueError):
    """More of a data set is unusable than the configuration allows."""


@dataclasses.dataclass(frozen=True)
class News:
    """What a worker process tried since it last told, and what it could not use."""

    tried: int
    bad: Mapping[int, str]


class Faults:
    """What of a data set could not be used, and the limit.

    Worker processes have copies of their own, whose news the process that reads the
    batches learns: it counts, names and limits the faults of all.

    Args:
      name: of the data set, for messages.
      total: its items.
      max_share: of the items; for data sets larger than `SAMPLE`, of the items tried so
        far, so that a folder that went missing is noticed early.
    """

    def __init__(self, name: str, total: int, max_share: float):
        self.name, self.total, self.max_share = name, total, max_share
        self.tried = 0
        self.bad: dict[int, str] = {}
        self._told = News(0, {})
        self._log = logging.warning
        self._lock = threading.Lock()

    def __getstate__(self):  # travels to worker processes
        return self.name, self.total, self.max_share

    def __setstate__(self, state):
        self.__init__(*state)
        self._log = logging.debug  # whoever learns the news says them

    def succeeded(self) -> None:
        """Counts an item that could be used."""
        self.learn(News(1, {}))

    def failed(self, place: int, reason: str) -> None:
        """Counts and logs an item that could not.

        Raises:
          TooManyFaultsError: with it there are too many.
        """
        self.learn(News(1, {place: reason}))

    def learn(self, news: News) -> None:
        """Counts and logs what a worker process, or this one, tried.

        Raises:
          TooManyFaultsError: with it there are too many.
        """
        with self._lock:
            self.tried += news.tried
            fresh = {at: why for at, why in news.bad.items() if at not in self.bad}
            self.bad |= fresh
            count = len(self.bad)
            of = min(self.total, max(self.tried, SAMPLE))
        for place, reason in fresh.items():
            self._log(
                "%s: item %d is replaced by the next (%d so far): %s",
                *(self.name, place, count, reason),
            )
            if count > self.max_share * of:
                raise TooManyFaultsError(
                    f"{count} of {of} items of {self.name} cannot be used, which is "
                    f"more than the share max_bad_share={self.max_share:g} allows; the "
                    f"last: {reason}. Mend the data, or raise the share."
                )

    def news(self) -> News:
        """What happened since the last call."""
        with self._lock:
            told, self._told = self._told, News(self.tried, dict(self.bad))
            fresh = {at: why for at, why in self.bad.items() if at not in told.bad}
            return News(self.tried - told.tried, fresh)


class Tolerant(Generic[Item, Loaded]):
    """Loads the item at a place, or the next one that can be loaded.

    The replacement depends on the data alone, and every attempt draws the same random
    numbers, so that runs repeat exactly.

    Args:
      items: read one by one; reading may fail too.
      load: of an item and a random generator; an OSError or ValueError is a fault.
      faults: where they are counted.
      timeout: seconds an item may take.
    """

    def __init__(
        self,
        items: Sequence[Item],
        load: Callable[[Item, np.random.Generator], Loaded],
        faults: Faults,
        timeout: float,
    ):
        self.items, self.load, self.faults = items, load, faults
        self.timeout = timeout

    def __call__(self, place: int, rng: np.random.Generator) -> Loaded:
        for at in range(place, place + len(self.items)):
            at %= len(self.items)
            if at in self.faults.bad:
                continue
            found: list[Item] = []
            try:
                # A generator of its own: an abandoned thread may go on drawing.
                stream = copy.deepcopy(rng)
                loaded = within(self.timeout, self._load, at, stream, found)
            except (OSError, ValueError) as error:
                name = getattr(found[0], "id", "") if found else ""
                self.faults.failed(at, f"{name} ({type(error).__name__}: {error})")
            else:
                self.faults.succeeded()
                return loaded
        reason = next(reversed(self.faults.bad.values()), "there are none")
        raise TooManyFaultsError(
            f"None of the {len(self.items)} items of {self.faults.name} can be used; "
            f"the last: {reason}. Mend the data."
        )

    def _load(self, place: int, rng: np.random.Generator, found: list[Item]) -> Loaded:
        found.append(self.items[place])
        return self.load(found[0], rng)


def within(seconds: float, call: Callable[..., Loaded], *args: Any) -> Loaded:
    """The result of `call(*args)`, which is left behind if it takes longer.

    Raises:
      TimeoutError: it does.
    """
    answer: queue.SimpleQueue = queue.SimpleQueue()

    def work():
        _after_the_step()
        try:
            answer.put((call(*args), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"reading took longer than {seconds:g} s") from None
    if error is not None:
        raise error
    return result


def _after_the_step() -> None:
    """Lets this thread run when nothing else wants its core.

    On a CPU the step's threads wait for each other after every operation, so that one
    which has to share its core with a decoder holds up all.
    """
    if sys.platform == "linux":  # where a thread has a priority of its own
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(nice, NICE))
