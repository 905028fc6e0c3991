"""What is written about a run, and what a resumed run does to it."""

import json

import pytest

from mplug2_jax.training import metrics
from mplug2_jax.training.metrics import MetricWriter, duration, means


def lines(workdir):
    text = (workdir / metrics.LINES).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_means_are_taken_by_kind_and_without_skipped_steps():
    steps = [
        ("video", {"loss": 1.0, "skipped": 0.0, "skipped_in_a_row": 0.0}),
        ("text", {"mlm": 5.0, "skipped": 0.0, "skipped_in_a_row": 0.0}),
        ("video", {"loss": float("nan"), "skipped": 1.0, "skipped_in_a_row": 1.0}),
        ("video", {"loss": 3.0, "skipped": 0.0, "skipped_in_a_row": 0.0}),
    ]
    assert means(steps) == {"video/loss": 2.0, "text/mlm": 5.0, "skipped": 1.0}
    assert means([("", {"loss": 4.0})]) == {"loss": 4.0}


def test_rate_utilisation_and_examples_by_kind(tmp_path, capsys):
    times = iter([0.0, 2.0, 2.0])
    writer = MetricWriter(
        tmp_path, 10, 0, {"video": 100}, peak=1e3, clock=times.__next__
    )
    writer.add("video", {"loss": 1.0}, 8, flops=500.0)
    writer.add("text", {"mlm": 2.0}, 32, flops=100.0)
    values = writer.progress(2)
    writer.close()
    assert values["examples_per_second"] == pytest.approx(20)
    assert values["mfu"] == pytest.approx(600 / 2 / 1e3)
    assert "step 2/10" in (shown := capsys.readouterr().out) and "left 8s" in shown
    (line,) = lines(tmp_path)
    assert line["examples/video"] == 108 and line["examples/text"] == 32
    assert line["train/text/mlm"] == 2.0


def test_a_pause_loses_no_step_and_counts_in_no_rate(tmp_path):
    """An evaluation between two logged steps, of 100 seconds."""
    times = iter([0.0, 1.0, 101.0, 102.0, 102.0])
    writer = MetricWriter(tmp_path, 10, clock=times.__next__)
    writer.add("", {"loss": 1.0}, 8)
    with writer.paused():
        pass
    writer.add("", {"loss": 3.0}, 8)
    values = writer.progress(2)
    assert values == {"loss": 2.0, "examples_per_second": 8.0}
    assert writer.progress(2) == {}
    writer.close()
    assert len(lines(tmp_path)) == 1


def test_a_resumed_run_drops_what_came_after_its_state(tmp_path):
    writer = MetricWriter(tmp_path, 10)
    for step in (2, 4, 6):
        writer.write(step, {"train/loss": step})
    writer.close()
    with (tmp_path / metrics.LINES).open("a") as file:
        file.write('{"step": 8, "tr')  # killed while writing
    MetricWriter(tmp_path, 10, start=4).close()
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]


def test_durations():
    assert [duration(s) for s in (5.9, 184, 3720)] == ["5s", "3m 04s", "1h 02m"]
