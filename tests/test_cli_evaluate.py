"""``corrlib evaluate`` and ``corrlib score``: figures that agree, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import FAST, make_box, refused, run


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    return make_box(tmp_path_factory.mktemp("box"))


def test_evaluate_writes_figures_that_score_reads_back(box, tmp_path, capsys):
    davis, masks = box / "davis", tmp_path / "masks"
    figures, again = tmp_path / "f.json", tmp_path / "g.json"
    arguments = ("--root", davis, "--masks-out", masks, "--json", figures)
    assert run("evaluate", "davis", *arguments, *FAST) == 0
    assert run("score", "davis", "--root", davis, "--results", masks, "--json", again) == 0
    figure, read_back = (json.loads(path.read_text()) for path in (figures, again))
    assert figure["J&F"] == read_back["J&F"] and figure["J"] == read_back["J"]
    assert set(figure["sequences"]) == {"one", "two"}
    assert set(figure["J"]) == {"mean", "recall", "decay"} and 0 < figure["J"]["mean"] <= 1
    assert figure["sequences"]["one"]["seconds_per_frame"] > 0
    assert figure["settings"]["features"] == "colour-patch"
    assert "mean of 2" in capsys.readouterr().out


def test_evaluate_resumes_where_it_stopped(box, tmp_path, capsys):
    davis, masks = box / "davis", tmp_path / "masks"
    common = ("evaluate", "davis", "--root", davis, "--baseline", "identity", "--masks-out", masks)
    assert run(*common, "--sequences", "one", "--json", tmp_path / "one.json") == 0
    assert "exists already" in refused(capsys, *common)
    assert run(*common, "--resume", "--json", tmp_path / "all.json") == 0
    one, both = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("one", "all"))
    assert both["sequences"]["one"]["seconds_per_frame"] is None
    assert both["sequences"]["two"]["seconds_per_frame"] is not None
    assert both["sequences"]["one"]["J"] == one["sequences"]["one"]["J"]
    assert "--masks-out" in refused(
        capsys, "evaluate", "davis", "--root", davis, "--resume", "--baseline", "identity"
    )


def test_davis_errors_name_what_is_missing(box, tmp_path, capsys):
    identity = ("--baseline", "identity")
    evaluate = ("evaluate", "davis")
    assert "JPEGImages" in refused(capsys, *evaluate, "--root", tmp_path, *identity)
    root = ("--root", box / "davis")
    assert "three" in refused(capsys, *evaluate, *root, "--sequences", "three", *identity)
    assert "test" in refused(capsys, *evaluate, *root, "--split", "test", *identity)
    assert "results" in refused(capsys, "score", "davis", *root, "--results", tmp_path / "no")
    (tmp_path / "masks").mkdir()
    refused(capsys, "score", "davis", *root, "--results", tmp_path / "masks")


def test_identity_on_davis_2016(shared_data, tmp_path):
    """The published definition of the baseline on all 20 sequences of DAVIS-2016 val."""
    figures = tmp_path / "f.json"
    root = ("--root", shared_data / "DAVIS-2016")
    assert run("evaluate", "davis", *root, "--baseline", "identity", "--json", figures) == 0
    figure = json.loads(figures.read_text())
    assert len(figure["sequences"]) == 20
    assert figure["J"]["mean"] == pytest.approx(0.266, abs=0.002)
    assert figure["F"]["mean"] == pytest.approx(0.243, abs=0.002)
