"""Your own video: labels of its first frame carried to the last, drawn over it, sound kept.

Nothing is held but the frames in hand, so the length does not matter. Time stamps are the source's,
sizes too. A stop asked for half way leaves whole, playable files of the frames so far; an error
leaves nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import torch

from corrlib.errors import InputError
from corrlib.files import atomic_folder
from corrlib.keypoint_files import write_keypoints
from corrlib.keypoints import Skeleton, draw_skeleton
from corrlib.masks import overlay, write_mask
from corrlib.point_files import write_tracks
from corrlib.tracks import PointEstimate, draw_tracks
from corrlib.video import Video, VideoWriter

TAIL = 10
"""Frames over which the way of a point is drawn behind it."""

Found = TypeVar("Found")
Carry = Callable[[Iterable[torch.Tensor]], Iterator[Found]]
"""Frames ``(3, H, W)`` to what is found on each, in step with them."""


@dataclass(frozen=True)
class Outcome:
    """What became of a video.

    Attributes:
        frames: written.
        finished: the source's last frame was reached.
        seconds: of wall time, decoding, drawing and encoding included.
        sound: what became of the sound, one line; ``None`` where the source has none.
    """

    frames: int
    finished: bool
    seconds: float
    sound: str | None


def _nothing() -> None:
    pass


def _never() -> bool:
    return False


def carry_mask(
    video: Video,
    carry: Carry[torch.Tensor],
    out: Path,
    masks_out: Path | None = None,
    on_frame: Callable[[], object] = _nothing,
    stop: Callable[[], bool] = _never,
) -> Outcome:
    """Write a video with objects drawn over it, and their masks.

    Args:
        video: the source.
        carry: to masks ``(H, W)`` uint8, e.g. ``partial(propagate_mask, mask=..., ...)``.
        out: mp4 to write.
        masks_out: new folder for indexed PNGs, ``00000.png`` and so on.
        on_frame: called after each frame.
        stop: asked after each frame; true ends the work there, with the frames so far.

    Raises:
        InputError: of the source, of ``carry``, or files that cannot be written.
    """
    with ExitStack() as stack:
        folder = masks_out and stack.enter_context(atomic_folder(masks_out))

        def keep(index: int, mask: torch.Tensor) -> None:
            if folder:
                write_mask(folder / f"{index:05d}.png", mask)

        return _label(video, carry, overlay, keep, out, on_frame, stop)


def carry_keypoints(
    video: Video,
    carry: Carry[torch.Tensor],
    skeleton: Skeleton,
    out: Path,
    tracks_out: Path | None = None,
    on_frame: Callable[[], object] = _nothing,
    stop: Callable[[], bool] = _never,
) -> Outcome:
    """Write a video with joints drawn over it, and where they are on every frame.

    Args:
        carry: to joints ``(K, 2)``, NaN where one is not found.
        skeleton: their names and edges.
        tracks_out: JSON to write, as :mod:`corrlib.keypoint_files` describes.
        video, out, on_frame, stop: as in :func:`carry_mask`.
    """
    tracks: list[torch.Tensor] = []

    def draw(frame: torch.Tensor, joints: torch.Tensor) -> torch.Tensor:
        return draw_skeleton(frame, joints, joints.isfinite().all(dim=1), skeleton.edges)

    def keep(index: int, joints: torch.Tensor) -> None:
        if tracks_out is not None:
            tracks.append(joints)

    outcome = _label(video, carry, draw, keep, out, on_frame, stop)
    if tracks_out is not None:
        write_keypoints(tracks_out, torch.stack(tracks), skeleton)
    return outcome


def carry_points(
    video: Video,
    carry: Carry[PointEstimate],
    out: Path,
    tracks_out: Path | None = None,
    on_frame: Callable[[], object] = _nothing,
    stop: Callable[[], bool] = _never,
) -> Outcome:
    """Write a video with points drawn over it, coloured by confidence, hollow where hidden.

    Args:
        carry: e.g. ``partial(track_points, points=..., ...)``.
        tracks_out: JSON to write, as :mod:`corrlib.point_files` describes.
        video, out, on_frame, stop: as in :func:`carry_mask`.
    """
    tail: deque[torch.Tensor] = deque(maxlen=TAIL)
    estimates: list[PointEstimate] = []

    def draw(frame: torch.Tensor, found: PointEstimate) -> torch.Tensor:
        tail.append(found.position)
        return draw_tracks(frame, torch.stack(list(tail)), found.visible, found.confidence)

    def keep(index: int, found: PointEstimate) -> None:
        if tracks_out is not None:
            estimates.append(found)

    outcome = _label(video, carry, draw, keep, out, on_frame, stop)
    if tracks_out is not None:
        write_tracks(tracks_out, estimates)
    return outcome


def _label(
    video: Video,
    carry: Carry[Found],
    draw: Callable[[torch.Tensor, Found], torch.Tensor],
    keep: Callable[[int, Found], None],
    out: Path,
    on_frame: Callable[[], object],
    stop: Callable[[], bool],
) -> Outcome:
    started = time.perf_counter()
    waiting: list[tuple[Fraction, torch.Tensor]] = []  # decoded frames whose labels come next

    def frames() -> Iterator[torch.Tensor]:
        for second, frame in video.timed():
            waiting.append((second, frame))
            yield frame

    finished = True
    sound = video.path if video.path.is_file() else None
    with VideoWriter(out, video.info.fps, video.info.tick, sound) as writer:
        for index, found in enumerate(carry(frames())):
            second, frame = waiting.pop(0)
            writer.write(draw(frame, found), second)
            keep(index, found)
            on_frame()
            if stop():
                finished = False
                writer.stop_sound()
                break
    return Outcome(writer.frames, finished, time.perf_counter() - started, writer.sound_note)


def check_outputs(video: Video, outputs: Iterable[Path | None]) -> None:
    """Refuse an output that is the source itself, or two that are the same file."""
    used = {video.path.resolve()}
    for output in outputs:
        if output is None:
            continue
        if output.resolve() in used:
            raise InputError(
                f"expected a name of its own for each output, {output} is the video itself or "
                "another output; choose another"
            )
        used.add(output.resolve())
