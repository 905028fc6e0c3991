"""The quickstart at its smallest: every part runs, the report shows what was scored."""

import json

import pytest

from mplug2_jax import quickstart as module
from mplug2_jax.cli.main import main
from mplug2_jax.evaluation.report import contact_sheet


@pytest.mark.slow
def test_smoke_run_writes_a_report(tmp_path, monkeypatch):
    budget = module.Budget(train_clips=16, test_clips=4, steps=3)
    monkeypatch.setitem(module.BUDGETS, "smoke", budget)
    assert main(["quickstart", "--smoke", "--workdir", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) >= {"seconds", "test", "image only", "unseen_pairs", "order"}
    assert set(results["test"]["qa"]["by_kind"]) >= {"motion", "count"}
    assert "order" in results["order"]["qa"]["by_kind"]
    assert results["test"]["qa"]["n"] > 0
    report = (tmp_path / "report.html").read_text()
    assert report.count('class="clip"') == 4 and "image only" in report
    assert report.count("which way does") >= 4
    for kind in ("right", "wrong"):
        assert f'class="{kind}"' in report or kind == "right"


def test_contact_sheet_puts_frames_side_by_side():
    import numpy as np

    frames = np.zeros((3, 5, 7, 3), np.uint8)
    sheet = contact_sheet(frames, gap=2)
    assert sheet.shape == (5, 3 * 7 + 2 * 2, 3)
    assert (sheet[:, 7:9] == 255).all() and (sheet[:, :7] == 0).all()
