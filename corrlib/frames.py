"""Training frames on disk: each video is decoded once and then read by memory map.

Decoding is the slow part of training on video. The first run writes every video as one plain
``.npy`` array, uint8 ``(T, 3, h, w)``, resized to one short side; later runs, and all workers,
read the frames they want straight from there.

Data sets come as they are, through :func:`corrlib.datasets.video_paths`:

- Kinetics: ``kinetics/CLASS/VIDEO.mp4``, a folder for each class of actions; give ``kinetics/``.
- OxUvA: ``oxuva/images/dev/VIDEO/000030.jpeg``, a folder of frames for each video; give
  ``oxuva/images/dev/``.
- DAVIS: its root; masks are left alone.

Any of their files may be broken. A training run does not end for it: what cannot be used is
counted, named and skipped.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.video import Video, frame_files, open_video, resize_short_side


class _Arrays(Sequence):
    """Opens an array when it is asked for.

    Thousands of maps held open would pass the limit on open files, and would be copied whole into
    worker processes that are not forked. Opening one takes about 0.1 ms.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.load(self.files[index], mmap_mode="r")


@dataclass(frozen=True)
class FrameCache:
    """Decoded training videos.

    ``videos[i]`` is a read-only memory map, uint8 ``(T, 3, h, w)`` with min(h, w) the short side
    and T at least 2 (``shapes[i]`` has the shape without opening it), of the video ``paths[i]``,
    named ``names[i]``. ``skipped`` lists the videos that could not be used, each with the reason.
    """

    files: tuple[Path, ...]
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, int, int, int], ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def videos(self) -> Sequence[np.ndarray]:
        return _Arrays(list(self.files))

    @property
    def frames(self) -> int:
        """Frames of all videos together."""
        return sum(shape[0] for shape in self.shapes)

    @classmethod
    def build(
        cls,
        paths: Iterable[str | Path],
        folder: str | Path,
        short_side: int = 256,
        fps: float | None = None,
        progress: bool = True,
        min_frames: int = 2,
    ) -> FrameCache:
        """Decode what is not in ``folder`` yet, and return all of ``paths`` that can be used.

        ``short_side`` in pixels. ``fps`` thins a video to the nearest rate that a whole step gives
        (every frame is kept where it is ``None`` or the video is slower). A file in the cache
        belongs to one path, size, time of change, short side and rate, and appears there only
        when it is complete, so a run that was interrupted goes on with the next video.

        A video that cannot be read and decoded to its end, or has fewer than ``min_frames`` (at
        least 2) after thinning, is skipped and named in ``skipped``. Raises ``InputError`` when
        none is left, or the disk is full.
        """
        if short_side < 1:
            raise InputError(f"the short side must be at least 1 pixel, got {short_side}")
        if fps is not None and not fps > 0:
            raise InputError(f"frames per second must be above 0, got {fps}")
        folder = Path(folder)
        paths = [Path(path) for path in paths]
        used: list[tuple[Path, Path, str, tuple[int, ...]]] = []
        skipped: list[tuple[str, str]] = []
        for path in tqdm(paths, desc="decoding", unit="video", disable=not progress):
            try:
                video, identity = _open(path, short_side, fps)
                file = folder / f"{identity}.npy"
                shape = _stored_shape(file) or _store(video, file, short_side, fps)
                if shape[0] < min_frames:
                    raise InputError(
                        f"{path} has {shape[0]} frames, clips of {min_frames} are to be cut"
                    )
            except InputError as error:
                skipped.append((str(path), str(error)))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise InputError(f"cannot write frames to {folder}: {error}") from error
                raise InputError(
                    f"the disk of {folder} is full after {len(used)} of {len(paths)} videos; "
                    "free space, or lower the short side or the frames per second"
                ) from error
            else:
                used.append((file, path, video.name, shape))
        if not used:
            reason = f"; the first: {skipped[0][1]}" if skipped else ""
            raise InputError(f"none of {len(paths)} training videos can be used{reason}")
        return cls(*map(tuple, zip(*used, strict=True)), tuple(skipped))


def _open(path: Path, short_side: int, fps: float | None) -> tuple[Video, str]:
    try:
        video = open_video(path)
        return video, _identity(video, short_side, fps)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _decoded(video: Video, step: int) -> Iterator[Tensor]:
    """The frames; that the source fails is told apart from that the cache's disk does."""
    try:
        yield from video.clip(step=step)
    except OSError as error:
        raise InputError(f"{video.path} cannot be read: {error}") from error


def _store(video: Video, file: Path, short_side: int, fps: float | None) -> tuple[int, ...]:
    """Decode ``video`` into ``file`` frame by frame; the length goes into the header at the end."""
    step = 1 if fps is None else max(1, round(float(video.info.fps) / fps))
    frames = 0
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        stream.write(_header((0,)))
        for frame in _decoded(video, step):
            small = resize_short_side(frame, short_side)
            stream.write(small.numpy().tobytes())
            frames += 1
        if frames < 2:
            raise InputError(f"{video.path} has {frames} frame(s), training needs at least 2")
        shape = (frames, *small.shape)
        stream.seek(0)
        stream.write(_header(shape))
    return shape


def _header(shape: tuple[int, ...]) -> bytes:
    """The first 128 bytes of a version 1.0 .npy file of bytes in C order."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("ascii")


def _stored_shape(file: Path) -> tuple[int, ...] | None:
    try:
        return np.load(file, mmap_mode="r").shape
    except (OSError, ValueError, EOFError):  # absent, or not as long as its header says
        return None


def _identity(video: Video, short_side: int, fps: float | None) -> str:
    """Changes when the video's files or the settings change."""
    path = video.path.resolve()
    files = frame_files(path) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    facts = (
        str(path),
        len(files),
        sum(stat.st_size for stat in stats),
        max(stat.st_mtime_ns for stat in stats),
        short_side,
        fps,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
