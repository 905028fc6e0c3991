"""Signals wait for the end of a step, but not twice."""

import os
import signal
import threading

import pytest

from mplug2_jax.training.interrupts import Stopped, interrupts
from mplug2_jax.training.profiling import ProfileWindow


def send(number):
    os.kill(os.getpid(), number)


def test_before_the_first_step_a_signal_stops_at_once():
    with pytest.raises(Stopped, match="nothing was lost") as stopped, interrupts():
        send(signal.SIGTERM)
    assert stopped.value.exit_status == 0 and stopped.value.step is None


def test_between_steps_it_is_asked_for_and_a_second_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as asked:
        asked.deferred = True
        assert not asked.reached(1)
        asked.check()
        send(signal.SIGINT)
        assert asked.reached(2)
        with pytest.raises(Stopped):
            asked.check()
        with pytest.raises(Stopped, match="second signal") as stopped:
            send(signal.SIGINT)
    assert stopped.value.exit_status == 130
    with interrupts() as asked:
        asked.deferred = True
        send(signal.SIGTERM)
        with pytest.raises(Stopped, match="second signal") as stopped:
            send(signal.SIGTERM)
    assert stopped.value.exit_status == 143  # not saved: not done well
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_profile_window_records_the_steps_asked_for(tmp_path):
    window = ProfileWindow.parse("2:3", tmp_path)
    running = []
    for step in range(1, 5):
        window.before(step)
        running.append(window.running)
        window.after(step, ())
    assert running == [False, True, True, False]
    assert list(tmp_path.rglob("*.xplane.pb"))
    for wrong in ("3", "3:2", "0:4", "a:b"):
        with pytest.raises(ValueError, match="expected START:STOP"):
            ProfileWindow.parse(wrong, tmp_path)
