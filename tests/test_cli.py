"""The command line as a whole: help, errors, speed of starting."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from commands import FAST, make_box, refused, run

from corrlib.baselines import BASELINES
from corrlib.cli import main
from corrlib.cli.options import BASELINE_NAMES, PRESET_NAMES
from corrlib.presets import PRESETS


def test_help_has_an_example_for_every_command(capsys):
    for command in (
        ["doctor"],
        ["tour"],
        ["train", "corrflow"],
        ["train", "crw"],
        ["train", "colour-autoencoder"],
        ["train", "joint"],
        ["propagate"],
        ["fetch"],
        ["evaluate", "davis"],
        ["evaluate", "jhmdb"],
        ["evaluate", "vip"],
        ["evaluate", "points"],
        ["score", "davis"],
        ["bench", "affinity"],
        ["bench", "propagate"],
        ["bench", "train"],
        ["bench", "metric"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
        assert "example: corrlib" in " ".join(capsys.readouterr().out.split())


def test_without_a_command_help_is_named(capsys):
    assert "--help" in refused(capsys)


def test_starting_does_not_wait_for_torch():
    """Help is shown at once: what commands need is imported when they run."""
    code = (
        "import sys; from corrlib.cli import main\n"
        "try: main(['propagate', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'av', 'cv2', 'matplotlib'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.splitlines()[-1] == "[]", answer.stderr


def test_what_the_system_refuses_is_one_line(monkeypatch, capsys):
    def full(path, figures):
        raise OSError(28, "No space left on device", "f.json")

    monkeypatch.setattr("corrlib.cli.bench.write_json", full)
    monkeypatch.setattr("corrlib.bench.bench_affinity", lambda *arguments: {})
    assert "No space left" in refused(capsys, "bench", "affinity", "--device", "cpu")


def test_figures_that_could_not_be_written_are_refused_at_once(tmp_path, capsys):
    """Before the work, not after hours of it."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "figures.json"):
        told = refused(capsys, "evaluate", "davis", "--root", tmp_path / "absent", "--json", path)
        assert "--json" in told and str(path) in told
    told = refused(
        *(capsys, "evaluate", "davis", "--root", tmp_path / "absent"),
        *("--json", tmp_path / "new" / "figures.json"),
    )
    assert "--json" not in told


def test_help_names_every_baseline_and_preset():
    assert tuple(BASELINES) == BASELINE_NAMES and tuple(PRESETS) == PRESET_NAMES


def test_of_several_processes_only_the_first_prints_and_writes(monkeypatch, tmp_path, capsys):
    def bench(device, rounds, report):
        report("a figure")
        return {"ratios": {}}

    monkeypatch.setattr("corrlib.bench.bench_affinity", bench)
    command = ["bench", "affinity", "--device", "cpu", "--json", str(tmp_path / "f.json")]
    monkeypatch.setenv("RANK", "1")
    assert main(command) == 0 and main(["bench", "affinity", "--device", "tpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "tpu" in captured.err and not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    assert main(command) == 0
    assert "a figure" in capsys.readouterr().out and (tmp_path / "f.json").exists()


def test_of_several_processes_only_the_first_has_scores_to_show(monkeypatch, tmp_path, capsys):
    """As under torchrun, where a process that fails ends all."""
    box, out = make_box(tmp_path), tmp_path / "figures.json"
    monkeypatch.setattr("corrlib.evaluation.evaluate", lambda *rest: None)
    monkeypatch.setenv("RANK", "1")
    assert run("evaluate", "davis", "--root", box / "davis", *FAST, "--json", out) == 0
    assert capsys.readouterr().out == "" and not out.exists()


def test_benches_pass_on_what_was_asked(monkeypatch, tmp_path, capsys):
    def propagate(device, rounds, report, features):
        report(f"{device} {rounds}")
        return {"ratios": {"reference": 12.0}, "stride": features(torch.float32).stride}

    monkeypatch.setattr("corrlib.bench.bench_propagate", propagate)
    monkeypatch.setattr("corrlib.bench.bench_metric", lambda rounds, report: {"rounds": rounds})
    file = tmp_path / "f.json"
    arguments = ["--rounds", "2", "--json", str(file)]
    assert main(["bench", "propagate", "--device", "cpu", *arguments]) == 0
    assert json.loads(file.read_text()) == {"ratios": {"reference": 12.0}, "stride": 8}
    assert "cpu 2" in capsys.readouterr().out
    assert main(["bench", "metric", *arguments]) == 0
    assert json.loads(file.read_text()) == {"rounds": 2}
    monkeypatch.setattr("corrlib.bench.bench_train", lambda *given: {"given": given[3:]})
    assert main(["bench", "train", "--batch", "2", "--device", "cpu", *arguments]) == 0
    assert json.loads(file.read_text()) == {"given": ["laptop", 2, "auto"]}
    assert "nobody" in refused(capsys, "bench", "propagate", "--weights", "nobody")
    assert "round" in refused(capsys, "bench", "affinity", "--rounds", "0", "--device", "cpu")
