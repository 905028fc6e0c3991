"""Signals that end a run in good order.

A scheduler that wants its machine back sends SIGTERM, a user presses Ctrl-C (SIGINT).
Neither breaks a step: the loop asks between steps, saves, and raises `Stopped`. A
second signal does not wait.
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

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """The handler."""
        again, self.signum = self.signum is not None, signum
        if again or not self.deferred:
            raise Stopped(signum, hurried=self.deferred)

    def check(self) -> None:
        """Raises `Stopped` if a signal has come to this process."""
        if self.signum is not None:
            raise Stopped(self.signum)

    def reached(self, step: int) -> bool:
        """Whether to save and stop after `step`, the same answer on every process.

        With several processes JAX spreads the notice and chooses the step.
        """
        if jax.process_count() == 1:
            return self.signum is not None
        if multihost_utils.reached_preemption_sync_point(step):
            self.signum = signal.SIGTERM
        return self.signum == signal.SIGTERM


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
