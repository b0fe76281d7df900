"""Files in which a user gives keypoints, and gets them back: JSON.

Positions are (x, y) in pixels of the first frame, the centre of its top-left pixel at (0, 0), so
the frame spans -0.5 to width - 0.5.

Keypoints, at most ``MAX_POINTS``; ``null`` for both x and y of a joint that cannot be seen yet;
``edges``, which may be left out, names the joints that a line joins::

    {"joints": [{"name": "hand", "x": 120, "y": 81.5}, {"name": "elbow", "x": 97, "y": 60}],
     "edges": [["hand", "elbow"]]}

Tracks of keypoints are a list of frames, each in the form above, so that any one of them can be
given again; x and y are ``null`` where a joint was not found::

    {"frames": [{"joints": [...], "edges": [...]}, ...]}
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.keypoints import Skeleton, on_frame

MAX_POINTS = 1000
MAX_BYTES = 2**20

KEYPOINTS = '{"joints": [{"name": "hand", "x": 1, "y": 2}, ...], "edges": [["hand", "elbow"], ...]}'


def read_keypoints(path: str | Path, size: tuple[int, int]) -> tuple[Skeleton, torch.Tensor]:
    """Read the joints of the first frame.

    Args:
        path: the JSON file.
        size: (H, W) of the frame.

    Returns:
        The skeleton, and ``(K, 2)`` float32 positions, NaN for a joint that is null.

    Raises:
        InputError: no such file, not JSON, another form, a position that is no finite number or
            off the frame, two joints of one name, an edge that names no joint, no joint with a
            position, or more than ``MAX_POINTS``.
    """
    path = Path(path)
    content = _read_object(path)
    joints = _read_joints(path, content["joints"])
    names: list[str] = []
    points: list[tuple[float, float]] = []
    for index, joint in enumerate(joints):
        if not isinstance(joint, dict) or set(joint) != {"name", "x", "y"}:
            raise InputError(
                f"{path}: expected name, x and y of joint {index}, got {_short(joint)}"
            )
        name = joint["name"]
        if not isinstance(name, str) or not name.strip() or name in names:
            raise InputError(
                f"{path}: expected joint {index} to have a name of its own, got {_short(name)}"
            )
        if joint["x"] is None and joint["y"] is None:
            points.append((math.nan, math.nan))
        else:
            points.append(_position(path, [joint["x"], joint["y"]], f"joint {name!r}"))
        names.append(name)
    positions = torch.tensor(points, dtype=torch.float32)
    _check_on_frame(path, positions, size, [f"joint {name!r}" for name in names])
    if positions.isnan().all():
        raise InputError(f"{path}: expected a joint with a position, got null for all of them")
    return Skeleton(tuple(names), _edges(path, content.get("edges", []), names)), positions


def write_keypoints(path: str | Path, tracks: torch.Tensor, skeleton: Skeleton) -> None:
    """Write the joints ``(T, K, 2)`` of every frame, NaN where one was not found.

    The file appears whole or not at all; positions are rounded to a hundredth of a pixel.

    Raises:
        InputError: as many joints as the skeleton has not.
    """
    if tracks.dim() != 3 or tracks.shape[1:] != (len(skeleton.names), 2):
        raise InputError(
            f"expected tracks (T, {len(skeleton.names)}, 2), got {tuple(tracks.shape)}"
        )
    edges = [[skeleton.names[a], skeleton.names[b]] for a, b in skeleton.edges]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"frames": [')
        for index, points in enumerate(tracks.tolist()):
            joints = [
                {"name": name, "x": _rounded(x), "y": _rounded(y)}
                for name, (x, y) in zip(skeleton.names, points, strict=True)
            ]
            file.write(",\n" if index else "\n")
            json.dump({"joints": joints, "edges": edges}, file, ensure_ascii=False)
        file.write("\n]}\n")


def _read_object(path: Path) -> dict:
    expected = f"{path}: expected JSON of the form {KEYPOINTS}"
    if not path.is_file():
        raise InputError(f"{expected}, found no such file; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{expected}, got a file of more than {MAX_BYTES / 2**20:g} MiB")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        raise InputError(f"{expected}, it cannot be read ({_line(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{expected}, got {_short(content)}")
    if "joints" not in content:
        raise InputError(f"{expected}, 'joints' is missing")
    if unknown := set(content) - {"joints", "edges"}:
        raise InputError(f"{expected}, got {_short(min(unknown))} as well")
    return content


def _read_joints(path: Path, value: object) -> list:
    if not isinstance(value, list) or not value:
        raise InputError(f"{path}: expected joints as a list, {KEYPOINTS}, got {_short(value)}")
    if len(value) > MAX_POINTS:
        raise InputError(f"{path}: expected at most {MAX_POINTS} joints, got {len(value)}")
    return value


def _position(path: Path, value: object, what: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{path}: expected x and y of {what}, got {_short(value)}")
    for number in value:
        if type(number) not in (int, float) or not abs(number) < 1e9:
            raise InputError(f"{path}: expected x and y of {what} as pixels, got {_short(number)}")
    return float(value[0]), float(value[1])


def _check_on_frame(
    path: Path, positions: torch.Tensor, size: tuple[int, int], what: list[str]
) -> None:
    outside = ~on_frame(positions, size) & ~positions.isnan().all(dim=1)
    if outside.any():
        index = int(outside.nonzero()[0])
        x, y = positions[index].tolist()
        raise InputError(
            f"{path}: expected {what[index]} on the frame of {size[1]}x{size[0]} pixels, got "
            f"x {x:g}, y {y:g}; positions are pixels of the video's own size"
        )


def _edges(path: Path, value: object, names: list[str]) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list):
        raise InputError(f"{path}: expected edges as a list of pairs, got {_short(value)}")
    number = {name: index for index, name in enumerate(names)}
    edges = []
    for edge in value:
        ends = edge if isinstance(edge, list) else []
        if len(ends) != 2 or not all(isinstance(end, str) and end in number for end in ends):
            raise InputError(
                f"{path}: expected an edge to be the names of two joints, got {_short(edge)}"
            )
        edges.append((number[ends[0]], number[ends[1]]))
    return tuple(edges)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)


def _short(value: object) -> str:
    """A value as JSON in at most 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
