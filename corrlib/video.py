"""Reading and writing video, one frame at a time.

A frame is a uint8 RGB tensor ``(3, H, W)`` on the CPU, a video ``(T, 3, H, W)``. Nothing here holds
more than a few frames, except ``read_video``, whose purpose that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.stream import Disposition
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.sound import Sound, origin

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".gif"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
FOLDER_FPS = Fraction(24)  # images carry no time; this is the rate DAVIS was made at
MAX_FRAME_PIXELS = 100_000_000
MAX_CLIP_BYTES = 4 * 2**30


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is decoded.

    ``height`` and ``width`` in pixels, after rotation; ``fps`` in frames per second (the average
    where the rate varies; ``FOLDER_FPS`` for a folder of images); ``frames`` as the container
    states it, ``None`` where it does not; ``tick`` the seconds in whose multiples time stamps are
    counted; ``seconds`` that the file lasts, ``None`` where it is not stated.
    """

    height: int
    width: int
    fps: Fraction
    frames: int | None
    tick: Fraction
    seconds: float | None

    @property
    def expected_frames(self) -> int | None:
        """The stated number of frames, else the one that length and rate amount to, if stated."""
        if self.frames is not None or self.seconds is None:
            return self.frames
        return max(1, round(self.seconds * self.fps))


