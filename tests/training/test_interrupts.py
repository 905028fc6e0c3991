"""Signals wait for the end of a step, but not twice."""

import os
import signal
import threading

import pytest
import small

from mplug2_jax.training.interrupts import Stopped, interrupts
from mplug2_jax.training.profiling import ProfileWindow

PROCESS = """
import os
import signal
import sys
from pathlib import Path

import small
from mplug2_jax.data.examples import Example
from mplug2_jax.evaluation import retrieval
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.predictor import Predictor
from mplug2_jax.retriever import Retriever
from mplug2_jax.sharding.distributed import initialize
from mplug2_jax.training.interrupts import Stopped, interrupts

clips, index = sys.argv[1:], initialize().index
config, modules, params = small.pretrained()
model = MPlug2(config, modules)
predictor = Predictor(model, params, small.tokenizer(), small.INPUTS, batch_size=1)
examples = [Example(clip, Path(clip), (f"w{n}",)) for n, clip in enumerate(clips)]
retrieval.MATCHED_AT_ONCE = 1
told = 0
encode = Retriever.encode_texts

def otherwise(self, texts):  # as another kind of device would, but more
    found = encode(self, texts)
    return found._replace(features=-found.features)

if index == 1:
    Retriever.encode_texts = otherwise

def tell(done, total):
    global told
    told += 1
    asked.check()

try:
    with interrupts() as asked:
        asked.deferred = True
        for turn in range(1000):
            retrieval.search_results(predictor, examples, 2, progress=lambda what: tell)
            if turn == 0 and index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
except Stopped as stopped:
    print(told, stopped.exit_status)
"""


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
        assert not asked.reached()
        asked.check()
        send(signal.SIGINT)
        assert asked.reached()
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


@pytest.mark.slow
def test_processes_stop_an_evaluation_at_the_same_place(tmp_path):
    """Of three clips and their pairs the first process has more; the second is told,
    and would pair texts and clips differently.
    """
    clips = small.write_clips(tmp_path, 3)
    first, second = small.in_two_processes(PROCESS, *clips)
    assert first == second
    told, status = map(int, first.split())
    assert told > 0 and status == 0


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
