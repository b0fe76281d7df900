"""Sources of known points: made-up clips, the shipped ones, and SLEAP files, damaged ones too."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from corrlib.errors import InputError
from corrlib.point_data import point_clip, shipped_points, sleap_points, synthetic_points
from corrlib.video import VideoWriter


def test_made_up_clips_know_their_points():
    clips = list(synthetic_points(seeds=(0, 1), frames=5, size=64, points=30))
    assert [clip.name for clip in clips] == ["synthetic-0", "synthetic-1"]
    for clip in clips:
        frames = list(clip.frames())
        assert len(frames) == len(list(clip.frames())) == 5  # can be opened again
        assert clip.position.shape == (5, clip.visible.shape[1], 2)
        assert clip.visible.shape[1] > 20 and clip.visible[0].all()
        assert clip.annotated.tolist() == list(range(5))
        # A point keeps its colour as long as it is seen.
        x, y = clip.position.round().long().unbind(dim=2)
        x, y = x.clamp(0, 63), y.clamp(0, 63)
        colours = torch.stack(
            [frame[:, b, a].float() for frame, a, b in zip(frames, x, y, strict=True)]
        )
        change = (colours[2] - colours[0]).abs().mean(0)[clip.visible[2]]
        assert change.median() < 25
    again = next(iter(synthetic_points(seeds=(0,), frames=5, size=64, points=30)))
    assert torch.equal(again.position, clips[0].position)


def test_the_shipped_points():
    clips = list(shipped_points())
    assert [clip.name for clip in clips] == ["box"]
    (clip,) = clips
    assert clip.annotated.tolist() == list(range(0, 73, 6))
    assert clip.position.shape == (13, 11, 2) and clip.visible[0].all()
    assert not clip.visible.all()
    assert next(iter(clip.frames())).shape == (3, 360, 480)


def test_points_not_seen_first_are_left_out():
    position = torch.arange(24.0).view(3, 4, 2)
    visible = torch.ones(3, 4, dtype=torch.bool)
    visible[0, 1] = False
    position[0, 2, 0] = torch.nan
    position[1, 3, 1] = torch.nan
    clip = point_clip("name", list, torch.arange(3), position, visible)
    assert torch.equal(clip.position[:, 0], position[:, 0]) and clip.position.shape[1] == 2
    assert clip.visible[:, 1].tolist() == [True, False, True]
    with pytest.raises(InputError, match="visible point on the first frame"):
        point_clip("name", list, torch.arange(3), position, ~visible.fill_(True))
    with pytest.raises(InputError, match="first frame"):
        point_clip("name", list, torch.arange(1, 4), position, visible)


# SLEAP

h5py = pytest.importorskip("h5py")

FRAME = [("frame_id", "<u8"), ("video", "<u4"), ("frame_idx", "<u8")]
FRAME += [("instance_id_start", "<u8"), ("instance_id_end", "<u8")]
INSTANCE = [("instance_id", "<i8"), ("instance_type", "u1"), ("frame_id", "<u8")]
INSTANCE += [("skeleton", "<u4"), ("track", "<i4"), ("from_predicted", "<i8"), ("score", "<f4")]
INSTANCE += [("point_id_start", "<u8"), ("point_id_end", "<u8")]
POINT = [("x", "<f8"), ("y", "<f8"), ("visible", "?"), ("complete", "?")]


def sleap_file(path, change=None, version=1.1, parts=2, frames=4):
    """Two animals, tracks 3 and 7, in changing order; animal i, part j is at
    (10 i + j + t, 5) on frame t."""
    rows = {"frames": [], "instances": [], "points": []}
    for t in range(frames):
        start = len(rows["instances"])
        for animal in (0, 1) if t % 2 else (1, 0):
            first = len(rows["points"])
            rows["points"] += [
                (10.0 * animal + part + t, 5.0, True, False) for part in range(parts)
            ]
            track = (3, 7)[animal]
            number = len(rows["instances"])
            rows["instances"].append((number, 0, t, 0, track, -1, 1.0, first, first + parts))
        rows["frames"].append((t, 0, t, start, start + 2))
    rows["points"][2 * parts] = (np.nan, np.nan, False, False)  # animal 0, part 0, frame 1
    tables = {
        "frames": np.array(rows["frames"], dtype=FRAME),
        "instances": np.array(rows["instances"], dtype=INSTANCE),
        "points": np.array(rows["points"], dtype=POINT),
        "videos_json": np.array(
            [json.dumps({"backend": {"filename": "/their/clip.mp4"}}).encode()]
        ),
    }
    metadata = {
        "format_id": version,
        "json": np.bytes_(
            json.dumps({"skeletons": [{"nodes": [{"id": i} for i in range(parts)]}]})
        ),
    }
    if change:
        change(tables, metadata)
    with h5py.File(path, "w") as file:
        for name, table in tables.items():
            if table is not None:
                file[name] = table
        if metadata is not None:
            group = file.create_group("metadata")
            for name, value in metadata.items():
                group.attrs[name] = value
    return path


@pytest.fixture
def video(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for t in range(4):
            writer.write(torch.full((3, 32, 48), 40 * t, dtype=torch.uint8))
    return tmp_path / "clip.mp4"


def test_a_sleap_file_is_read_by_track(tmp_path, video):
    clip = sleap_points(sleap_file(tmp_path / "labels.slp"))
    assert clip.name == "labels" and clip.annotated.tolist() == [0, 1, 2, 3]
    x = torch.tensor([0.0, 1.0, 10.0, 11.0]) + torch.arange(4)[:, None]
    seen = clip.visible
    assert seen.tolist() == [[True] * 4, [False, True, True, True], [True] * 4, [True] * 4]
    assert torch.equal(clip.position[..., 0][seen], x[seen])
    assert (clip.position[..., 1][seen] == 5).all()
    assert len(list(clip.frames())) == 4


def test_older_files_count_from_the_corner(tmp_path, video):
    clip = sleap_points(sleap_file(tmp_path / "labels.slp", version=1.0))
    assert clip.position[0, 0].tolist() == [-0.5, 4.5]


def test_part_of_a_sleap_clip(tmp_path, video):
    path = sleap_file(tmp_path / "labels.slp")
    clip = sleap_points(path, start=2, frames=2)
    assert clip.name == "labels-2" and clip.annotated.tolist() == [0, 1]
    assert clip.position[0, 0].tolist() == [2, 5]
    frames = list(clip.frames())
    assert len(frames) == 2 and abs(int(frames[0].float().mean()) - 80) < 5
    assert sleap_points(path, start=1).visible.shape == (3, 3)  # one is not seen on frame 1
    with pytest.raises(InputError, match="last labelled frame is 3"):
        sleap_points(path, start=4)
    for wrong in ({"start": -1}, {"frames": 1}):
        with pytest.raises(InputError, match="at least"):
            sleap_points(path, **wrong)


def test_predicted_animals_are_left_out(tmp_path, video):
    def change(tables, metadata):
        tables["instances"]["instance_type"][tables["instances"]["track"] == 7] = 1

    assert sleap_points(sleap_file(tmp_path / "labels.slp", change)).visible.shape == (4, 2)


def drop(name):
    return lambda tables, metadata: tables.update({name: None})


def rename(tables, metadata):
    tables["points"] = tables["points"][["x", "visible"]].copy()


def one_track(tables, metadata):
    tables["instances"]["track"] = -1


def cut_points(tables, metadata):
    tables["points"] = tables["points"][:-1]


def bad_skeleton(tables, metadata):
    tables["instances"]["skeleton"] = 5


def no_json(tables, metadata):
    metadata["json"] = np.bytes_(b"{")


def no_metadata(tables, metadata):
    del metadata["json"]


def twice(tables, metadata):
    tables["frames"]["frame_idx"] = 0


def far(tables, metadata):
    tables["frames"]["frame_idx"][-1] = 2**62


def two_dimensions(tables, metadata):
    tables["points"] = tables["points"][None]


def text(tables, metadata):
    tables["frames"] = np.array([b"a", b"b"])


def no_video(tables, metadata):
    tables["videos_json"] = np.array([b"[]"])


def nothing(tables, metadata):
    tables["frames"] = tables["frames"][:0]


@pytest.mark.parametrize(
    "change",
    [
        drop("points"),
        drop("frames"),
        drop("videos_json"),
        rename,
        one_track,
        cut_points,
        bad_skeleton,
        no_json,
        no_metadata,
        twice,
        far,
        two_dimensions,
        text,
        no_video,
        nothing,
    ],
)
def test_a_damaged_sleap_file_is_one_line(tmp_path, video, change):
    with pytest.raises(InputError, match="expected a SLEAP file") as error:
        sleap_points(sleap_file(tmp_path / "labels.slp", change))
    assert "\n" not in str(error.value)


def test_files_that_are_no_sleap_files(tmp_path, video):
    path = tmp_path / "labels.slp"
    with pytest.raises(InputError, match="not there"):
        sleap_points(path)
    for content in (b"", b"text", bytes(2048)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            sleap_points(path)
    sleap_file(path)
    whole = path.read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            sleap_points(path)


def test_links_out_of_a_sleap_file_are_not_followed(tmp_path, video):
    other = sleap_file(tmp_path / "other.slp")
    path = sleap_file(tmp_path / "labels.slp", drop("points"))
    for link in (h5py.ExternalLink(str(other), "points"), h5py.SoftLink("/frames")):
        with h5py.File(path, "a") as file:
            file["points"] = link
        with pytest.raises(InputError, match="link"):
            sleap_points(path)
        with h5py.File(path, "a") as file:
            del file["points"]
    (tmp_path / "raw").write_bytes(bytes(18 * 16))
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "points", (16,), POINT, external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        )
    with pytest.raises(InputError, match="in another file"):
        sleap_points(path)


def test_without_h5py_the_package_is_named(tmp_path, video, monkeypatch):
    path = sleap_file(tmp_path / "labels.slp")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="pip install h5py"):
        sleap_points(path)


def test_flies(shared_data):
    """A real project: two flies of 13 points, which stand for long and then walk."""
    clip = sleap_points(shared_data / "sleap-flies" / "clip.slp", start=1000, frames=40)
    assert clip.annotated.tolist() == list(range(40)) and clip.visible.shape[1] == 26
    frame = next(iter(clip.frames()))
    assert frame.shape == (3, 1024, 1024)
    x, y = clip.position[0].round().long().T
    assert frame[0, y, x].float().mean() > 3 * frame[0].float().mean()  # flies are bright
