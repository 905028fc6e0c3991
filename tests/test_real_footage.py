"""Real clips, start to end: cut, train, caption, ask, through the command line."""

import json

import pytest
import real_footage

from mplug2_jax.cli.main import main


@pytest.mark.slow
def test_segments_are_learned_by_heart(tmp_path, capsys):
    footage, workdir = tmp_path / "footage", tmp_path / "run"
    annotations = real_footage.cut(footage)
    status = main(
        [
            "train",
            "--config=configs/real_footage.py",
            f"--workdir={workdir}",
            f"--config.train.path={annotations}",
            f"--config.vocab={footage / 'tokenizer'}",
            "--config.devices=1",  # a batch of seven
        ]
    )
    assert status == 0
    capsys.readouterr()

    files = [str(footage / f"segment_{i}.mp4") for i in range(7)]
    assert main(["caption", *files, "--checkpoint", str(workdir), "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    truth = [segment[3] for segment in real_footage.SEGMENTS]
    assert [line["caption"] for line in said] == truth

    for file, segment in zip(files[2:5], real_footage.SEGMENTS[2:5], strict=True):
        question, answer = segment[4][0]
        assert main(["ask", file, question, "--checkpoint", str(workdir)]) == 0
        assert answer in capsys.readouterr().out
