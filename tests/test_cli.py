"""The command line: what it makes, what it prints, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from corrlib.cli import main
from corrlib.masks import read_mask, write_mask
from corrlib.synthetic import synthetic_clip
from corrlib.video import VideoWriter, open_video, read_video

H, W, T = 64, 80, 5


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """A folder with a video, the same as frames, its first mask, and a DAVIS-2016 tree of it."""
    root = tmp_path_factory.mktemp("cli")
    clip = synthetic_clip(frames=T, height=H, width=W, objects=1, seed=3)
    with VideoWriter(root / "video.mp4", 12) as writer:
        for frame in clip.frames:
            writer.write(frame)
    davis = root / "davis"
    for name in ("one", "two"):
        images = davis / "JPEGImages" / "480p" / name
        images.mkdir(parents=True)
        for index in range(T):
            picture = Image.fromarray(clip.frames[index].permute(1, 2, 0).numpy())
            picture.save(images / f"{index:05d}.jpg", quality=95)
            annotation = davis / "Annotations" / "480p" / name / f"{index:05d}.png"
            write_mask(annotation, clip.masks[index])
    lists = davis / "ImageSets" / "2016"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("one\ntwo\n")
    write_mask(root / "mask.png", clip.masks[0])
    return root


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments: object) -> str:
    """The one line of an error, after checking that it is one."""
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("corrlib: ")]
    assert len(lines) == 1 and "Traceback" not in captured.err
    return lines[0]


FAST = ("--device", "cpu", "--precision", "fp32", "--radius", "3", "--baseline", "colour-patch")


# -- propagate -------------------------------------------------------------------------------------


def test_propagate_writes_a_video_masks_and_figures(box, tmp_path, capsys):
    out, masks, figures = tmp_path / "o.mp4", tmp_path / "masks", tmp_path / "f.json"
    arguments = ("--mask", box / "mask.png", "--out", out, "--masks-out", masks, "--json", figures)
    assert run("propagate", box / "video.mp4", *arguments, *FAST) == 0
    assert "needs about" in capsys.readouterr().out
    video = open_video(out)
    assert (video.info.height, video.info.width) == (H, W) and len(list(video)) == T
    files = sorted(masks.iterdir())
    assert [file.name for file in files] == [f"{index:05d}.png" for index in range(T)]
    assert torch.equal(read_mask(files[0]), read_mask(box / "mask.png"))
    assert Image.open(files[1]).mode == "P"
    written = json.loads(figures.read_text())
    assert written["frames"] == T and written["settings"]["radius"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"o.mp4", "masks", "f.json"}


def test_a_folder_of_frames_is_a_video_too(box, tmp_path):
    frames = box / "davis" / "JPEGImages" / "480p" / "one"
    out = tmp_path / "o.mp4"
    assert run("propagate", frames, "--mask", box / "mask.png", "--out", out, *FAST) == 0
    assert len(read_video(out)) == T


def test_a_video_of_one_frame_gives_the_mask_itself(box, tmp_path):
    with VideoWriter(tmp_path / "one.mp4", 12) as writer:
        writer.write(read_video(box / "video.mp4")[0])
    masks = tmp_path / "masks"
    arguments = ("--mask", box / "mask.png", "--out", tmp_path / "o.mp4", "--masks-out", masks)
    assert run("propagate", tmp_path / "one.mp4", *arguments, *FAST) == 0
    assert [path.name for path in masks.iterdir()] == ["00000.png"]
    assert torch.equal(read_mask(masks / "00000.png"), read_mask(box / "mask.png"))


def bad_propagations(box: Path, folder: Path) -> dict[str, tuple[tuple, str]]:
    mask, video = box / "mask.png", box / "video.mp4"
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    (folder / "cut.mp4").write_bytes(video.read_bytes()[:-700])
    (folder / "empty").mkdir()
    write_mask(folder / "small.png", torch.ones(8, 8, dtype=torch.uint8))
    write_mask(folder / "blank.png", torch.zeros(H, W, dtype=torch.uint8))
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(folder / "photo.jpg")
    (folder / "text.png").write_text("no image")
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    return {
        "text named mp4": ((folder / "text.mp4", "--mask", mask), "text.mp4"),
        "no such video": ((folder / "nothing.mp4", "--mask", mask), "nothing.mp4"),
        "empty folder": ((folder / "empty", "--mask", mask), "empty"),
        "mask of another size": ((video, "--mask", folder / "small.png"), "64x80"),
        "mask with no object": ((video, "--mask", folder / "blank.png"), "at least one object"),
        "mask is text": ((video, "--mask", folder / "text.png"), "text.png"),
        "no such mask": ((video, "--mask", folder / "no.png"), "no.png"),
        "radius 0": ((video, "--mask", mask, "--radius", 0), "radius"),
        "radius -1": ((video, "--mask", mask, "--radius", -1), "radius"),
        "top 0": ((video, "--mask", mask, "--topk", 0), "topk"),
        "temperature 0": ((video, "--mask", mask, "--temperature", 0), "temperature"),
        "references -1": ((video, "--mask", mask, "--references", -1), "references"),
        "size 1": ((video, "--mask", mask, "--size", 1), "size"),
        "radius of words": ((video, "--mask", mask, "--radius", "far"), "--help"),
        "no mask at all": ((video,), "--mask"),
        "unknown device": ((video, "--mask", mask, "--device", "tpu"), "device"),
        "unknown precision": ((video, "--mask", mask, "--precision", "int8"), "precision"),
        "folder in use": ((video, "--mask", mask, "--masks-out", folder / "full"), "empty folder"),
    }


NAMES = [
    "text named mp4",
    "no such video",
    "empty folder",
    "mask of another size",
    "mask with no object",
    "mask is text",
    "no such mask",
    "radius 0",
    "radius -1",
    "top 0",
    "temperature 0",
    "references -1",
    "size 1",
    "radius of words",
    "no mask at all",
    "unknown device",
    "unknown precision",
    "folder in use",
]


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_line_and_leaves_nothing(name, box, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    cases = bad_propagations(box, tmp_path / "in")
    assert set(cases) == set(NAMES)
    arguments, says = cases[name]
    out = ("--out", tmp_path / "out" / "o.mp4", "--json", tmp_path / "out" / "f.json")
    line = refused(capsys, "propagate", *arguments, *out, "--baseline", "colour-patch")
    assert says in line
    assert not list((tmp_path / "out").iterdir())


def test_a_video_that_breaks_in_the_middle_leaves_nothing(box, tmp_path, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index, frame in enumerate(read_video(box / "video.mp4")):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(frames / f"{index:03d}.png")
    (frames / "003.png").write_bytes((frames / "003.png").read_bytes()[:200])
    out = tmp_path / "out"
    arguments = ("--out", out / "o.mp4", "--masks-out", out / "masks")
    line = refused(capsys, "propagate", frames, "--mask", box / "mask.png", *arguments, *FAST)
    assert "003.png" in line
    assert not list(out.iterdir())


def test_weights_and_baseline_exclude_each_other_and_unknown_ones_are_named(box, tmp_path, capsys):
    video = (box / "video.mp4", "--mask", box / "mask.png", "--out", tmp_path / "o.mp4")
    line = refused(capsys, "propagate", *video, "--weights", "w", "--baseline", "identity")
    assert "not allowed" in line
    line = refused(capsys, "propagate", *video, "--weights", "nobody")
    assert "nobody" in line
    refused(capsys, "propagate", *video, "--baseline", "psychic")


def test_help_has_an_example_for_every_command(capsys):
    for command in (
        ["doctor"],
        ["tour"],
        ["train", "corrflow"],
        ["propagate"],
        ["evaluate", "davis"],
        ["score", "davis"],
        ["bench", "affinity"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
        assert "example: corrlib" in " ".join(capsys.readouterr().out.split())


# -- evaluate and score ----------------------------------------------------------------------------


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


# -- train -----------------------------------------------------------------------------------------


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


def test_without_a_command_help_is_named(capsys):
    assert "--help" in refused(capsys)
