"""The short real clips that come with the course, with their hand-drawn masks and points.

``data/clips/README.md`` says where they come from, under which licences, and how exact the
annotations are. They lie beside the package in a clone, so this module needs an editable install.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corrlib.errors import InputError

CLIPS_FOLDER = Path(__file__).resolve().parent.parent / "data" / "clips"

_FINER = 8  # polygons are filled on a grid this many times finer, so that 1/8 px still counts


@dataclass(frozen=True)
class PointTracks:
    """Hand-placed points on some frames of a clip.

    Attributes:
        names: what each of the N points is.
        frames: ``(T,)`` int64, the annotated frames in rising order; the first is 0.
        xy: ``(T, N, 2)`` float32, pixels of the clip, (x, y), pixel centres at integers. Where a
            point is not visible this is a guess and must not be scored.
        visible: ``(T, N)`` bool.
    """

    names: tuple[str, ...]
    frames: np.ndarray
    xy: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Clip:
    """One shipped clip.

    Attributes:
        path: the mp4 file.
        frames, fps, height, width: its length, frames per second and size in pixels.
        objects: names of the annotated objects; the id of ``objects[i]`` in the masks is i + 1.
        masks: annotated frame -> indexed PNG of object ids; empty where no mask was drawn,
            otherwise frame 0 is among them.
        polygons: the JSON file the masks were filled from (see ``read_polygons``), or None.
        points: hand-placed points, or None.
        attribution: the line to show wherever the clip is shown.
    """

    name: str
    title: str
    path: Path
    frames: int
    fps: float
    height: int
    width: int
    objects: tuple[str, ...]
    masks: Mapping[int, Path]
    polygons: Path | None
    points: PointTracks | None
    source: str
    author: str
    licence: str
    licence_url: str
    attribution: str
    what_was_changed: str


def shipped_clips(folder: str | Path | None = None) -> list[Clip]:
    """All clips in ``data/clips`` (or in another folder of the same layout), sorted by name.

    Raises:
        InputError: no clip is there (an install without the repository), or one is damaged.
    """
    folder = CLIPS_FOLDER if folder is None else Path(folder)
    files = sorted(folder.glob("*/clip.json"))
    if not files:
        raise InputError(
            f"expected the course's clips in {folder}, found none: "
            "clone the repository and install it with pip install -e ."
        )
    return [_read_clip(file) for file in files]


def shipped_clip(name: str, folder: str | Path | None = None) -> Clip:
    """The clip called ``name``.

    Raises:
        InputError: there is no such clip; the message names those there are.
    """
    clips = shipped_clips(folder)
    for clip in clips:
        if clip.name == name:
            return clip
    names = ", ".join(clip.name for clip in clips)
    raise InputError(f"expected the name of a shipped clip, got {name!r}: use one of {names}")


def read_polygons(path: str | Path) -> dict[int, dict[int, list[list[list[float]]]]]:
    """The drawn outlines of a clip: frame -> object id -> polygons -> vertices [x, y].

    Coordinates are pixels with centres at integers, like all points in this package.
    """
    outlines = _read_json(Path(path))
    return {
        int(frame): {int(number): polygons for number, polygons in objects.items()}
        for frame, objects in outlines.items()
    }


def fill_polygons(
    objects: Mapping[int, Sequence[Sequence[Sequence[float]]]], height: int, width: int
) -> np.ndarray:
    """A mask from outlines: a pixel is an object's if the object covers at least half of it.

    Polygons of one object are united. An object of higher id lies in front of one of lower id.

    Args:
        objects: object id -> polygons, each a list of (x, y), pixel centres at integers.
        height, width: size of the mask in pixels.

    Returns:
        ``(H, W)`` uint8 ids, 0 = background.
    """
    mask = np.zeros((height, width), dtype=np.uint8)
    for number in sorted(objects):
        fine = np.zeros((height * _FINER, width * _FINER), dtype=bool)
        for polygon in objects[number]:
            fine |= _inside(polygon, height, width)
        rows = fine.reshape(height, _FINER, -1).sum(axis=1, dtype=np.uint8)
        covered = rows.reshape(height, width, _FINER).sum(axis=2)
        mask[2 * covered >= _FINER**2] = number
    return mask


def _inside(polygon: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Which points of the finer grid lie in a polygon, by the even-odd rule; bool."""
    crossings = np.zeros((height * _FINER, width * _FINER + 1), dtype=np.uint8)
    corners = (np.asarray(polygon, dtype=np.float64) + 0.5) * _FINER - 0.5
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        top, bottom = np.ceil(np.clip([min(y0, y1), max(y0, y1)], 0, len(crossings))).astype(int)
        rows = np.arange(top, bottom)
        if len(rows):
            x = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
            columns = np.ceil(np.clip(x, 0, width * _FINER)).astype(int)
            crossings[rows, columns] += 1  # an edge crosses a row once
    odd = np.cumsum(crossings, axis=1, dtype=np.uint8)[:, :-1] & 1
    return odd.astype(bool)


def _read_clip(file: Path) -> Clip:
    about, folder = _read_json(file), file.parent
    polygons, points = folder / "polygons.json", folder / "points.json"
    try:
        return Clip(
            name=about["name"],
            title=about["title"],
            path=folder / "clip.mp4",
            frames=about["frames"],
            fps=float(about["fps"]),
            height=about["height"],
            width=about["width"],
            objects=tuple(about["objects"]),
            masks={int(png.stem): png for png in sorted((folder / "masks").glob("*.png"))},
            polygons=polygons if polygons.exists() else None,
            points=_read_points(points) if points.exists() else None,
            source=about["source"],
            author=about["author"],
            licence=about["licence"],
            licence_url=about["licence_url"],
            attribution=about["attribution"],
            what_was_changed=about["what_was_changed"],
        )
    except KeyError as missing:
        raise InputError(f"expected {missing} in {file}, it is absent: restore the file") from None


def _read_points(file: Path) -> PointTracks:
    content = _read_json(file)
    frames = sorted(int(frame) for frame in content["frames"])
    table = np.array([content["frames"][str(frame)] for frame in frames], dtype=np.float32)
    return PointTracks(
        names=tuple(content["points"]),
        frames=np.array(frames, dtype=np.int64),
        xy=table[:, :, :2].copy(),
        visible=table[:, :, 2] == 1,
    )


def _read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"expected a JSON file at {file}, got {reason}: restore it") from None
