"""``corrlib propagate``: what it makes, what it prints, and how it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import FAST, H, T, W, make_box, refused, run
from phone_videos import TICK, heard, moving_square, shown_at, write_phone_video
from PIL import Image

from corrlib.masks import read_mask, write_mask
from corrlib.video import VideoWriter, open_video, read_video


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    return make_box(tmp_path_factory.mktemp("box"))


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


def test_an_object_may_be_given_on_a_later_frame(box, tmp_path):
    later = torch.zeros(H, W, dtype=torch.uint8)
    later[:16, :16] = 2
    write_mask(tmp_path / "later.png", later)
    masks = tmp_path / "masks"
    arguments = ("--mask", box / "mask.png", "--later", f"2={tmp_path / 'later.png'}")
    arguments += ("--out", tmp_path / "o.mp4", "--masks-out", masks, "--long-term", 1)
    assert run("propagate", box / "video.mp4", *arguments, *FAST) == 0
    found = [2 in read_mask(file) for file in sorted(masks.iterdir())]
    assert not any(found[:2]) and all(found[2:4])


def test_with_tracking(box, tmp_path):
    masks, figures = tmp_path / "masks", tmp_path / "f.json"
    arguments = ("--mask", box / "mask.png", "--out", tmp_path / "o.mp4", "--masks-out", masks)
    arguments += ("--json", figures, "--track")
    assert run("propagate", box / "video.mp4", *arguments, *FAST) == 0
    assert all(read_mask(file).any() for file in masks.iterdir())
    assert json.loads(figures.read_text())["settings"]["track"] is True


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
        "later without a frame": ((video, "--mask", mask, "--later", mask), "FRAME=PNG"),
        "later without a mask": ((video, "--points", mask, "--later", "2=x.png"), "with --mask"),
        "tracking of points": ((video, "--points", mask, "--track"), "with --mask"),
        "tracking and later": ((video, "--mask", mask, "--track", "--later", "2=x.png"), "--later"),
        "tracking without features": (
            (video, "--mask", mask, "--track", "--baseline", "identity"),
            "identity",
        ),
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
    "later without a frame",
    "later without a mask",
    "tracking of points",
    "tracking and later",
    "tracking without features",
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
    features = () if "--baseline" in arguments else ("--baseline", "colour-patch")
    line = refused(capsys, "propagate", *arguments, *out, *features)
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


# -- your own video --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phone(tmp_path_factory) -> Path:
    """A folder with a video as phones make them, upright 64x48 stored lying, and its first mask."""
    root = tmp_path_factory.mktemp("phone")
    write_phone_video(root / "cat.mp4", moving_square(), rotation=90, sound="aac")
    mask = torch.zeros(48, 64, dtype=torch.uint8)
    mask[10:30, 8:28] = 1
    write_mask(root / "mask.png", mask.rot90(1))
    return root


def test_a_phone_video_keeps_its_times_its_sound_and_its_turn(phone, tmp_path, capsys):
    out, figures = tmp_path / "o.mp4", tmp_path / "f.json"
    mask = ("--mask", phone / "mask.png", "--masks-out", tmp_path / "masks")
    arguments = (*mask, "--out", out, "--json", figures, "--size", 32)
    assert run("propagate", phone / "cat.mp4", *arguments, *FAST) == 0
    printed = capsys.readouterr()
    assert "6 frames" in printed.out and "sound copied (aac)" in printed.out
    assert "6/6" in printed.err  # progress, with the time left
    assert shown_at(out) == shown_at(phone / "cat.mp4")
    assert np.array_equal(heard(out)[1], heard(phone / "cat.mp4")[1])
    assert read_mask(tmp_path / "masks" / "00005.png").shape == (64, 48)
    assert open_video(out).info.height == 64
    written = json.loads(figures.read_text())
    assert written["finished"] is True and written["settings"]["short_side"] == 32
    assert written["seconds_per_frame"] > 0 and "propagate" in written["settings"]["command"][0]


def test_a_mask_drawn_on_the_frame_as_stored_is_told_of_the_turn(phone, tmp_path, capsys):
    write_mask(tmp_path / "m.png", torch.ones(48, 64, dtype=torch.uint8))
    video = (phone / "cat.mp4", "--mask", tmp_path / "m.png", "--out", tmp_path / "o.mp4")
    assert "on its side" in refused(capsys, "propagate", *video, *FAST)


def test_smoothed_edges_are_named(phone, tmp_path, capsys):
    grey = read_mask(phone / "mask.png").numpy() * 255
    small = Image.fromarray(grey).resize((24, 32), Image.Resampling.NEAREST)
    small.resize((48, 64), Image.Resampling.BILINEAR).save(tmp_path / "m.png")
    video = (phone / "cat.mp4", "--mask", tmp_path / "m.png", "--out", tmp_path / "o.mp4")
    assert "smoothed edges" in refused(capsys, "propagate", *video, *FAST)


def test_keypoints_of_the_first_frame(phone, tmp_path):
    joints = [{"name": "a", "x": 20, "y": 40}, {"name": "b", "x": 25.5, "y": 50}]
    (tmp_path / "k.json").write_text(json.dumps({"joints": joints, "edges": [["a", "b"]]}))
    tracks = tmp_path / "t.json"
    outputs = ("--out", tmp_path / "o.mp4", "--tracks-out", tracks)
    labels = ("--keypoints", tmp_path / "k.json")
    assert run("propagate", phone / "cat.mp4", *labels, *outputs, *FAST) == 0
    frames = json.loads(tracks.read_text())["frames"]
    assert len(frames) == 6 and [joint["name"] for joint in frames[5]["joints"]] == ["a", "b"]
    assert shown_at(tmp_path / "o.mp4") == shown_at(phone / "cat.mp4")


def test_points_of_the_first_frame(phone, tmp_path):
    (tmp_path / "p.json").write_text('{"points": [[20, 50], [24.5, 45], [3, 60]]}')
    tracks = tmp_path / "t.json"
    outputs = ("--out", tmp_path / "o.mp4", "--tracks-out", tracks)
    assert (
        run("propagate", phone / "cat.mp4", "--points", tmp_path / "p.json", *outputs, *FAST) == 0
    )
    written = json.loads(tracks.read_text())
    assert written["frames"] == 6 and len(written["points"]) == 3
    assert written["points"][1]["x"][0] == 24.5 and len(written["points"][0]["visible"]) == 6
    before, after = read_video(phone / "cat.mp4"), read_video(tmp_path / "o.mp4")
    changed = (before.int() - after.int()).abs().amax(dim=1) > 60
    assert changed[:, 55:].any() and not changed[0, :30].any()
    assert shown_at(tmp_path / "o.mp4") == shown_at(phone / "cat.mp4")


HOSTILE = {
    "text": "hello",
    "number": "7",
    "list": "[]",
    "empty object": "{}",
    "no list": '{"%s": 3}',
    "nothing in it": '{"%s": []}',
    "NaN": '{"%s": [[NaN, 1]], "x": NaN}',
    "nested": "[" * 100_000,
    "huge number": '{"%s": [[1e999, 2]]}',
    "off the frame": '{"%s": [[1000, 2]]}',
    "three numbers": '{"%s": [[1, 2, 3]]}',
    "strings": '{"%s": [["1", "2"]]}',
    "not UTF-8": b"\xff\xfe\x00{",
    "too many": '{"%s": [' + "[1, 2]," * 10_000 + "[1, 2]]}",
}


@pytest.mark.parametrize("option", ["--keypoints", "--points"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_one_line_and_leaves_nothing(option, name, phone, tmp_path, capsys):
    key = {"--keypoints": "joints", "--points": "points"}[option]
    content = HOSTILE[name]
    if isinstance(content, str):
        content = content.replace("%s", key).encode()
    (tmp_path / "labels.json").write_bytes(content)
    arguments = (option, tmp_path / "labels.json", "--out", tmp_path / "o.mp4")
    assert "labels.json" in refused(capsys, "propagate", phone / "cat.mp4", *arguments, *FAST)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.json"]


def test_options_that_do_not_go_together(phone, tmp_path, capsys):
    video, out = phone / "cat.mp4", ("--out", tmp_path / "o.mp4")
    mask = ("--mask", phone / "mask.png")
    for arguments, says in [
        ((*mask, "--points", "p.json"), "not allowed with"),
        (("--keypoints", "k.json", "--points", "p.json"), "not allowed with"),
        ((*mask, "--tracks-out", tmp_path / "t.json"), "--masks-out"),
        (("--points", "p.json", "--masks-out", tmp_path / "m"), "--tracks-out"),
        ((*mask, "--preset", "best"), "--preset"),
        ((*mask, "--json", tmp_path / "o.mp4"), "name of its own"),
    ]:
        assert says in refused(capsys, "propagate", video, *arguments, *out)
    line = refused(capsys, "propagate", video, *mask, "--out", video, *FAST)
    assert "name of its own" in line and len(read_video(video)) == 6


@pytest.mark.parametrize(
    ("name", "wanted"), [("corrflow", (1, 6)), ("uvc", (7, 3)), ("crw", (20, 3))]
)
def test_presets_are_changed_by_single_options(name, wanted, phone, tmp_path):
    labels = ("--mask", phone / "mask.png", "--preset", name, "--baseline", "colour-patch")
    outputs = ("--out", tmp_path / "o.mp4", "--json", tmp_path / "f.json")
    radius = () if name == "corrflow" else ("--radius", 3)
    assert run("propagate", phone / "cat.mp4", *labels, *outputs, *radius) == 0
    settings = json.loads((tmp_path / "f.json").read_text())["settings"]
    assert (settings["references"], settings["radius"]) == wanted
    assert settings["preset"] == name


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C cannot be sent to one process")
def test_ctrl_c_leaves_a_video_of_the_frames_so_far(tmp_path):
    count = 300
    write_phone_video(
        tmp_path / "cat.mp4", moving_square(count, (48, 320)), range(0, 20 * count, 20), sound="aac"
    )
    mask = torch.zeros(48, 320, dtype=torch.uint8)
    mask[10:30, 8:28] = 1
    write_mask(tmp_path / "mask.png", mask)
    out, figures = tmp_path / "out.mp4", tmp_path / "f.json"
    command = [sys.executable, "-m", "corrlib", "propagate", tmp_path / "cat.mp4"]
    command += ["--mask", tmp_path / "mask.png", "--masks-out", tmp_path / "masks", "--out", out]
    command += ["--baseline", "colour-patch", "--size", "144", "--json", figures]
    process = subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=False
    )
    seen = b""
    while b" 0/" in seen[-80:] or b"/300" not in seen:
        character = process.stderr.read(1)
        assert character, seen.decode()
        seen += character
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=300)
    assert process.returncode == 130, rest.decode()
    last = rest.decode().strip().splitlines()[-1]
    done = len(read_video(out))
    assert last.startswith("corrlib: interrupted;") and f"first {done} frames of 300" in last
    assert 0 < done < count
    assert shown_at(out) == [index * 20 * TICK for index in range(done)]
    assert len(list((tmp_path / "masks").iterdir())) == done
    assert json.loads(figures.read_text())["finished"] is False
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"cat.mp4", "mask.png", "out.mp4", "masks", "f.json"}
