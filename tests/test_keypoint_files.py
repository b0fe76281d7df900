"""The JSON in which users give joints and points, and get tracks."""

from __future__ import annotations

import json

import pytest
import torch

from corrlib.errors import InputError
from corrlib.keypoint_files import MAX_POINTS, read_keypoints, write_keypoints
from corrlib.keypoints import Skeleton

SIZE = (48, 64)
HAND = {"name": "hand", "x": 12, "y": 30.5}
ELBOW = {"name": "elbow", "x": None, "y": None}


def written(tmp_path, content):
    path = tmp_path / "joints.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_joints_names_and_edges(tmp_path):
    path = written(tmp_path, {"joints": [HAND, ELBOW], "edges": [["hand", "elbow"]]})
    skeleton, points = read_keypoints(path, SIZE)
    assert skeleton == Skeleton(("hand", "elbow"), ((0, 1),))
    assert points.dtype == torch.float32
    assert points[0].tolist() == [12.0, 30.5] and points[1].isnan().all()
    skeleton, _ = read_keypoints(written(tmp_path, {"joints": [HAND]}), SIZE)
    assert skeleton.edges == ()


def test_tracks_are_written_and_a_frame_of_them_read_again(tmp_path):
    skeleton = Skeleton(("hand", "élbow"), ((0, 1),))
    tracks = torch.tensor([[[1.0, 2.0], [3.004, 4.0]], [[5.0, 6.0], [torch.nan, torch.nan]]])
    out = tmp_path / "out" / "tracks.json"
    write_keypoints(out, tracks, skeleton)
    frames = json.loads(out.read_text(encoding="utf-8"))["frames"]
    assert frames[0]["joints"][1] == {"name": "élbow", "x": 3.0, "y": 4.0}
    assert frames[1]["joints"][1] == {"name": "élbow", "x": None, "y": None}
    again, points = read_keypoints(written(tmp_path, frames[1]), SIZE)
    assert again == skeleton
    assert points[0].tolist() == [5.0, 6.0] and points[1].isnan().all()
    with pytest.raises(InputError, match="expected tracks"):
        write_keypoints(out, tracks[:, :1], skeleton)
    assert [file.name for file in out.parent.iterdir()] == ["tracks.json"]


NOT_KEYPOINTS = {
    "empty": ("", "cannot be read"),
    "not JSON": ("joints: 3", "cannot be read"),
    "cut off": ('{"joints": [{"name"', "cannot be read"),
    "deep": ("[" * 100_000, "cannot be read"),
    "a list": ([HAND], "expected JSON of the form"),
    "no joints": ({"points": [[1, 2]]}, "'joints' is missing"),
    "more": ({"joints": [HAND], "fps": 3}, '"fps" as well'),
    "no list": ({"joints": HAND}, "as a list"),
    "none": ({"joints": []}, "as a list"),
    "too many": (
        {"joints": [HAND | {"name": str(i)} for i in range(MAX_POINTS + 1)]},
        f"at most {MAX_POINTS}",
    ),
    "no name": ({"joints": [{"x": 1, "y": 2}]}, "name, x and y of joint 0"),
    "empty name": ({"joints": [HAND | {"name": " "}]}, "a name of its own"),
    "number as name": ({"joints": [HAND | {"name": 3}]}, "a name of its own"),
    "name twice": ({"joints": [HAND, HAND]}, "joint 1 to have a name of its own"),
    "text": ({"joints": [HAND | {"x": "12"}]}, "as pixels"),
    "truth value": ({"joints": [HAND | {"x": True}]}, "as pixels"),
    "half null": ({"joints": [HAND | {"x": None}]}, "as pixels"),
    "NaN": ('{"joints": [{"name": "a", "x": NaN, "y": 1}]}', "as pixels, got NaN"),
    "infinite": ('{"joints": [{"name": "a", "x": 1, "y": 1e999}]}', "as pixels"),
    "huge": ('{"joints": [{"name": "a", "x": 1, "y": 1' + "0" * 400 + "}]}", "as pixels"),
    "too huge": ('{"joints": [{"name": "a", "x": 1, "y": 1' + "0" * 5000 + "}]}", "joint|read"),
    "outside": ({"joints": [HAND | {"x": 64}]}, "'hand' on the frame of 64x48"),
    "above": ({"joints": [HAND | {"y": -1}]}, "'hand' on the frame of 64x48"),
    "all null": ({"joints": [ELBOW]}, "a joint with a position"),
    "edges no list": ({"joints": [HAND], "edges": 3}, "list of pairs"),
    "edge of one": ({"joints": [HAND], "edges": [["hand"]]}, "names of two joints"),
    "edge to nowhere": ({"joints": [HAND], "edges": [["hand", "foot"]]}, "names of two joints"),
    "edge of numbers": ({"joints": [HAND], "edges": [[0, 0]]}, "names of two joints"),
}


@pytest.mark.parametrize("case", NOT_KEYPOINTS)
def test_what_is_no_keypoints_file(case, tmp_path):
    content, message = NOT_KEYPOINTS[case]
    with pytest.raises(InputError, match=message) as caught:
        read_keypoints(written(tmp_path, content), SIZE)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_missing_huge_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_keypoints(tmp_path / "none.json", SIZE)
    with pytest.raises(InputError, match="no such file"):
        read_keypoints(tmp_path, SIZE)
    path = tmp_path / "huge.json"
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(InputError, match="more than 1 MiB"):
        read_keypoints(path, SIZE)
    path.write_bytes(b"\x89PNG\xff\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_keypoints(path, SIZE)
