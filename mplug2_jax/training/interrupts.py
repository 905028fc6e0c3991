"""Signals that end a run in good order.

A scheduler that wants its machine back sends SIGTERM, a user presses Ctrl-C (SIGINT).
Neither breaks a step: the loop asks between steps, and validation between batches; the
loop saves, and raises `Stopped`. A second signal does not wait.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A run that a signal ended; what it had done is saved.

    Attributes:
      signum: the signal.
      step: the step that was saved last, None before the first.
      hurried: whether a second signal did not wait for that.
    """

    def __init__(self, signum: int, step: int | None = None, hurried: bool = False):
        super().__init__(signum, step)
        self.signum, self.step, self.hurried = signum, step, hurried

    @property
    def exit_status(self) -> int:
        """0 after SIGTERM, which schedulers take as done well; 130 after Ctrl-C."""
        done_well = self.signum == signal.SIGTERM and not self.hurried
        return 0 if done_well else 128 + self.signum

    def __str__(self) -> str:
        if self.hurried:
            return "stopped by a second signal; the last saved state counts"
        if self.step is None:
            return "stopped by a signal before the first step; nothing was lost"
        return f"stopped by a signal after step {self.step}, which is saved"


class Interrupts:
    """What has been asked of this run.

    Attributes:
      signum: the signal that came, None so far.
      deferred: whether a signal waits to be asked for; else it raises `Stopped` where
        it comes, as there is nothing to save yet.
    """

    def __init__(self):
        self.signum: int | None = None
        self.deferred = False
        self._times = 0  # that was asked

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """The handler."""
        again, self.signum = self.signum is not None, signum
        if again or not self.deferred:
            raise Stopped(signum, hurried=self.deferred)

    def check(self) -> None:
        """Raises `Stopped` where `reached` says so."""
        if self.reached():
            raise Stopped(self.signum or 0)

    def reached(self) -> bool:
        """Whether to stop here; every process asks as often and is told the same.

        With several processes JAX spreads the notice and chooses the place.
        """
        if self.signum is None and jax.process_count() > 1:
            self._times += 1
            if multihost_utils.reached_preemption_sync_point(self._times):
                self.signum = signal.SIGTERM
        return self.signum is not None


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Handles SIGTERM and SIGINT inside the block.

    Outside of the main thread nothing is handled, and with several processes only JAX
    may handle SIGTERM.
    """
    asked = Interrupts()
    handled = SIGNALS if jax.process_count() == 1 else ()
    if threading.current_thread() is not threading.main_thread():
        handled = ()
    before = {number: signal.signal(number, asked) for number in handled}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
