"""The benchmarks run, and what they compare computes the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(name, *arguments):
    return call(sys.executable, BENCHMARKS / f"{name}.py", *arguments)


def call(*command, **env):
    env = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)} | env
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def test_forward_pass_beside_pytorch_fails_beyond_its_limit():
    """And with another error if the outputs differ."""
    arguments = ["--size", "tiny", "--frames", "3", "--repeats", "1", "--limit", "0"]
    done = run("forward", *arguments)
    assert "ours / PyTorch" in done.stdout, done.stderr
    assert done.returncode != 0 and "exceeds 0" in done.stderr


def test_gpu_script_rehearses_every_part(tmp_path):
    """It fails by itself if two networks' losses differ, or two searches' texts."""
    script = BENCHMARKS / "gpu.sh"
    done = call(
        "bash", script, "--rehearse", "--output", tmp_path, PYTHON=sys.executable
    )
    assert done.returncode == 0, done.stdout
    table = (tmp_path / "table.md").read_text()
    for row in ("ours, remat dots", "PyTorch", "cache", "MFU | not measured"):
        assert f"| {row} |" in table


def test_a_failing_part_of_the_gpu_script_stops_no_other(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho said "$@"\ncase "$*" in *train*) exit 3; esac\n')
    python.chmod(0o755)
    script, output = BENCHMARKS / "gpu.sh", tmp_path / "results"
    done = call("bash", script, "--output", output, PYTHON=str(python))
    assert done.returncode == 1
    assert "train_dots FAILED" in done.stdout and "train_full FAILED" in done.stdout
    for name in ("pytorch", "decode", "tests"):
        assert f"== {name} took" in done.stdout
    assert "table" in (output / "table.md").read_text()
