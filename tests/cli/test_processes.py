"""Commands that several processes run together, against one process alone."""

import json
import time

import numpy as np
import pytest
import small

from mplug2_jax.index import Index

CAPTIONS = ("w1 w2 w3", "w4 w5", "w6 w30 w31 w32")
COMMANDS = """
import json
import sys

from mplug2_jax.cli.main import main

for command in json.loads(sys.argv[1]):
    status = main(command)
    assert not status, status
"""


@pytest.mark.slow
def test_two_processes_index_and_search_as_one_does(mplug2, clips, tmp_path):
    """Three clips: the first process has two of them; it alone prints and writes.

    Each of the two divides its rows over two devices, the one process has one.
    """
    checkpoint = small.save_pretrained(tmp_path / "checkpoint")
    annotations = tmp_path / "test.jsonl"
    lines = (
        {"video": v, "captions": [c]} for v, c in zip(clips, CAPTIONS, strict=True)
    )
    annotations.write_text("\n".join(map(json.dumps, lines)))

    def commands(folder, *devices):
        model = ["--checkpoint", str(checkpoint), "--batch-size", "2", *devices]
        output = ["--output", str(tmp_path / folder / "results.json")]
        given = ["--annotations", str(annotations), "--task", "retrieval"]
        return [
            ["index", *clips, *model, "--output", str(tmp_path / folder)],
            ["evaluate", *given, *model, *output, "--rerank", "2"],
        ]

    first, second = small.in_two_processes(COMMANDS, json.dumps(commands("two")))
    alone = [mplug2(*command) for command in commands("one", "--devices", "1")]
    assert [status for status, _, _ in alone] == [0, 0]
    said = [line for _, lines, _ in alone for line in lines]
    assert first.splitlines() == [line.replace("/one:", "/two:") for line in said]
    assert second == ""
    both = [Index.load(tmp_path / folder) for folder in ("one", "two")]
    assert list(both[0].files) == list(both[1].files) == clips
    np.testing.assert_allclose(both[0].features, both[1].features, atol=1e-5)
    one, two = (
        json.loads((tmp_path / folder / "results.json").read_text())
        for folder in ("one", "two")
    )
    assert one["metrics"] == two["metrics"] and one["n"] == two["n"] == 3


TOLD_TO_STOP = """
import os
import signal
import time

from mplug2_jax.cli import modules
from mplug2_jax.cli.main import main
from mplug2_jax.cli.processes import is_first, together
from mplug2_jax.sharding.distributed import meet

def run(args):
    with together():
        meet("told")
        time.sleep(2 if is_first() else 0)  # without the first the second aborts
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

modules.run = run
main(["modules"])
"""


def test_processes_that_are_told_to_stop_do_not_wait():
    start = time.monotonic()
    small.in_two_processes(TOLD_TO_STOP, status=143)
    assert time.monotonic() - start < 50
