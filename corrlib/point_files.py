"""Points and tracks on disk, as JSON.

Points to follow, pixels of the first frame, the centre of the top left pixel is (0, 0)::

    {"points": [[x, y], [x, y], ...]}

Tracks, one entry per point in the same order, one value per frame in each list::

    {"frames": T, "points": [{"x": [...], "y": [...], "visible": [true, ...],
                              "confidence": [...]}, ...]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch

from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.tracks import MAX_POINTS, PointEstimate, check_points

MAX_BYTES = 4_000_000


def read_points(path: str | Path, height: int, width: int) -> torch.Tensor:
    """Points to follow on a frame of ``height`` x ``width``: float32 ``(N, 2)``.

    Raises:
        InputError: no such file, not JSON, anything but the form above, no points or too many, or
            one outside the frame.
    """
    path = Path(path)
    expected = f'{path}: expected {{"points": [[x, y], ...]}}'
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError(f"{expected} of at most {MAX_POINTS} points, got a larger file")
        content = json.loads(data.decode("utf-8"))
    except OSError as error:
        raise InputError(f"{expected}, the file cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{expected}, got something that is not JSON ({reason})") from error
    points = content.get("points") if isinstance(content, dict) else None
    if not isinstance(points, list) or not points:
        raise InputError(f"{expected} with at least one point, got no list of them")
    if len(points) > MAX_POINTS:
        raise InputError(f"{expected} of at most {MAX_POINTS} points, got {len(points)}")
    for number, point in enumerate(points):
        if not (isinstance(point, list) and len(point) == 2 and all(map(_is_number, point))):
            raise InputError(f"{expected}, got {json.dumps(point)[:60]} as point {number}")
    try:
        return check_points(torch.tensor(points, dtype=torch.float64), height, width)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e12 and math.isfinite(value)


def write_tracks(path: str | Path, estimates: Iterable[PointEstimate]) -> None:
    """Write tracks in the form above; the file appears whole or not at all.

    Positions are rounded to 1/1000 pixel.

    Raises:
        InputError: no estimates.
    """
    estimates = list(estimates)
    if not estimates:
        raise InputError("expected the tracks of at least 1 frame to write, got none")
    # In float64 the numbers that JSON prints are the rounded ones.
    position = torch.stack([estimate.position for estimate in estimates], dim=1).double()
    visible = torch.stack([estimate.visible for estimate in estimates], dim=1)
    confidence = torch.stack([estimate.confidence for estimate in estimates], dim=1).double()
    points = [
        {
            "x": place[:, 0].round(decimals=3).tolist(),
            "y": place[:, 1].round(decimals=3).tolist(),
            "visible": seen.tolist(),
            "confidence": sure.round(decimals=4).tolist(),
        }
        for place, seen, sure in zip(position, visible, confidence, strict=True)
    ]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"frames": len(estimates), "points": points}))
