"""The report's two forms, for people and for programs."""

import json

from mplug2_jax.conversion.report import Report


def test_layers_share_a_line():
    keys = [f"encoder.layer.{i}.bias" for i in range(12)]
    report = Report("FILE", missing=[*keys, "visn_fc.bias"], dead={"a": "x", "b": "x"})
    assert report.text().splitlines() == [
        "FILE: 0 matched, 0 tied, 2 dead, 0 initialised, 13 missing, 0 unexpected, "
        "0 wrong shape, 0 not finite, 0 untied",
        "dead: 2 x x (a, and 1 more)",
        "missing (13):",
        "  encoder.layer.*.bias (12)",
        "  visn_fc.bias",
    ]


def test_long_lists_are_cut_in_the_text_only():
    names = [f"name{i}" for i in range(50)]
    report = Report("FILE", unexpected=names)
    assert report.text().splitlines()[-1] == "  ... and 10 more"
    assert json.loads(report.to_json())["unexpected"] == names


def test_the_problem_names_every_fault():
    report = Report("FILE", missing=["a"], wrong_shape={"b": ((1,), (2,))})
    report.unexpected, report.untied, report.not_finite = ["c"], ["d"], ["e"]
    problem = report.problem()
    for part in ("1 missing (a)", "1 of another shape (b)", "1 unexpected (c)"):
        assert part in problem
    assert Report("FILE", initialised=["a"], dead={"b": "c"}).problem() is None
