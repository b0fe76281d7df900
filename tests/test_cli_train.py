"""``corrlib train``: the run it writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import make_box, refused, run

from corrlib import weights
from corrlib.cli.train import METHODS
from corrlib.recipes import ABLATIONS, RECIPES
from corrlib.weights import load_weights


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    return make_box(tmp_path_factory.mktemp("box"))


def test_train_writes_a_run_that_propagate_uses(box, tmp_path, capsys):
    out, figures = tmp_path / "run", tmp_path / "t.json"
    train = ("train", "corrflow", "--data", box / "video.mp4", "--out", out, "--profile", "fast")
    device = ("--device", "cpu", "--precision", "fp32")
    assert run(*train, *device, "--json", figures) == 0
    assert "1 videos, 5 frames" in capsys.readouterr().out
    assert json.loads(figures.read_text())["steps_done"] == 4
    assert "--resume" in refused(capsys, *train, *device)
    arguments = ("--mask", box / "mask.png", "--out", tmp_path / "o.mp4", "--radius", 3)
    weights = ("--weights", out / "weights.safetensors")
    assert run("propagate", box / "video.mp4", *arguments, *weights, *device) == 0
    (out / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut")
    assert "checkpoint" in refused(capsys, *train, *device, "--resume")


def test_train_skips_and_names_broken_videos(box, tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "good.mp4").write_bytes((box / "video.mp4").read_bytes())
    (videos / "bad.mp4").write_text("no video")
    arguments = ("--out", tmp_path / "run", "--profile", "fast", "--device", "cpu")
    assert run("train", "corrflow", "--data", videos, *arguments) == 0
    captured = capsys.readouterr()
    assert "1 videos, 5 frames; 1 videos skipped" in captured.out and "bad.mp4" in captured.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["skipped"][0][0].endswith(
        "bad.mp4"
    )


def test_training_goes_on_from_weights(box, tmp_path, capsys):
    common = ("--data", box / "video.mp4", "--profile", "fast", "--device", "cpu")
    common += ("--precision", "fp32", "--cache", tmp_path / "cache")
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("train", "corrflow", *common, "--out", first) == 0
    weights = ("--from", first / "weights.safetensors")
    assert run("train", "corrflow", *common, "--out", second, *weights, "--steps", 1) == 0
    before, after = (load_weights(path / "weights.safetensors") for path in (first, second))
    assert torch.equal(before.quantiser.centroids, after.quantiser.centroids)
    moved = (before.encoder.conv1.weight - after.encoder.conv1.weight).abs().max()
    assert 0 < moved < 1e-3
    third = ("--out", tmp_path / "third")
    assert "crw" in refused(capsys, "train", "crw", *common, *third, *weights)
    line = refused(capsys, "train", "corrflow", *common, *third, *weights, "--without", "cycle")
    assert "--without" in line


def test_train_refuses_folders_without_video(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = ("--out", tmp_path / "run", "--profile", "fast")
    for data in (tmp_path / "empty", tmp_path / "missing"):
        assert data.name in refused(capsys, "train", "corrflow", "--data", data, *arguments)
    assert not (tmp_path / "run").exists()


def test_the_joint_model_learns_with_the_codes_of_an_autoencoder(box, tmp_path, capsys):
    common = ("--data", box / "video.mp4", "--profile", "fast", "--device", "cpu")
    common += ("--precision", "fp32", "--cache", tmp_path / "cache")
    colours, out = tmp_path / "colours", tmp_path / "joint"
    assert run("train", "colour-autoencoder", *common, "--out", colours) == 0
    codes = ("--autoencoder", colours / "weights.safetensors")
    train = ("train", "joint", *common, "--steps", 1)
    assert run(*train, "--out", out, *codes) == 0
    autoencoder, joint = (load_weights(path / "weights.safetensors") for path in (colours, out))
    for name, value in autoencoder.state_dict().items():
        assert torch.equal(joint.colours.autoencoder.state_dict()[name], value)
    assert joint.config.autoencoder == autoencoder.config
    weights = ("--from", out / "weights.safetensors")
    third = ("--out", tmp_path / "third")
    assert "--autoencoder" in refused(capsys, *train, *third, *codes, *weights)
    assert "joint" in refused(capsys, *train, *third, "--autoencoder", weights[1])
    assert not third[1].exists()


def test_parts_are_left_out_by_name(box, tmp_path):
    out, parts = tmp_path / "run", ("localisation", "concentration", "orthogonal", "autoencoder")
    without = [argument for part in parts for argument in ("--without", part)]
    common = ("--data", box / "video.mp4", "--profile", "fast", "--device", "cpu", "--steps", 1)
    assert run("train", "joint", *common, "--out", out, *without) == 0
    config = load_weights(out / "weights.safetensors").config
    assert config.autoencoder is None and not config.localisation
    assert config.concentration_weight == config.coordinate_cycle_weight == 0


def test_help_names_every_method_profile_and_part():
    assert METHODS.keys() == RECIPES.keys() == weights.METHODS.keys()
    for name, method in METHODS.items():
        assert set(method.profiles) == set(RECIPES[name])
        assert set(method.without) == set(ABLATIONS.get(name, ()))
