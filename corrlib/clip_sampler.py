"""Training clips drawn at random from decoded frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from corrlib.errors import InputError
from corrlib.frames import FrameCache


@dataclass(frozen=True)
class ClipConfig:
    """How clips are cut out of videos.

    Attributes:
        length: frames in a clip.
        gap: smallest and largest distance between neighbouring frames of a clip, in decoded
            frames; each clip draws one.
        fps: rate that videos are thinned to as they are decoded, frames per second; ``None`` keeps
            every frame. A folder of frames counts as 24 fps.
        size: side of the square result, in pixels.
        crop: smallest share of the short side that is cropped before resizing to ``size``.
        flip: probability of mirroring a clip left to right.
    """

    length: int = 2
    gap: tuple[int, int] = (4, 4)
    fps: float | None = None
    size: int = 256
    crop: float = 1.0
    flip: float = 0.0


class ClipSampler:
    """Draws clips; every frame of the data set is equally likely to be the first.

    A video too short for the gap that was drawn uses the largest that fits.
    """

    def __init__(self, cache: FrameCache, config: ClipConfig):
        lengths = torch.tensor([shape[0] for shape in cache.shapes])
        long_enough = lengths >= config.length
        if not long_enough.any():
            raise InputError(
                f"expected videos of at least {config.length} frames, the longest has "
                f"{lengths.max()}"
            )
        self.cache = cache
        self.config = config
        self.weights = (lengths * long_enough).double()

    def __call__(
        self, batch: int, generator: torch.Generator, keep: slice = slice(None)
    ) -> torch.Tensor:
        """Clips ``(batch, length, 3, size, size)`` uint8.

        ``keep`` reads only these of them, the same as if all had been read.
        """
        chosen = torch.multinomial(self.weights, batch, replacement=True, generator=generator)
        cuts = [self._cut(index, generator) for index in chosen.tolist()]
        return torch.stack([self._read(cut) for cut in cuts[keep]])

    def _cut(self, index: int, generator: torch.Generator) -> _Cut:
        def integer(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        config = self.config
        frames, _, height, width = self.cache.shapes[index]
        steps = config.length - 1
        gap = min(integer(*config.gap), (frames - 1) // steps if steps else 1)
        start = integer(0, frames - 1 - gap * steps)
        scale = config.crop + (1 - config.crop) * float(torch.rand((), generator=generator))
        side = max(1, round(scale * min(height, width)))
        top, left = integer(0, height - side), integer(0, width - side)
        mirrored = float(torch.rand((), generator=generator)) < config.flip
        return _Cut(
            index,
            slice(start, start + gap * steps + 1, gap),
            slice(top, top + side),
            slice(left, left + side),
            mirrored,
        )

    def _read(self, cut: _Cut) -> torch.Tensor:
        size = self.config.size
        clip = self.cache.videos[cut.video][cut.frames, :, cut.rows, cut.columns]
        clip = torch.from_numpy(clip.copy())
        if clip.shape[-1] != size:
            clip = F.interpolate(clip, (size, size), mode="bilinear", antialias=True)
        return clip.flip(-1) if cut.mirrored else clip


class _Cut(NamedTuple):
    """Where a clip is cut out."""

    video: int
    frames: slice
    rows: slice
    columns: slice
    mirrored: bool
