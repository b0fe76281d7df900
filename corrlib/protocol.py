"""What the evaluations on JHMDB and VIP share: a fixed frame size, and results per clip.

Both are published on frames squeezed to a square, 320x320 and 560x560 pixels. Frames and masks are
resized to that first, and what is found there is put back to the frame's own size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F

from corrlib.errors import InputError
from corrlib.files import atomic_path
from corrlib.propagation import FeatureExtractor, PropagationConfig, encoded_size

Size = tuple[int, int]
"""Height and width in pixels."""

Result = TypeVar("Result")


def resized(frames: Iterable[torch.Tensor], size: Size) -> Iterator[torch.Tensor]:
    """Frames ``(3, H, W)`` uint8 at exactly ``size``, antialiased."""
    for frame in frames:
        if tuple(frame.shape[1:]) != size:
            frame = F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
        yield frame


def resized_mask(mask: torch.Tensor, size: Size) -> torch.Tensor:
    """A mask ``(H, W)`` at exactly ``size``: the label of the nearest pixel."""
    if tuple(mask.shape) == size:
        return mask
    return F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]


def fixed(
    config: PropagationConfig, whole: Size, size: Size | None
) -> tuple[Size, PropagationConfig]:
    """The size at which frames of ``whole`` are encoded, and a configuration that leaves frames
    of that size as they are. ``size`` None is what ``config`` says."""
    encoded = size or encoded_size(whole, config)
    return encoded, replace(config, short_side=min(encoded))


def settings_of(extractor: FeatureExtractor, config: PropagationConfig, **more: object) -> dict:
    """What a result depends on besides its clip, as JSON has it."""
    return json.loads(
        json.dumps({"features": extractor.name, **asdict(config), **more}, default=str)
    )


class Results:
    """One JSON file per clip in a folder, written whole when the clip is done.

    Args:
        folder: ``None`` keeps nothing.
        resume: read the clips that are there; otherwise they are an error.
        settings: from :func:`settings_of`; results of other settings are not read.
    """

    def __init__(self, folder: str | Path | None, resume: bool, settings: dict):
        if resume and folder is None:
            raise InputError("to resume an evaluation, say in which folder its results are")
        self.folder = None if folder is None else Path(folder)
        self.resume, self.settings = resume, settings

    def read(self, name: str, parse: Callable[[dict], Result]) -> Result | None:
        """The result of a clip, ``None`` where there is none yet.

        Args:
            parse: what was written -> the result; it raises KeyError, TypeError or ValueError
                where it finds something else.

        Raises:
            InputError: one is there without ``resume``, is damaged, or has other settings.
        """
        path = self.folder / f"{name}.json" if self.folder is not None else None
        if path is None or not path.exists():
            return None
        if not self.resume:
            raise InputError(
                f"{path} exists already; continue with --resume or choose another folder"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            settings, result = dict(content["settings"]), parse(content["result"])
        except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
            raise InputError(
                f"expected the result of a clip in {path}, it cannot be read; delete it and "
                "resume again"
            ) from error
        if settings != self.settings:
            differ = sorted(
                key
                for key in {*self.settings, *settings}
                if settings.get(key) != self.settings.get(key)
            )
            raise InputError(
                f"{path} was made with another {' and '.join(differ)}; resume with the same "
                "settings or choose another folder"
            )
        return result

    def write(self, name: str, result: dict) -> None:
        """Keep the result of a clip."""
        if self.folder is not None:
            with atomic_path(self.folder / f"{name}.json") as temporary:
                temporary.write_text(
                    json.dumps({"settings": self.settings, "result": result}), encoding="utf-8"
                )