class Video:
    """A video that can be iterated over any number of times, decoding as it goes.

    Made by ``open_video``. Iterating yields uint8 frames ``(3, H, W)``, all of the size that
    ``info`` states; an ``InputError`` says at which frame a video turns out to be broken, after
    the frames before it have been yielded.
    """

    path: Path
    name: str
    info: VideoInfo

    def clip(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Tensor]:
        """The frames ``start, start + step, ...`` before ``stop``, as a slice counts them."""
        raise NotImplementedError

    def timed(self) -> Iterator[tuple[Fraction, Tensor]]:
        """Every frame after the second at which it is shown, counted from the file's start.

        The seconds increase from frame to frame, whatever the file says.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[Tensor]:
        return self.clip()

    def __repr__(self) -> str:
        i = self.info
        length = "an unstated number of" if i.frames is None else i.frames
        return f"<Video {self.name}: {length} frames, {i.width}x{i.height}, {float(i.fps):g} fps>"


def open_video(path: str | Path) -> Video:
    """Open a video file, or a folder of jpg or png frames in natural order of their names.

    Only the first frame is decoded. Raises ``InputError`` for a missing path, a folder without
    frames, and a file that is not a video or has no frame that can be decoded.
    """
    path = Path(path)
    if path.is_dir():
        return _FolderVideo(path)
    if not path.exists():
        raise InputError(f"expected a video file or a folder of frames, found nothing at {path}")
    return _FileVideo(path)


def read_video(
    path: str | Path,
    start: int = 0,
    stop: int | None = None,
    step: int = 1,
    short_side: int | None = None,
) -> Tensor:
    """Read the frames ``start:stop:step`` into memory as uint8 ``(T, 3, H, W)``.

    ``short_side`` (pixels) resizes each frame as it comes. Raises ``InputError`` where
    ``open_video`` does, when no frame is in the range, and when the result would pass
    ``MAX_CLIP_BYTES``.
    """
    frames: list[Tensor] = []
    total = 0
    for frame in open_video(path).clip(start, stop, step):
        if short_side is not None:
            frame = resize_short_side(frame, short_side)
        total += frame.numel()
        if total > MAX_CLIP_BYTES:
            raise InputError(
                f"{path} does not fit into {MAX_CLIP_BYTES / 2**30:g} GiB; "
                "read part of it (stop, step), make it smaller (short_side), or stream open_video"
            )
        frames.append(frame)
    if not frames:
        raise InputError(f"{path} has no frame in the range {start}:{stop}:{step}")
    return torch.stack(frames)


def resize_short_side(frames: Tensor, size: int) -> Tensor:
    """Resize uint8 ``(..., 3, H, W)`` so that the shorter side has ``size`` pixels, antialiased.

    The longer side keeps the aspect ratio, rounded to whole pixels.
    """
    if size < 1:
        raise InputError(f"the short side must be at least 1 pixel, got {size}")
    height, width = frames.shape[-2:]
    short = min(height, width)
    if short == size:
        return frames
    target = (round(height * size / short), round(width * size / short))
    batch = frames.reshape(-1, *frames.shape[-3:])
    resized = F.interpolate(batch, target, mode="bilinear", antialias=True, align_corners=False)
    return resized.reshape(*frames.shape[:-2], *target)


class VideoWriter:
    """Write frames to an h264 mp4 that a browser plays.

    Use it as a context manager. The file appears under its name when the block ends well; after an
    exception, Ctrl-C included, nothing is left. yuv420p needs even sides, so an odd side is padded
    by repeating its last row or column.

        with VideoWriter("out.mp4", fps=24) as writer:
            writer.write(frame)  # uint8 (3, H, W)

    ``tick`` (seconds) lets frames come at seconds of their own, in multiples of it. ``sound`` is a
    video file whose sound is taken along, by :class:`corrlib.sound.Sound`; ``sound_note`` says
    afterwards how.

    Raises ``InputError`` for a name that does not end in .mp4 or cannot be written, a rate outside
    (0, 1000], frames that differ in size or come before the one before, and no frame at all.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float,
        tick: Fraction | None = None,
        sound: Path | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise InputError(f"video is written as .mp4, got {self.path}; end the name in .mp4")
        if self.path.is_dir():
            raise InputError(f"expected a file name for the video, {self.path} is a folder")
        if not 0 < fps <= 1000:
            raise InputError(f"frames per second must lie in (0, 1000], got {fps}")
        self.fps = Fraction(fps).limit_denominator(1001)
        self.tick = 1 / self.fps if tick is None else tick
        self.frames = 0
        self.sound_note: str | None = None
        self._sound_source = sound
        self._sound: Sound | None = None
        self._last = -1  # the time stamp of the latest frame, in ticks
        self._whole_sound = True
        self._size: tuple[int, int] | None = None
        self._container: av.container.OutputContainer | None = None
        self._stack = ExitStack()

    def __enter__(self) -> VideoWriter:
        try:
            self._temporary = self._stack.enter_context(atomic_path(self.path))
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {_reason(error)}") from error
        self._stack.push(self._finish)  # runs first; what it raises removes the temporary file
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.__exit__(*exception)

    def stop_sound(self) -> None:
        """End the sound with the latest frame; otherwise all there is of it is written."""
        self._whole_sound = False

    def write(self, frame: Tensor, second: Fraction | None = None) -> None:
        """Append one uint8 frame ``(3, H, W)``, shown from ``second`` on, else at the next tick."""
        if frame.dtype != torch.uint8 or frame.dim() != 3 or frame.shape[0] != 3:
            raise InputError(
                f"expected a uint8 frame (3, H, W), got {frame.dtype} {tuple(frame.shape)}"
            )
        size = (frame.shape[1], frame.shape[2])
        if self._container is None:
            self._start(size)
        elif size != self._size:
            raise InputError(
                f"frame {self.frames} of {self.path} is {size[1]}x{size[0]}, "
                f"the first was {self._size[1]}x{self._size[0]}"
            )
        time = self._last + 1 if second is None else round(second / self.tick)
        if time <= self._last:
            raise InputError(
                f"frame {self.frames} of {self.path} is to be shown at {float(second):g} s, not "
                "after the frame before it"
            )
        self._last = time
        if self._sound is not None:
            self._sound.advance(time * self.tick)
        rgb = frame.cpu().permute(1, 2, 0).numpy()
        if size[0] % 2 or size[1] % 2:
            rgb = np.pad(rgb, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        picture.pts, picture.time_base = time, self.tick
        with self._readable_errors():
            self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def _start(self, size: tuple[int, int]) -> None:
        self._size = size
        self._container = av.open(
            str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"}
        )
        # No B-frames: with them, frames at uneven times make the mp4 misstate its length. The
        # preset looks few frames ahead, which in 4K saves half a gigabyte.
        options = {"crf": "18", "preset": "veryfast", "bf": "0"}
        self._stream = self._container.add_stream("libx264", rate=self.fps, options=options)
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = self.tick
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = 1  # limited, as players expect
        if self._sound_source is not None:
            self._sound = Sound(self._sound_source, self._container)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._sound is not None:
            self._stack.callback(self._sound.close)
        if kind is not None:
            if self._container is not None:
                with suppress(Exception):  # the first exception is the one to report
                    self._container.close()
        elif self._container is None:
            raise InputError(f"no frame was written to {self.path}: a video needs at least one")
        else:
            with self._readable_errors(), self._container:
                self._container.mux(self._stream.encode())
                if self._sound is not None:
                    end = self._last * self.tick + 1 / self.fps
                    self._sound.advance(None if self._whole_sound else end)
                    self.sound_note = self._sound.note

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # a full disk, say; errors of av are OSErrors where the system's
            raise InputError(f"cannot write {self.path}: {_reason(error)}") from error


class _FileVideo(Video):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        with _open_stream(path) as (container, stream):
            first = next(_decode(path, container, stream), None)
            if first is None:
                raise InputError(f"{path} has no frame that can be decoded")
            self._turn = _Turn.of(first)
            height, width = _to_tensor(first, self._turn).shape[1:]
            seconds = container.duration and container.duration / av.time_base
            self.info = VideoInfo(
                height,
                width,
                _frame_rate(stream),
                stream.frames or None,
                stream.time_base,
                seconds if seconds and seconds > 0 else None,
            )

    def clip(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Tensor]:
        _check_range(start, stop, step)
        with _open_stream(self.path) as (container, stream):
            decoded = _decode(self.path, container, stream)
            for index, picture in enumerate(islice(decoded, stop)):
                if index < start or (index - start) % step:
                    continue
                frame = _to_tensor(picture, self._turn)
                _check_size(self.info, frame.shape[1:], f"frame {index} of {self.path}")
                yield frame

    def timed(self) -> Iterator[tuple[Fraction, Tensor]]:
        with _open_stream(self.path) as (container, stream):
            tick = self.info.tick
            start, last = round(origin(container) / tick) * tick, None
            for index, picture in enumerate(_decode(self.path, container, stream)):
                frame = _to_tensor(picture, self._turn)
                _check_size(self.info, frame.shape[1:], f"frame {index} of {self.path}")
                if picture.pts is not None:
                    second = max(picture.pts * picture.time_base - start, Fraction(0))
                elif last is None:
                    second = Fraction(0)
                else:
                    second = last + round(1 / self.info.fps / tick) * tick
                last = second if last is None else max(second, last + tick)
                yield last, frame


class _FolderVideo(Video):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name
        self.files = frame_files(path)
        if not self.files:
            raise InputError(f"expected a folder of jpg or png frames, found none in {path}")
        kinds = {".jpg" if f.suffix.lower() == ".jpeg" else f.suffix.lower() for f in self.files}
        if len(kinds) > 1:
            count = sum(f.suffix.lower() == ".png" for f in self.files)
            raise InputError(
                f"expected frames of one kind, found {len(self.files) - count} jpg and {count} png "
                f"in {path}; keep masks and other pictures in another folder"
            )
        height, width = _read_image(self.files[0]).shape[1:]
        count = len(self.files)
        self.info = VideoInfo(
            height, width, FOLDER_FPS, count, 1 / FOLDER_FPS, float(count / FOLDER_FPS)
        )

    def clip(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Tensor]:
        _check_range(start, stop, step)
        for file in islice(self.files, start, stop, step):
            frame = _read_image(file)
            _check_size(self.info, frame.shape[1:], str(file))
            yield frame

    def timed(self) -> Iterator[tuple[Fraction, Tensor]]:
        for index, frame in enumerate(self):
            yield index / FOLDER_FPS, frame


def natural_key(path: Path | str) -> tuple:
    """Sort key that puts ``frame2`` before ``frame10``."""
    text = str(path)
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], text


