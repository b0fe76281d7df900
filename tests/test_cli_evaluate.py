"""``corrlib evaluate`` and ``corrlib score``: figures that agree, and how they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import FAST, make_box, refused, run
from PIL import Image
from processes import free_ports, run_two

from corrlib.synthetic import synthetic_clip
from corrlib.video import VideoWriter


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


def test_evaluate_with_tracking(box, tmp_path, capsys):
    figures, root = tmp_path / "f.json", ("--root", box / "davis", "--sequences", "one")
    assert run("evaluate", "davis", *root, "--track", "--json", figures, *FAST) == 0
    settings = json.loads(figures.read_text())["settings"]
    assert settings["track"] is True and "--track" in settings["command"]
    line = refused(capsys, "evaluate", "davis", *root, "--track", "--baseline", "identity")
    assert "--track goes with features" in line
    for data_set in ("jhmdb", "vip", "points"):
        line = refused(capsys, "evaluate", data_set, "--root", tmp_path, "--track")
        assert "--track" in line


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


# -- other labels ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip():
    return synthetic_clip(frames=4, height=64, width=80, objects=1, seed=3, speed=1.5)


def save(folder: Path, frames: torch.Tensor, suffix: str) -> None:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        image = frame.permute(1, 2, 0) if frame.dim() == 3 else frame
        Image.fromarray(image.numpy()).save(folder / f"{index + 1:05d}{suffix}")


@pytest.fixture(scope="module")
def jhmdb_root(clip, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("jhmdb")
    save_jhmdb(root, "one", clip.frames)
    return root


def save_jhmdb(root: Path, name: str, frames: torch.Tensor) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    save(root / "Rename_Images" / "walk" / name, frames, ".png")
    joints = np.random.default_rng(0).uniform(5, 60, (2, 15, 1)).repeat(len(frames), axis=2)
    folder = root / "joint_positions" / "walk" / name
    folder.mkdir(parents=True)
    savemat(str(folder / "joint_positions.mat"), {"pos_img": joints})


def save_vip(root: Path, name: str, frames: torch.Tensor, masks: torch.Tensor) -> None:
    save(root / "Images" / name, frames, ".jpg")
    save(root / "Annotations" / "Category_ids" / name, masks * 13, ".png")


def test_jhmdb(jhmdb_root, tmp_path, capsys):
    figures = tmp_path / "f.json"
    arguments = ("--root", jhmdb_root, "--json", figures, "--size", 64, *FAST)
    results = ("--masks-out", tmp_path / "results")
    assert run("evaluate", "jhmdb", *arguments, *results) == 0
    assert "mean of 1" in capsys.readouterr().out
    figure = json.loads(figures.read_text())
    assert set(figure["PCK_instance"]) == {"0.1", "0.2"} and len(figure["joints"]) == 15
    assert set(figure["sequences"]) == {"one"} and figure["seconds_per_frame"] > 0
    assert figure["settings"]["features"] == "colour-patch"
    assert figure["settings"]["command"][:2] == ["evaluate", "jhmdb"]
    assert run("evaluate", "jhmdb", *arguments, *results, "--resume") == 0
    again = json.loads(figures.read_text())
    assert again["PCK_instance"] == figure["PCK_instance"]
    assert "exists already" in refused(capsys, "evaluate", "jhmdb", *arguments, *results)
    assert "'two'" in refused(capsys, "evaluate", "jhmdb", *arguments, "--sequences", "two")


def test_vip(clip, tmp_path, capsys):
    root = tmp_path / "VIP_Fine"
    save_vip(root, "videos1", clip.frames, clip.masks)
    figures = tmp_path / "f.json"
    arguments = ("--root", root, "--json", figures, "--size", 64, *FAST)
    assert run("evaluate", "vip", *arguments) == 0
    assert "mean of 1" in capsys.readouterr().out
    figure = json.loads(figures.read_text())
    assert 0.3 < figure["mean_iou"] <= 1 and set(figure["sequences"]) == {"videos1"}
    assert figure["seconds_per_frame"] > 0 and figure["settings"]["radius"] == 3
    (tmp_path / "empty").mkdir()
    assert "Images" in refused(capsys, "evaluate", "vip", "--root", tmp_path / "empty", *FAST)


def test_points(tmp_path, capsys):
    figures = tmp_path / "f.json"
    options = ("--sequences", "box", "--frames", 3, "--json", figures, *FAST)
    assert run("evaluate", "points", *options) == 0
    assert "mean of 1" in capsys.readouterr().out
    figure = json.loads(figures.read_text())
    assert set(figure["sequences"]) == {"box"} and figure["seconds_per_frame"] > 0
    for name in ("delta_avg", "average_jaccard", "occlusion_accuracy"):
        assert name in figure and name in figure["sequences"]["box"]
    assert figure["settings"]["features"] == "colour-patch"
    assert "'nobody'" in refused(capsys, "evaluate", "points", "--sequences", "nobody", *FAST)
    assert "*.slp" in refused(capsys, "evaluate", "points", "--root", tmp_path, *FAST)


@pytest.mark.parametrize("data_set", ["jhmdb", "vip", "points"])
def test_methods_without_features_carry_masks_only(data_set, tmp_path, capsys):
    root = () if data_set == "points" else ("--root", tmp_path)
    identity = ("--baseline", "identity", "--device", "cpu")
    assert "masks only" in refused(capsys, "evaluate", data_set, *root, *identity)
    assert "psychic" in refused(capsys, "evaluate", data_set, *root, "--baseline", "psychic")


# -- several processes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(clip, tmp_path_factory) -> Path:
    """JHMDB, VIP and SLEAP with clips of 4, 2 and 3 frames, in the order of their names."""
    from test_point_data import sleap_file

    root = tmp_path_factory.mktemp("three")
    for name, length in {"a": 4, "b": 2, "c": 3}.items():
        save_jhmdb(root / "jhmdb", name, clip.frames[:length])
        save_vip(root / "vip", name, clip.frames[:length], clip.masks[:length])
        (root / "sleap").mkdir(exist_ok=True)
        sleap_file(root / "sleap" / f"{name}.slp", frames=length)
    with VideoWriter(root / "sleap" / "clip.mp4", 12) as writer:
        for frame in clip.frames:
            writer.write(frame)
    return root


def shared_commands(three: Path) -> dict[str, list[object]]:
    jhmdb = ["evaluate", "jhmdb", "--root", three / "jhmdb", "--size", 64, *FAST]
    vip = ["evaluate", "vip", "--root", three / "vip", "--size", 64, *FAST]
    points = ["evaluate", "points", "--root", three / "sleap", *FAST]
    return {"jhmdb": jhmdb, "vip": vip, "points": points, "few": [*jhmdb, "--sequences", "b"]}


def worker(rank: int, ports: list[int], three: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    for port, (name, command) in zip(ports, shared_commands(three).items(), strict=True):
        os.environ["MASTER_PORT"] = str(port)
        results = [] if name == "points" else ["--masks-out", out / f"{name}-{rank}"]
        with open(out / f"{name}-{rank}.txt", "w") as text, redirect_stdout(text):
            assert run(*command, *results, "--json", out / f"{name}-{rank}.json") == 0
        assert not torch.distributed.is_initialized()


@pytest.fixture(scope="module")
def two(three, tmp_path_factory) -> Path:
    """What two processes printed and wrote."""
    out = tmp_path_factory.mktemp("two")
    run_two(worker, free_ports(len(shared_commands(three))), three, out)
    return out


def timeless(value):
    """Figures without times, and without the command that made them."""
    if not isinstance(value, dict):
        return value
    left_out = ("seconds_per_frame", "command")
    return {key: timeless(one) for key, one in value.items() if key not in left_out}


@pytest.mark.parametrize("name", ["jhmdb", "vip", "points", "few"])
def test_two_processes_print_and_write_what_one_does(three, two, tmp_path, capsys, name):
    assert run(*shared_commands(three)[name], "--json", tmp_path / "one.json") == 0
    printed = capsys.readouterr().out, (two / f"{name}-0.txt").read_text()
    # The last column is the time.
    one, shared = ([line.rsplit(maxsplit=1)[0] for line in text.splitlines()] for text in printed)
    assert shared == one and len(one) > 2
    figures = [
        json.loads(path.read_text()) for path in (tmp_path / "one.json", two / f"{name}-0.json")
    ]
    one, shared = map(timeless, figures)
    assert shared == one and list(shared["sequences"]) == list(one["sequences"])
    assert (two / f"{name}-1.txt").read_text() == "" and not (two / f"{name}-1.json").exists()


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("jhmdb", ["a"], ["b", "c"]), ("vip", ["a"], ["b", "c"]), ("few", ["b"], [])],
)
def test_each_process_does_its_share(two, name, first, second):
    for rank, share in enumerate((first, second)):
        assert sorted(path.stem for path in (two / f"{name}-{rank}").glob("*")) == share


def test_an_error_in_one_process_ends_all(clip, tmp_path):
    for name, length in {"a": 4, "b": 2}.items():
        save_jhmdb(tmp_path, name, clip.frames[:length])
    broken = tmp_path / "joint_positions" / "walk" / "b" / "joint_positions.mat"
    broken.write_bytes(b"nothing")  # of the second process
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["evaluate", "jhmdb", "--root", str(tmp_path), "--size", "64", *FAST]
    answer = subprocess.run(
        [sys.executable, *torchrun, "-m", "corrlib", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert answer.returncode != 0
    told = [line for line in answer.stderr.splitlines() if line.startswith("corrlib: ")]
    assert len(told) == 1 and str(broken) in told[0]
    assert len(answer.stdout.splitlines()) <= 1 and "mean" not in answer.stdout


def test_adapting_goes_with_a_single_process(box, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ("evaluate", "davis", "--root", box / "davis", "--adapt", "1", "--device", "cpu")
    assert "without torchrun" in refused(capsys, *command)
