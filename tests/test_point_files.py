"""Points and tracks as JSON: the documented form, and everything that is not it."""

from __future__ import annotations

import json
import math

import pytest
import torch

from corrlib.errors import InputError
from corrlib.point_files import read_points, write_tracks
from corrlib.tracks import MAX_POINTS, PointEstimate


def read(tmp_path, content: str | bytes):
    path = tmp_path / "points.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_points(path, 60, 80)


def test_points_are_read(tmp_path):
    points = read(tmp_path, '{"points": [[1, 2.5], [79.5, 59.5], [-0.5, 0]], "note": "any"}')
    assert points.dtype == torch.float32
    assert points.tolist() == [[1, 2.5], [79.5, 59.5], [-0.5, 0]]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "points",
        b"\xff\xfe\x00",
        "[" * 100_000,
        "[[1, 2]]",
        "null",
        '{"point": [[1, 2]]}',
        '{"points": []}',
        '{"points": {"0": [1, 2]}}',
        '{"points": [1, 2]}',
        '{"points": [[1, 2, 3]]}',
        '{"points": [[1]]}',
        '{"points": [["1", "2"]]}',
        '{"points": [[true, 2]]}',
        '{"points": [[1, null]]}',
        '{"points": [[NaN, 2]]}',
        '{"points": [[Infinity, 2]]}',
        '{"points": [[1e999, 2]]}',
        '{"points": [[1, ' + "9" * 400 + "]]}",
        '{"points": [[80, 2]]}',
        '{"points": [[2, 60]]}',
        '{"points": [[-1, 2]]}',
        json.dumps({"points": [[1, 2]] * (MAX_POINTS + 1)}),
        " " * 5_000_000,
    ],
)
def test_anything_else_is_one_line(tmp_path, content):
    with pytest.raises(InputError, match="points.json: expected") as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_points(path, 60, 80)


def estimates(frames: int, points: int):
    for t in range(frames):
        yield PointEstimate(
            torch.arange(2.0 * points).view(points, 2) + t / 3,
            torch.arange(points) != t,
            torch.full((points,), 1 / (t + 1)),
        )


def test_tracks_are_written_in_the_documented_form(tmp_path):
    path = tmp_path / "out" / "tracks.json"
    write_tracks(path, estimates(3, 2))
    content = json.loads(path.read_text())
    assert content == {
        "frames": 3,
        "points": [
            {
                "x": [0.0, 0.333, 0.667],
                "y": [1.0, 1.333, 1.667],
                "visible": [False, True, True],
                "confidence": [1.0, 0.5, 0.3333],
            },
            {
                "x": [2.0, 2.333, 2.667],
                "y": [3.0, 3.333, 3.667],
                "visible": [True, False, True],
                "confidence": [1.0, 0.5, 0.3333],
            },
        ],
    }
    assert math.isfinite(content["points"][0]["x"][1])


def test_an_interruption_leaves_what_was_there(tmp_path):
    path = tmp_path / "tracks.json"
    path.write_text("before")

    def broken():
        yield from estimates(2, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tracks(path, broken())
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="at least 1 frame"):
        write_tracks(path, [])
