"""``corrlib train``: the run it writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import make_box, refused, run


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
    assert "1 videos" in captured.out and "bad.mp4" in captured.err


def test_train_refuses_folders_without_video(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = ("--out", tmp_path / "run", "--profile", "fast")
    for data in (tmp_path / "empty", tmp_path / "missing"):
        assert data.name in refused(capsys, "train", "corrflow", "--data", data, *arguments)
    assert not (tmp_path / "run").exists()
