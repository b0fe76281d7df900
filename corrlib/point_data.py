"""Sources of point tracks that are known: made-up clips, the shipped clips, and SLEAP projects.

Every source gives :class:`PointClip` objects. As in the first-query protocol of TAP-Vid, a point
is given where it is first seen; here all are given on the first frame, so points that cannot be
seen there are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from corrlib.clips import Clip, shipped_clips
from corrlib.errors import InputError
from corrlib.synthetic import synthetic_clip
from corrlib.video import open_video

MAX_TABLE = 20_000_000  # rows of a table that are read from a file


@dataclass(frozen=True)
class PointClip:
    """A clip and where its points are.

    Attributes:
        frames: opens the clip: an iterator of uint8 ``(3, H, W)`` from the first frame on.
        annotated: ``(A,)`` int64, the frames with known points in rising order; the first is 0.
        position: ``(A, N, 2)`` float32 (x, y) in pixels; NaN or a guess where not visible.
        visible: ``(A, N)`` bool; all true on frame 0.
    """

    name: str
    frames: Callable[[], Iterable[torch.Tensor]]
    annotated: torch.Tensor
    position: torch.Tensor
    visible: torch.Tensor


def point_clip(
    name: str,
    frames: Callable[[], Iterable[torch.Tensor]],
    annotated: torch.Tensor,
    position: torch.Tensor,
    visible: torch.Tensor,
) -> PointClip:
    """A clip of the points that are visible on its first frame.

    Raises:
        InputError: frame 0 is not annotated, or shows none of the points.
    """
    if not len(annotated) or int(annotated[0]) != 0:
        raise InputError(f"expected points on the first frame of {name}, got none")
    visible = visible & position.isfinite().all(dim=-1)
    given = visible[0]
    if not given.any():
        raise InputError(f"expected a visible point on the first frame of {name}, got none")
    return PointClip(name, frames, annotated, position[:, given].float(), visible[:, given])


def synthetic_points(
    seeds: Iterable[int] = range(4), frames: int = 40, size: int = 256, points: int = 96
) -> Iterator[PointClip]:
    """Made-up clips of three objects that rotate, bend and cover one another; all is known.

    Two thirds of the points lie on objects, the rest on the background.
    """
    for seed in seeds:
        clip = synthetic_clip(frames, size, size, objects=3, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        chosen = []
        for where, share in ((clip.masks[0] > 0, 2 * points // 3), (clip.masks[0] == 0, points)):
            cells = where.nonzero()
            share = min(share, points - sum(map(len, chosen)), len(cells))
            chosen.append(cells[torch.randperm(len(cells), generator=generator)[:share]])
        y, x = torch.cat(chosen).unbind(dim=1)
        yield point_clip(
            f"synthetic-{seed}",
            lambda clip=clip: iter(clip.frames),
            torch.arange(frames),
            clip.correspondence[:, :, y, x].transpose(1, 2),
            clip.visible[:, y, x],
        )


def shipped_points(clips: Iterable[Clip] | None = None) -> Iterator[PointClip]:
    """The shipped clips that have hand-placed points (see ``data/clips/README.md``)."""
    for clip in shipped_clips() if clips is None else clips:
        if clip.points is not None:
            yield point_clip(
                clip.name,
                lambda clip=clip: iter(open_video(clip.path)),
                torch.from_numpy(clip.points.frames),
                torch.from_numpy(clip.points.xy),
                torch.from_numpy(clip.points.visible),
            )


def sleap_points(
    labels: str | Path, video: str | Path | None = None, start: int = 0, frames: int | None = None
) -> PointClip:
    """The points of a SLEAP project, followed by animal and body part.

    An animal is a track of the project; where two instances on a frame belong to no track, or to
    the same one, the project is refused, because nobody can say which point is which.

    Args:
        labels: the ``.slp`` file. Only its first video is read.
        video: the video file; by default the one that lies beside the labels under the name they
            give.
        start, frames: the part of the video to take; its points are given on frame ``start``.

    Raises:
        InputError: h5py is not installed, a file that is missing, damaged or of another kind, an
            empty part, or no visible point at its start.
    """
    labels = Path(labels)
    if start < 0 or (frames is not None and frames < 2):
        raise InputError(
            f"expected a start of at least 0 and at least 2 frames, got {start} and {frames}"
        )
    numbers, position, visible, name = _read_sleap(labels)
    if video is None:
        video = labels.parent / Path(name.replace("\\", "/")).name
    opened = open_video(video)
    stop = None if frames is None else start + frames
    taken = (numbers >= start) & (numbers < stop if stop is not None else True)
    if not taken.any():
        raise InputError(
            f"expected points on frames {start} to {'the end' if stop is None else stop - 1} of "
            f"{labels}, whose last labelled frame is {int(numbers[-1])}"
        )
    return point_clip(
        f"{labels.stem}-{start}" if start else labels.stem,
        lambda: islice(opened.clip(start), frames),
        torch.from_numpy(numbers[taken] - start),
        torch.from_numpy(position[taken]),
        torch.from_numpy(visible[taken]),
    )


_SLEAP_TABLES = {
    "frames": ("video", "frame_idx", "instance_id_start", "instance_id_end"),
    "instances": ("instance_type", "track", "skeleton", "point_id_start", "point_id_end"),
    "points": ("x", "y", "visible"),
}


def _read_sleap(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Frame numbers ``(A,)``, positions ``(A, N, 2)``, visibility ``(A, N)``, the video's name."""
    try:
        import h5py
    except ImportError:
        raise InputError("reading SLEAP labels needs the package h5py: pip install h5py") from None
    expected = f"expected a SLEAP file of labels, {path}"
    if not path.is_file():
        raise InputError(f"{expected} is not there; check the path")
    try:
        with h5py.File(path, "r") as file:
            tables = {
                name: _table(h5py, file, name, fields, expected)
                for name, fields in _SLEAP_TABLES.items()
            }
            videos = _dataset(h5py, file, "videos_json", expected)
            video = json.loads(bytes(videos[0])) if videos.shape[0] else {}
            metadata = _member(h5py, file, "metadata", h5py.Group, expected)
            version = float(metadata.attrs.get("format_id", 1.0))
            nodes = _skeleton_sizes(metadata)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{expected} cannot be read ({reason}); export it again") from error
    name = video.get("backend", video).get("filename") if isinstance(video, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{expected} does not name its video; give the video's path")
    numbers, position, visible = _follow(tables, nodes, expected)
    if version < 1.1:  # older files count from the corner of the first pixel, not its centre
        position -= 0.5
    return numbers, position.astype(np.float32), visible, name


def _member(h5py, file, name: str, kind: type, expected: str):
    """A member that lies in this very file: links lead out of it, and are not followed."""
    link = file.get(name, getlink=True)
    if link is None:
        raise InputError(f"{expected} has no {name!r}; export it again")
    if not isinstance(link, h5py.HardLink) or not isinstance(file[name], kind):
        raise InputError(f"{expected} has a link or the wrong kind of object as {name!r}")
    return file[name]


def _dataset(h5py, file, name: str, expected: str):
    data = _member(h5py, file, name, h5py.Dataset, expected)
    if data.external or data.is_virtual:
        raise InputError(f"{expected} keeps {name!r} in another file; export it into one")
    if data.ndim != 1 or data.shape[0] > MAX_TABLE or data.dtype.itemsize > 1 << 16:
        raise InputError(f"{expected} has {name!r} of shape {data.shape}, which is not read")
    if data.dtype.hasobject and h5py.check_string_dtype(data.dtype) is None:
        raise InputError(f"{expected} has {name!r} of type {data.dtype}, which is not read")
    return data


def _table(h5py, file, name: str, fields: tuple[str, ...], expected: str) -> np.ndarray:
    data = _dataset(h5py, file, name, expected)
    kinds = data.dtype.fields or {}
    if any(field not in kinds or kinds[field][0].kind not in "biuf" for field in fields):
        raise InputError(f"{expected} has no numbers {', '.join(fields)} in {name!r}")
    return data[:]


def _skeleton_sizes(metadata) -> list[int]:
    text = metadata.attrs["json"]
    text = text.decode() if isinstance(text, bytes) else str(text)
    return [len(skeleton["nodes"]) for skeleton in json.loads(text)["skeletons"]]


def _follow(
    tables: dict[str, np.ndarray], nodes: list[int], expected: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One column per track and body part. Drawn instances are taken, predicted ones left out."""
    frames, instances, points = (tables[name] for name in ("frames", "instances", "points"))
    frames = frames[frames["video"] == 0]
    frames = frames[np.argsort(frames["frame_idx"], kind="stable")]
    numbers = frames["frame_idx"].astype(np.int64)
    drawn = instances["instance_type"] == 0
    kinds = set(instances["skeleton"][drawn].tolist())
    if not len(numbers) or len(kinds) != 1 or not 0 <= min(kinds) < len(nodes):
        raise InputError(f"{expected} has no points of one kind of animal on its first video")
    if len(np.unique(numbers)) < len(numbers) or numbers[-1] > MAX_TABLE:
        raise InputError(f"{expected} labels a frame twice, or one that is no frame number")
    parts = nodes[kinds.pop()]
    tracks = {track: i for i, track in enumerate(sorted(set(instances["track"][drawn].tolist())))}
    if len(numbers) * len(tracks) * parts > MAX_TABLE:
        raise InputError(f"{expected} has more points than are read; split it")
    position = np.full((len(numbers), len(tracks), parts, 2), np.nan)
    visible = np.zeros((len(numbers), len(tracks), parts), dtype=bool)
    for row, frame in enumerate(frames):
        first, last = int(frame["instance_id_start"]), int(frame["instance_id_end"])
        seen = set()
        for instance in instances[first:last]:
            if instance["instance_type"] != 0:
                continue
            column = tracks[int(instance["track"])]
            if column in seen:
                raise InputError(
                    f"{expected} has two animals of one track on frame {numbers[row]}; "
                    "give every animal its track"
                )
            seen.add(column)
            own = points[int(instance["point_id_start"]) : int(instance["point_id_end"])]
            if len(own) != parts:
                raise InputError(f"{expected} has an animal of {len(own)} points, not {parts}")
            position[row, column, :, 0], position[row, column, :, 1] = own["x"], own["y"]
            visible[row, column] = own["visible"]
    shape = (len(numbers), len(tracks) * parts)
    return numbers, position.reshape(*shape, 2), visible.reshape(shape)