def frame_files(folder: Path) -> list[Path]:
    """The jpg and png files right in ``folder``, in natural order; hidden files are passed over."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({_reason(error)})") from error
    files = [
        entry
        for entry in entries
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
    ]
    return sorted(files, key=lambda file: natural_key(file.name))


@contextmanager
def _open_stream(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a video ({_reason(error)}); "
            "expected a video file or a folder of frames"
        ) from error
    with container:
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover picture of a song
        ]
        if not streams:
            raise InputError(f"{path} has no video stream")
        stream = streams[0]
        _check_pixels(stream.codec_context.width, stream.codec_context.height, path)
        stream.thread_type = "AUTO"
        yield container, stream


def _decode(path: Path, container, stream) -> Iterator[av.VideoFrame]:
    """Decoded pictures; on damage the ones still in the decoder come first, then InputError."""
    done = 0
    reason = None
    packets = container.demux(stream)
    while reason is None:
        pictures: list[av.VideoFrame] = []
        try:
            packet = next(packets, None)
            if packet is None:
                return
            if packet.is_corrupt:
                reason = "the data is damaged or cut off"
            else:
                pictures = packet.decode()
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = _reason(error)
        if reason is not None:
            with suppress(av.FFmpegError, OSError, ValueError):
                pictures = stream.decode(None)
        for picture in pictures:
            if picture.is_corrupt:
                reason = "the data is damaged or cut off"
                break
            yield picture
            done += 1
    raise InputError(f"{path} is broken at frame {done}: {reason}")


@dataclass(frozen=True)
class _Turn:
    """How a stored picture is shown: sides swapped, then these dimensions of (3, H, W) flipped."""

    swapped: bool = False
    flipped: tuple[int, ...] = ()

    @staticmethod
    def of(picture: av.VideoFrame) -> _Turn:
        """As the picture's display matrix asks; the one of a stream's first picture holds for all.

        (Asking each picture would keep it, for its side data refers back to it, until Python looks
        for cycles, which is hundreds of frames later.)
        """
        data = picture.side_data.get("DISPLAYMATRIX")
        if data is None:
            return _Turn()
        # A pixel at (x, y) is shown at (a x + c y, b x + d y), up to a translation.
        a, b, _, c, d = np.frombuffer(data, np.int32)[:5].astype(int)
        swapped = abs(b) > abs(a)
        down, right = (b, c) if swapped else (d, a)
        return _Turn(bool(swapped), tuple(dim for dim, sign in ((1, down), (2, right)) if sign < 0))


def _to_tensor(picture: av.VideoFrame, turn: _Turn) -> Tensor:
    """RGB ``(3, H, W)`` as it is shown."""
    _check_pixels(picture.width, picture.height, "a frame")
    frame = torch.from_numpy(picture.to_ndarray(format="rgb24")).permute(2, 0, 1)
    if turn.swapped:
        frame = frame.transpose(1, 2)
    if turn.flipped:
        frame = frame.flip(turn.flipped)
    return frame.contiguous()


def _frame_rate(stream: av.VideoStream) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and 0 < rate <= 1000:
            return Fraction(rate)
    return FOLDER_FPS


def _read_image(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            _check_pixels(*image.size, path)
            if image.mode.startswith(("I", "F")):
                raise InputError(f"expected 8-bit frames, {path} has mode {image.mode}")
            rgb = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({_reason(error)})") from error
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _check_pixels(width: int, height: int, what: object) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise InputError(
            f"{what} has {width}x{height} pixels, more than the {MAX_FRAME_PIXELS // 10**6} "
            "megapixels that are read; make it smaller first"
        )


def _check_size(info: VideoInfo, size: tuple[int, int], what: str) -> None:
    if tuple(size) != (info.height, info.width):
        raise InputError(
            f"{what} is {size[1]}x{size[0]}, the first frame is {info.width}x{info.height}; "
            "all frames must have one size"
        )


def _check_range(start: int, stop: int | None, step: int) -> None:
    if start < 0 or step < 1 or (stop is not None and stop < 0):
        raise InputError(
            f"expected start >= 0, stop >= 0 and step >= 1, got {start}, {stop}, {step}"
        )


def _reason(error: Exception) -> str:
    """The system's own words without the path, which the message already has."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
