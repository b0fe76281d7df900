"""The ablation: rows differ in one thing, records are kept and read, drift and spread are right."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from commands import make_box, refused, run

from corrlib import ablation
from corrlib.ablation import ROWS, Run, drift, read_runs, run_row, summarise
from corrlib.datasets import davis
from corrlib.errors import InputError
from corrlib.frames import FrameCache
from corrlib.propagation import PropagationConfig
from corrlib.recipes import PROFILES, RECIPES
from corrlib.training import Trainer
from corrlib.weights import load_weights

RECIPE = replace(PROFILES["fast"], steps=2)
CARRY = PropagationConfig(radius=3, references=1)
QUIET = {"device": "cpu", "precision": "fp32", "progress": False}


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return make_box(tmp_path_factory.mktemp("ablation"))


@pytest.fixture(scope="module")
def cache(box, tmp_path_factory):
    clips = RECIPE.clips
    place = tmp_path_factory.mktemp("cache")
    return FrameCache.build([box / "video.mp4"], place, clips.size, clips.fps, progress=False)


def record(row="full", seed=0, j=0.5, f=0.5) -> Run:
    return Run(row, seed, j, f, {"one": (j + f) / 2}, [j, j], {}, {})


@pytest.mark.parametrize("method", ROWS)
def test_each_row_changes_one_thing_of_the_recipe(method):
    full, rows = RECIPES[method]["laptop"], ROWS[method]
    assert rows["full"](full) == full
    for name, change in rows.items():
        changed = change(full)
        parts = [key for key in vars(full) if getattr(full, key) != getattr(changed, key)]
        expected = {"full": [], "untrained": ["steps"]}.get(name, ["model"])
        assert parts == expected, name
    assert len({str(change(full)) for change in rows.values()}) == len(rows)


def test_a_row_is_trained_scored_and_recorded(box, cache, tmp_path):
    sequences = davis(box / "davis")
    made = run_row("without-cycle", 1, RECIPE, cache, sequences, tmp_path, CARRY, **QUIET)
    model = load_weights(tmp_path / "without-cycle-1" / "weights.safetensors")
    without = ROWS["corrflow"]["without-cycle"](RECIPE).model
    assert model.config.cycle_weight == 0 and model.config == without
    assert made.training["steps_done"] == 2 and made.training["training"]["seed"] == 1
    assert set(made.sequences) == {"one", "two"} and len(made.drift) == 3  # not the first, not last
    read = json.loads((tmp_path / "without-cycle-1.json").read_text())
    assert read["j"] == pytest.approx(made.j, abs=1e-5)
    assert read["settings"]["radius"] == 3
    assert made.j_and_f == pytest.approx(sum(made.sequences.values()) / 2)


def test_rows_are_those_of_the_method(box, cache, tmp_path):
    recipe = replace(RECIPES["joint"]["fast"], steps=1)
    sequences = davis(box / "davis")
    for row in ("without-localisation", "untrained"):
        made = run_row(row, 0, recipe, cache, sequences, tmp_path, CARRY, 4, **QUIET)
        assert made.training["training"]["model"]["localisation"] == (row == "untrained")
    with pytest.raises(InputError, match="expected a row among .*without-orthogonal"):
        run_row("without-cycle", 0, recipe, cache, sequences, tmp_path, CARRY, **QUIET)


def test_what_is_recorded_is_not_run_again(box, cache, tmp_path, monkeypatch):
    arguments = ("full", 0, RECIPE, cache, davis(box / "davis"), tmp_path, CARRY)
    first = run_row(*arguments, **QUIET)
    monkeypatch.setattr(ablation, "Trainer", None)
    again = run_row(*arguments, **QUIET)
    assert again.j == pytest.approx(first.j, abs=1e-5) and again.row == "full"
    others = (replace(RECIPE, steps=3), CARRY, None), (RECIPE, replace(CARRY, radius=4), None)
    for recipe, carry, frames in (*others, (RECIPE, CARRY, 3)):
        with pytest.raises(InputError, match="it is of others"):
            run_row("full", 0, recipe, cache, (), tmp_path, carry, frames, **QUIET)


def test_an_interrupted_row_goes_on(box, cache, tmp_path, monkeypatch):
    arguments = ("full", 0, RECIPE, cache, davis(box / "davis"))
    whole = run_row(*arguments, tmp_path / "whole", CARRY, **QUIET)
    run_all = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, progress: run_all(self, None, progress, 1))
    assert run_row(*arguments, tmp_path / "parts", CARRY, **QUIET) is None
    assert not list((tmp_path / "parts").glob("*.json"))
    monkeypatch.setattr(Trainer, "run", run_all)
    resumed = run_row(*arguments, tmp_path / "parts", CARRY, **QUIET)
    assert (resumed.j, resumed.f) == (whole.j, whole.f)


def test_the_untrained_row_is_the_network_a_run_begins_with(box, cache, tmp_path):
    run_row("untrained", 0, RECIPE, cache, davis(box / "davis"), tmp_path, CARRY, **QUIET)
    begin = Trainer(RECIPE, cache, tmp_path / "begin", device="cpu", precision="fp32").model
    model = load_weights(tmp_path / "untrained-0" / "weights.safetensors")
    torch.testing.assert_close(
        model.encoder.conv1.weight, begin.encoder.conv1.weight, atol=1e-3, rtol=1e-3
    )


def test_only_so_many_frames_are_scored(box, cache, tmp_path):
    made = run_row("untrained", 0, RECIPE, cache, davis(box / "davis"), tmp_path, CARRY, 4, **QUIET)
    assert len(made.drift) == 2 and made.settings["frames"] == 4


def test_drift_is_the_mean_of_those_that_last():
    def sequence(values):
        return {"objects": {"1": {"per_frame": {"J": values}}}}

    figure = {"sequences": {"a": sequence([1.0, 0.5, 0.0]), "b": sequence([0.5])}}
    assert drift(figure) == [0.75, 0.5, 0.0]


def test_mean_spread_and_gain_are_over_the_seeds():
    runs = [record("full", seed, j) for seed, j in enumerate((0.5, 0.6, 0.7))]
    runs += [record("without-cycle", seed, j) for seed, j in enumerate((0.4, 0.6, 0.5))]
    full, without = summarise(runs)
    assert full.seeds == (0, 1, 2) and full.mean == pytest.approx(0.55)
    assert full.spread == pytest.approx(0.05) and full.gain == 0 == full.gain_spread
    assert without.mean == pytest.approx(0.5) and without.j == pytest.approx(0.5)
    assert without.gain == pytest.approx(-0.05)
    assert without.gain_spread == pytest.approx(0.05)  # differences of -5, 0 and -10 points


def test_one_seed_has_no_spread_and_gain_needs_the_full_row():
    (alone,) = summarise([record("without-cycle")])
    assert math.isnan(alone.spread) and math.isnan(alone.gain)


def test_records_come_in_the_order_of_the_rows(tmp_path):
    for row, seed in (("with-two-levels", 0), ("full", 1), ("full", 0)):
        path = tmp_path / f"{row}-{seed}.json"
        path.write_text(json.dumps(asdict(record(row, seed))))
    found = [(run.row, run.seed) for run in read_runs(tmp_path)]
    assert found == [("full", 0), ("full", 1), ("with-two-levels", 0)]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"row": "full"}', json.dumps(asdict(record("full", 0, 7.0)))]
)
def test_a_damaged_record_is_an_error(text, tmp_path):
    (tmp_path / "full-0.json").write_text(text)
    with pytest.raises(InputError, match="full-0.json"):
        read_runs(tmp_path)


def test_no_records_and_unknown_rows_are_errors(box, cache, tmp_path):
    with pytest.raises(InputError, match="found none"):
        read_runs(tmp_path)
    with pytest.raises(InputError, match="expected a row among"):
        run_row("without-luck", 0, RECIPE, cache, davis(box / "davis"), tmp_path)


def test_the_command_runs_rows_and_refuses_what_is_learnt_and_scored(box, tmp_path, capsys):
    common = ("ablation", "corrflow", "--root", box / "davis", "--out", tmp_path / "out")
    assert "full" in refused(capsys, *common, "--data", box / "video.mp4", "--rows", "luck")
    assert "0,1,2" in refused(capsys, *common, "--data", box / "video.mp4", "--seeds", "x")
    assert "3 frames" in refused(capsys, *common, "--data", box / "video.mp4", "--frames", "2")
    both = refused(capsys, *common, "--data", box / "davis")
    assert "one is in both" in both
    options = ("--rows", "untrained", "--seeds", "3", "--size", "48", "--precision", "fp32")
    json_path = tmp_path / "figures.json"
    assert run(*common, "--data", box / "video.mp4", *options, "--json", json_path) == 0
    assert "untrained" in capsys.readouterr().out
    (figure,) = json.loads(json_path.read_text())
    assert figure["row"] == "untrained" and figure["seeds"] == [3] and figure["spread"] is None
