"""Small videos as phones make them: turned, at uneven times, with sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

TICK = Fraction(1, 600)  # what phones count in
RATE = 16000
UNEVEN = (0, 20, 41, 100, 120, 200)  # ticks


def moving_square(count: int = 6, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """``(T, H, W, 3)``: a bright square on a slope of grey, two pixels further on each frame."""
    height, width = size
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:] = np.linspace(20, 90, width).astype(np.uint8)[:, None]
    for index, frame in enumerate(frames):
        frame[10:30, 8 + 2 * index : 28 + 2 * index] = (220, 120, 40)
    return frames


def write_phone_video(
    path: Path,
    frames: np.ndarray,
    times: Sequence[int] = UNEVEN,
    *,
    rotation: int = 0,
    sound: str | None = None,
    start: Fraction = Fraction(0),
) -> Path:
    """``frames (T, H, W, 3)`` shown at ``times`` (ticks); ``sound`` is a codec that carries a tone
    half a second long; ``start`` delays both (seconds)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"bf": "0", "crf": "8"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p" if any(side % 2 for side in frames.shape[1:3]) else "yuv420p"
        stream.codec_context.time_base = TICK
        if rotation:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this version of av cannot write a rotation")
            stream.set_display_rotation(degrees=rotation)
        voice = sound and container.add_stream(sound, rate=RATE, layout="mono")
        for frame, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = time + round(start / TICK), TICK
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if voice:
            tone = np.sin(np.arange(RATE // 2) * (2 * np.pi * 440 / RATE)) * 8000
            samples = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], "s16", "mono")
            samples.sample_rate, samples.time_base = RATE, Fraction(1, RATE)
            samples.pts = round(start * RATE)
            container.mux(voice.encode(samples))
            container.mux(voice.encode())
    return path


def shown_at(path: Path) -> list[Fraction]:
    """The second of each frame."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def heard(path: Path) -> tuple[float, np.ndarray]:
    """The second at which the sound begins, and its samples."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray().astype(float).mean(0) for frame in frames])
    return float(frames[0].pts * frames[0].time_base), samples
