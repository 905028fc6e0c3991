"""The benchmarks run, and what they compare computes the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Each stops with an error of its own if the two sides differ.
SMALL = {
    "forward": (
        ["--size", "tiny", "--frames", "3", "--repeats", "1"],
        "ours / PyTorch",
    ),
    "decode": (["--size", "tiny", "--tokens", "6", "--repeats", "1"], "times faster"),
}


def run(name, *arguments):
    command = [sys.executable, BENCHMARKS / f"{name}.py", *arguments]
    env = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.parametrize("name", SMALL)
def test_benchmark_runs_at_tiny_size(name):
    arguments, expected = SMALL[name]
    done = run(name, *arguments)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_benchmark_fails_beyond_its_limit():
    arguments = ["--size", "tiny", "--frames", "2", "--repeats", "1", "--limit", "0"]
    done = run("forward", *arguments)
    assert done.returncode != 0 and "exceeds 0" in done.stderr
